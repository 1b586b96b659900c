/*
 * Pictures: many readers, one download, a disk cache.
 *
 * A picture is in the table while somebody has it open or it is being fetched:
 *
 *	state		what holds					leaves by
 *	absent		no descriptor					a reader's wait → fetching
 *	fetching	temporary file, `have` bytes are in it		all bytes, checked → here;
 *									trouble → absent, waiters told
 *	here		the finished file				eviction after the last close
 *
 * The engine's thread alone starts downloads and writes. Readers come from any thread: they look at
 * `have` and take the descriptor under `lock`, or leave a waiter, which is called when its bytes are
 * here. A descriptor stays open until the picture leaves the table, so a reader may use it until its
 * picture_close(). Lock order: the catalogue may be called with `lock` not held only.
 */
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "catalogue/generation.h"
#include "engine/cache.h"
#include "engine/internal.h"
#include <errno.h>
#include <search.h>
#include <sodium.h>
#include <stdio.h>

enum { TRIES_FRESH_URL = 1, VERIFY_CHUNK = 256 * 1024 };

enum picture_state { PICTURE_ABSENT, PICTURE_FETCHING, PICTURE_HERE };

struct waiter {
	struct list link;
	int64_t end; /* wants [.., end) */
	picture_ready_fn *fn;
	void *arg;
};

struct picture {
	struct engine *e;
	int64_t image;	 /* the table's key */
	int64_t size;	 /* bytes; -1 while it is being measured */
	enum picture_type type;
	int refs;	 /* under lock, as all below */
	enum picture_state state;
	bool wanted;	 /* a fetch has been posted */
	int fd;
	int64_t have;
	struct list waiters;

	/* The download (thread). */
	struct net_call *call;
	crypto_hash_sha256_state sha;
	unsigned char head[64];
	size_t head_len;
	int fresh_urls;	 /* asked for */
	const char *trouble; /* why our own side ended the download */
	void (*measured)(void *arg, const struct picture_measured *m);
	void *measured_arg;
};

struct pictures {
	struct cache *cache;
	pthread_mutex_t lock; /* leaf */
	void *table;	      /* tsearch(3), by image */
};

static void fetch(struct engine *e, int64_t id, void *arg);

/* ---- the table ---- */

static int compare(const void *a, const void *b)
{
	const int64_t x = ((const struct picture *)a)->image;
	const int64_t y = ((const struct picture *)b)->image;

	return x < y ? -1 : x > y;
}

/* Under lock. */
static struct picture *table_find(struct pictures *ps, int64_t image)
{
	const struct picture key = {.image = image};
	struct picture *const *found = tfind(&key, &ps->table, compare);

	return found ? *found : NULL;
}

/* Under lock. A reference for the caller. */
static struct picture *table_get(struct engine *e, int64_t image, int64_t size,
	enum picture_type type)
{
	struct pictures *ps = e->pictures;
	struct picture *p = table_find(ps, image);

	if (!p) {
		p = xcalloc(1, sizeof *p);
		*p = (struct picture){
			.e = e, .image = image, .size = size, .type = type, .fd = -1};
		list_init(&p->waiters);
		p->fd = size >= 0 ? cache_find(ps->cache, image, size) : -1;
		if (p->fd >= 0) {
			p->state = PICTURE_HERE;
			p->have = size;
		}
		tsearch(p, &ps->table, compare);
	}
	p->refs++;
	return p;
}

static void picture_unref(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	pthread_mutex_lock(&ps->lock);
	const bool last = --p->refs == 0;
	if (last)
		tdelete(p, &ps->table, compare);
	pthread_mutex_unlock(&ps->lock);
	if (!last)
		return;
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

/* ---- readers (any thread) ---- */

int picture_open(struct engine *e, int64_t image, struct picture **out)
{
	struct image i;
	int rc = image_get(e->cat, image, &i);

	if (rc < 0)
		return rc;
	if (i.size < 0 || i.removed) {
		rc = -ENOENT;
	} else {
		pthread_mutex_lock(&e->pictures->lock);
		*out = table_get(e, image, i.size, i.type);
		pthread_mutex_unlock(&e->pictures->lock);
	}
	image_release(&i);
	return rc;
}

void picture_close(struct picture *p)
{
	bool here;

	pthread_mutex_lock(&p->e->pictures->lock);
	here = p->state == PICTURE_HERE;
	pthread_mutex_unlock(&p->e->pictures->lock);
	if (here)
		cache_touch(p->fd);
	picture_unref(p);
}

/* Under lock. */
static bool is_here(const struct picture *p, int64_t end)
{
	if (end > p->size && p->size >= 0)
		end = p->size;
	return p->fd >= 0 && p->state != PICTURE_ABSENT &&
		(p->state == PICTURE_HERE || p->have >= end);
}

int picture_fd(struct picture *p, int64_t offset, size_t len, bool *complete)
{
	int fd = -EAGAIN;

	pthread_mutex_lock(&p->e->pictures->lock);
	if (is_here(p, offset + (int64_t)len))
		fd = p->fd;
	if (complete)
		*complete = p->state == PICTURE_HERE;
	pthread_mutex_unlock(&p->e->pictures->lock);
	return fd;
}

void picture_wait(struct picture *p, int64_t offset, size_t len, picture_ready_fn *fn, void *arg)
{
	const int64_t end = offset + (int64_t)len;
	bool post = false;
	int fd = -1;

	pthread_mutex_lock(&p->e->pictures->lock);
	if (is_here(p, end)) {
		fd = p->fd;
	} else {
		struct waiter *w = xcalloc(1, sizeof *w);

		*w = (struct waiter){.end = end, .fn = fn, .arg = arg};
		list_append(&p->waiters, &w->link);
		post = p->state == PICTURE_ABSENT && !p->wanted;
		if (post) {
			p->wanted = true;
			p->refs++; /* the download's */
		}
	}
	pthread_mutex_unlock(&p->e->pictures->lock);
	if (fd >= 0)
		fn(arg, fd);
	else if (post)
		engine_post(p->e, fetch, 0, p);
}

/* Calls the waiters whose bytes are here; with error < 0 all of them. */
static void wake(struct picture *p, int error)
{
	struct list ready = LIST_INIT(ready);
	struct pictures *ps = p->e->pictures;

	pthread_mutex_lock(&ps->lock);
	list_for_each_safe (pos, next, &p->waiters) {
		if (error < 0 || is_here(p, CONTAINER_OF(pos, struct waiter, link)->end)) {
			list_remove(pos);
			list_append(&ready, pos);
		}
	}
	const int fd = p->fd;
	pthread_mutex_unlock(&ps->lock);

	list_for_each_safe (pos, next, &ready) {
		struct waiter *w = CONTAINER_OF(pos, struct waiter, link);

		list_remove(pos);
		w->fn(w->arg, error < 0 ? error : fd);
		free(w);
	}
}

/* ---- the download (thread) ---- */

static void log_trouble(struct picture *p, const char *why)
{
	struct image i;

	if (image_get(p->e->cat, p->image, &i) < 0)
		return;
	CLEANUP_FREE char *line =
		xasprintf("picture %d was not downloaded: %s", i.number, why);
	log_add(p->e->cat, 0, i.generation, line);
	engine_tell(p->e, CHANGE_GENERATION, 0, 0, i.generation, 0);
	image_release(&i);
}

static void tell_measured(struct picture *p, int64_t size, const char *why)
{
	void (*fn)(void *arg, const struct picture_measured *m) = p->measured;
	struct picture_measured m = {.size = size, .message = why};

	if (!fn)
		return;
	p->measured = NULL;
	m.info = picture_probe(p->head, p->head_len);
	if (size >= 0 && p->fd >= 0) {
		char *head = xmalloc(PICTURE_HEAD_BYTES);
		const ssize_t n = files_pread_full(p->fd, head, PICTURE_HEAD_BYTES, 0);
		if (n > 0)
			m.info = picture_probe(head, (size_t)n);
		free(head);
	}
	fn(p->measured_arg, &m);
}

static void fetch_failed(struct picture *p, int error, const char *why)
{
	struct pictures *ps = p->e->pictures;

	log_trouble(p, why);
	pthread_mutex_lock(&ps->lock);
	const int fd = p->fd;
	p->fd = -1;
	p->state = PICTURE_ABSENT;
	p->wanted = false;
	p->have = 0;
	pthread_mutex_unlock(&ps->lock);
	wake(p, error);
	if (fd >= 0) {
		cache_abandon(ps->cache, p->image);
		close(fd);
	}
	tell_measured(p, -1, why);
	picture_unref(p);
}

static void keep_hash(struct picture *p)
{
	struct image i;

	if (image_get(p->e->cat, p->image, &i) < 0)
		return;
	crypto_hash_sha256_final(&p->sha, i.sha256);
	i.have_sha256 = true;
	image_put(p->e->cat, &i);
	image_release(&i);
}

static bool is_open(void *arg, int64_t image)
{
	struct pictures *ps = arg;

	pthread_mutex_lock(&ps->lock);
	const bool open = table_find(ps, image) != NULL;
	pthread_mutex_unlock(&ps->lock);
	return open;
}

static void fetch_finished(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	/* Readers first: what they wait for is checked and here, whether the disk keeps it or not. */
	pthread_mutex_lock(&ps->lock);
	p->state = PICTURE_HERE;
	p->size = p->have;
	p->wanted = false;
	pthread_mutex_unlock(&ps->lock);
	wake(p, 0);
	keep_hash(p);
	const int rc = cache_finish(ps->cache, p->image, p->fd);
	if (rc < 0) {
		log_warning("a picture cannot be kept in the cache: %s", strerror(-rc));
		cache_abandon(ps->cache, p->image);
	}
	cache_trim(ps->cache, is_open, ps);
	tell_measured(p, p->size, NULL);
	picture_unref(p);
}

static bool end_with(struct picture *p, const char *why)
{
	p->trouble = why;
	return false;
}

static bool fetch_data(void *arg, const void *bytes, size_t len, int64_t total)
{
	struct picture *p = arg;

	if (p->size >= 0 && total >= 0 && total != p->size)
		return end_with(p, "the server announces another size than before");
	if (p->size >= 0 && p->have + (int64_t)len > p->size)
		return end_with(p, "the server sends more than the picture's size");
	if (p->head_len < sizeof p->head) {
		const size_t room = sizeof p->head - p->head_len;
		memcpy(p->head + p->head_len, bytes, len < room ? len : room);
		p->head_len += len < room ? len : room;
	}
	const int rc = files_pwrite_all(p->fd, bytes, len, p->have);
	if (rc < 0)
		return end_with(p, rc == -ENOSPC ? "the disk of the cache is full"
						 : "the cache cannot be written");
	crypto_hash_sha256_update(&p->sha, bytes, len);

	/* The type is known from the first bytes: nothing of a wrong one reaches a reader. */
	if (p->type != PICTURE_UNKNOWN && p->head_len >= 16 &&
		picture_probe(p->head, p->head_len).type != p->type)
		return end_with(p, "what the server sends is another type than before");

	pthread_mutex_lock(&p->e->pictures->lock);
	/* The last byte is given only with the check of the whole. */
	p->have += (int64_t)len;
	pthread_mutex_unlock(&p->e->pictures->lock);
	if (p->size < 0 || p->have < p->size)
		wake(p, 0);
	return true;
}

static void fetch_start(struct picture *p);

static void fetch_renewed(void *arg, bool ok)
{
	struct picture *p = arg;

	if (ok)
		fetch_start(p);
	else
		fetch_failed(p, -EIO, "its address has expired, and the hub gave no new one");
}

static void fetch_done(void *arg, const struct net_picture_reply *reply)
{
	struct picture *p = arg;
	struct image i;

	p->call = NULL;
	if (reply->expired && p->fresh_urls < TRIES_FRESH_URL && p->have == 0 &&
		image_get(p->e->cat, p->image, &i) == 0) {
		p->fresh_urls++;
		follow_renew(p->e, i.generation, fetch_renewed, p);
		image_release(&i);
		return;
	}
	if (p->trouble)
		fetch_failed(p, -EIO, p->trouble);
	else if (reply->outcome == OUTCOME_CUT || (reply->outcome == OUTCOME_OK && p->size >= 0 &&
							  p->have < p->size))
		fetch_failed(p, -EIO, "the download ended early");
	else if (reply->outcome != OUTCOME_OK)
		fetch_failed(p, -outcome_fact(reply->outcome)->err, reply->message);
	else if (picture_probe(p->head, p->head_len).type == PICTURE_UNKNOWN)
		fetch_failed(p, -EIO, "what the server gave is not a PNG, JPEG or WebP picture");
	else
		fetch_finished(p);
}

static void fetch_start(struct picture *p)
{
	struct image i;

	if (image_get(p->e->cat, p->image, &i) < 0 || !i.url) {
		image_release(&i);
		fetch_failed(p, -ENOENT, "the hub gave no address for it");
		return;
	}
	crypto_hash_sha256_init(&p->sha);
	p->head_len = 0;
	p->trouble = NULL;
	p->call = net_get_picture(p->e->net, i.url, 0, 0, fetch_data, fetch_done, p);
	image_release(&i);
}

/* arg: the picture, with a reference for the download. */
static void fetch(struct engine *e, int64_t id, void *arg)
{
	struct picture *p = arg;
	const int fd = cache_begin(e->pictures->cache, p->image);

	(void)id;
	pthread_mutex_lock(&e->pictures->lock);
	p->fd = fd;
	p->state = fd < 0 ? PICTURE_ABSENT : PICTURE_FETCHING;
	p->have = 0;
	pthread_mutex_unlock(&e->pictures->lock);
	p->fresh_urls = 0;
	if (fd < 0)
		fetch_failed(p, fd, fd == -ENOSPC ? "the disk of the cache is full"
						  : "the cache cannot be written");
	else
		fetch_start(p);
}

/* Under lock: whether a fetch must be begun; takes the download's reference. */
static bool claim(struct picture *p)
{
	if (p->state != PICTURE_ABSENT || p->wanted)
		return false;
	p->wanted = true;
	p->refs++;
	return true;
}

static void fetch_unless_here(struct engine *e, const struct image *i)
{
	pthread_mutex_lock(&e->pictures->lock);
	struct picture *p = table_get(e, i->id, i->size, i->type);
	const bool go = claim(p);
	pthread_mutex_unlock(&e->pictures->lock);
	if (go)
		fetch(e, 0, p);
	picture_unref(p);
}

void pictures_listed(struct engine *e, int64_t image)
{
	struct image i;

	if (!e->config.eager || image_get(e->cat, image, &i) < 0)
		return;
	fetch_unless_here(e, &i);
	image_release(&i);
}

void pictures_measure(struct engine *e, int64_t image,
	void (*done)(void *arg, const struct picture_measured *m), void *arg)
{
	pthread_mutex_lock(&e->pictures->lock);
	struct picture *p = table_get(e, image, -1, PICTURE_UNKNOWN);
	const bool go = claim(p);
	pthread_mutex_unlock(&e->pictures->lock);
	p->measured = done;
	p->measured_arg = arg;
	if (go)
		fetch(e, 0, p);
	picture_unref(p);
}

/* ---- life ---- */

void pictures_forget(struct engine *e, int64_t image)
{
	cache_remove(e->pictures->cache, image);
}

struct pictures *pictures_create(struct engine *e, char **error)
{
	struct cache *cache = cache_open(e->config.cache_dir, e->config.cache_max, error);
	struct pictures *ps;

	if (!cache)
		return NULL;
	ps = xcalloc(1, sizeof *ps);
	ps->cache = cache;
	pthread_mutex_init(&ps->lock, NULL);
	return ps;
}

void pictures_start(struct engine *e)
{
	if (e->config.cache_max <= 0)
		return;
	cache_scan(e->pictures->cache);
	cache_trim(e->pictures->cache, is_open, e->pictures);
}

/* After the thread has ended: no new waiter comes, as the mount's workers have ended too. */
void pictures_release(struct engine *e)
{
	struct pictures *ps = e->pictures;

	for (;;) {
		struct picture *p = NULL;

		pthread_mutex_lock(&ps->lock);
		if (ps->table)
			p = *(struct picture **)ps->table;
		const bool fetching = p && p->wanted;
		pthread_mutex_unlock(&ps->lock);
		if (!p)
			break;
		if (p->call)
			net_cancel(p->call);
		p->call = NULL;
		p->measured = NULL;
		wake(p, -ENOTCONN);
		if (p->state == PICTURE_FETCHING)
			cache_abandon(ps->cache, p->image);
		p->wanted = false;
		if (fetching)
			picture_unref(p);
		else
			break; /* somebody's handle is still open: theirs to close */
	}
}

void pictures_destroy(struct pictures *ps)
{
	if (!ps)
		return;
	cache_close(ps->cache);
	pthread_mutex_destroy(&ps->lock);
	free(ps);
}

/* ---- checking the cache ---- */

struct verifying {
	struct engine *e;
	int64_t good, bad;
};

static bool is_whole(const struct image *i, int fd)
{
	unsigned char sum[crypto_hash_sha256_BYTES];
	crypto_hash_sha256_state sha;
	char *chunk = xmalloc(VERIFY_CHUNK);
	int64_t off = 0;
	ssize_t n;

	crypto_hash_sha256_init(&sha);
	while ((n = files_pread_full(fd, chunk, VERIFY_CHUNK, off)) > 0) {
		crypto_hash_sha256_update(&sha, (unsigned char *)chunk, (size_t)n);
		off += n;
	}
	free(chunk);
	crypto_hash_sha256_final(&sha, sum);
	return n == 0 && i->have_sha256 && off == i->size && memcmp(sum, i->sha256, sizeof sum) == 0;
}

static void verify_one(void *arg, int64_t image, int fd)
{
	struct verifying *v = arg;
	struct image i;

	const bool whole = image_get(v->e->cat, image, &i) == 0 && is_whole(&i, fd);
	image_release(&i);
	if (whole) {
		v->good++;
	} else {
		v->bad++;
		pictures_forget(v->e, image);
	}
}

int engine_verify_cache(struct engine *e, int64_t *good, int64_t *bad)
{
	struct verifying v = {.e = e};

	cache_each(e->pictures->cache, verify_one, &v);
	*good = v.good;
	*bad = v.bad;
	return 0;
}

/* ---- forgetting, for the mount ---- */

int engine_forget_image(struct engine *e, int64_t image)
{
	struct image i;
	int rc = image_get(e->cat, image, &i);

	if (rc < 0)
		return rc;
	CLEANUP_FREE char *line = xasprintf("picture %d was removed here; nothing is refunded", i.number);
	catalogue_begin(e->cat, DB_NORMAL);
	rc = image_forget(e->cat, image);
	if (rc >= 0)
		rc = log_add(e->cat, 0, i.generation, line);
	rc = catalogue_end(e->cat, rc < 0 ? rc : 0);
	if (rc == 0)
		pictures_forget(e, image);
	image_release(&i);
	return rc;
}

static bool is_settled(struct engine *e, const struct generation *g)
{
	struct request r;
	bool settled = g->phase != PHASE_PENDING;

	if (g->request && request_get(e->cat, g->request, &r) == 0) {
		settled = r.generation != g->id || r.state != REQUEST_RUNNING;
		request_release(&r);
	}
	return settled;
}

int engine_forget_generation(struct engine *e, int64_t generation)
{
	struct generation g;
	struct image *images = NULL;
	size_t n = 0;
	int rc = generation_get(e->cat, generation, &g);

	if (rc < 0)
		return rc;
	rc = is_settled(e, &g) ? image_list(e->cat, generation, &images, &n) : -EBUSY;
	if (rc >= 0) {
		catalogue_begin(e->cat, DB_NORMAL);
		rc = generation_forget(e->cat, generation);
		if (rc >= 0)
			rc = log_add(e->cat, g.request, generation,
				"removed here; nothing is refunded, and the hub still has it");
		rc = catalogue_end(e->cat, rc < 0 ? rc : 0);
	}
	for (size_t k = 0; rc == 0 && k < n; k++)
		pictures_forget(e, images[k].id);
	images_free(images, n);
	generation_release(&g);
	return rc;
}

/*
 * Downloads of pictures, on the engine's thread: what a reader waits for, and what is likely to be
 * read next. Whatever a server sends is checked before a reader gets the last byte: announced size,
 * type, and that no byte is missing or too much.
 */
#include "base/files.h"
#include "base/log.h"
#include "engine/picture.h"
#include <errno.h>

enum {
	TRIES_FRESH_URL = 1,
	WRITE_MOST = 512 * 1024,
	AHEAD_BYTES = 256 * 1024 * 1024, /* at once, of pictures that nobody has asked for */
};

/* ---- the end ---- */

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

static bool is_asked(struct picture *p)
{
	pthread_mutex_lock(&p->e->pictures->lock);
	const bool asked = p->asked;
	pthread_mutex_unlock(&p->e->pictures->lock);
	return asked;
}

/* Back to absent, but for the claim. */
static void undo(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	list_remove(&p->arrived);
	list_remove(&p->fileless);
	buf_release(&p->bytes);
	pthread_mutex_lock(&ps->lock);
	const int fd = picture_retire(p);
	pthread_mutex_unlock(&ps->lock);
	cache_abandon(ps->cache, p->image);
	if (fd >= 0)
		close(fd);
}

/* Ends the claim, unless it was begun before anybody asked and somebody has asked meanwhile: they get
 * a try of their own. */
static bool let_go(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	pthread_mutex_lock(&ps->lock);
	const bool again = p->ahead && p->asked;
	p->ahead = false;
	if (!again) {
		list_remove(&p->fetch);
		p->asked = false;
	}
	pthread_mutex_unlock(&ps->lock);
	return !again;
}

/* Of what nobody asked for nothing is said: whoever reads it tries again and is told. */
static void failed(struct picture *p, int error, const char *why)
{
	const bool silent = p->ahead;

	undo(p);
	if (!let_go(p)) {
		fetch_begin(p->e, 0, p);
		return;
	}
	if (!silent)
		log_trouble(p, why);
	picture_wake(p, error);
	tell_measured(p, -1, why);
	picture_unref(p);
}

/* Readers first: what they wait for is checked and here, whether the disk keeps it or not. */
static void finished(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	pthread_mutex_lock(&ps->lock);
	p->state = PICTURE_HERE;
	if (p->size < 0)
		p->size = p->have;
	list_remove(&p->fetch);
	buf_release(&p->bytes);
	pthread_mutex_unlock(&ps->lock);
	picture_wake(p, 0);
	tell_measured(p, p->size, NULL);
	keeper_add(ps->keeper, p);
}

void fetch_cancel(struct picture *p)
{
	if (p->call)
		net_cancel(p->call);
	p->call = NULL;
	p->measured = NULL;
	list_remove(&p->arrived);
	list_remove(&p->fileless);
	buf_release(&p->bytes);
	if (p->state == PICTURE_FETCHING)
		cache_abandon(p->e->pictures->cache, p->image);
}

/* ---- the bytes ---- */

static bool end_with(struct picture *p, const char *why)
{
	p->trouble = why;
	return false;
}

static bool end_with_disk(struct picture *p, int rc)
{
	return end_with(p, rc == -ENOSPC ? "the disk of the cache is full"
					 : "the cache cannot be written");
}

/* The temporary file, unless it is there. */
static bool make_file(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	list_remove(&p->fileless);
	if (p->fd >= 0)
		return true;
	const int fd = cache_begin(ps->cache, p->image);
	if (fd < 0)
		return end_with_disk(p, fd);
	pthread_mutex_lock(&ps->lock);
	p->fd = fd;
	pthread_mutex_unlock(&ps->lock);
	return true;
}

/* Into the file, and to whoever waits for them; the last byte is given only with the check of the
 * whole. */
static bool write_out(struct picture *p)
{
	const size_t len = p->bytes.len;

	list_remove(&p->arrived);
	if (!make_file(p))
		return false;
	const int rc = files_pwrite_all(p->fd, p->bytes.data, len, p->have);
	buf_reset(&p->bytes);
	if (rc < 0)
		return end_with_disk(p, rc);
	pthread_mutex_lock(&p->e->pictures->lock);
	p->have += (int64_t)len;
	pthread_mutex_unlock(&p->e->pictures->lock);
	if (p->size < 0 || p->have < p->size)
		picture_wake(p, 0);
	return true;
}

static void give_up(struct picture *p)
{
	net_cancel(p->call);
	p->call = NULL;
	failed(p, -EIO, p->trouble);
}

/* Making a file takes about as long as a near hub's answer: it is done while that is on its way. One
 * whose call is over already (it waits for a fresh address) gets it with its first bytes. */
static void make_files(struct engine *e)
{
	list_for_each_safe (pos, next, &e->pictures->fileless) {
		struct picture *p = CONTAINER_OF(pos, struct picture, fileless);

		list_remove(pos);
		if (p->call && !make_file(p))
			give_up(p);
	}
}

/* libcurl gives bytes in pieces of 16 KiB. A write for each costs as much as all the rest of a
 * download (measured on ext4), so what comes in one turn of the loop is written together, but for
 * what a reader waits for. */
static void write_arrived(struct engine *e)
{
	list_for_each_safe (pos, next, &e->pictures->arrived) {
		struct picture *p = CONTAINER_OF(pos, struct picture, arrived);

		if (!write_out(p))
			give_up(p);
	}
}

static bool take_bytes(void *arg, const void *bytes, size_t len, int64_t total)
{
	struct picture *p = arg;

	if (p->size >= 0 && total >= 0 && total != p->size)
		return end_with(p, "the server announces another size than before");
	if (p->size >= 0 && p->have + (int64_t)(p->bytes.len + len) > p->size)
		return end_with(p, "the server sends more than the picture's size");
	if (p->head_len < sizeof p->head) {
		const size_t room = sizeof p->head - p->head_len;
		memcpy(p->head + p->head_len, bytes, len < room ? len : room);
		p->head_len += len < room ? len : room;
	}
	/* The type is known from the first bytes: nothing of a wrong one reaches a reader. */
	if (p->type != PICTURE_UNKNOWN && p->head_len >= 16 &&
		picture_probe(p->head, p->head_len).type != p->type)
		return end_with(p, "what the server sends is another type than before");
	if (p->bytes.len + len > WRITE_MOST && !write_out(p))
		return false;
	buf_add(&p->bytes, bytes, len);
	if (picture_is_awaited(p, p->have + (int64_t)p->bytes.len))
		return write_out(p);
	if (list_empty(&p->arrived))
		list_append(&p->e->pictures->arrived, &p->arrived);
	return true;
}

static void start(struct picture *p);

static void renewed(void *arg, bool ok)
{
	struct picture *p = arg;

	if (ok)
		start(p);
	else
		failed(p, p->expired_err, "its address has expired, and the hub gave no new one");
}

static void done(void *arg, const struct net_picture_reply *reply)
{
	struct picture *p = arg;
	struct image i;

	p->call = NULL;
	if (!p->trouble && !list_empty(&p->arrived))
		write_out(p);
	if (reply->expired && p->fresh_urls < TRIES_FRESH_URL && p->have == 0 &&
		image_get(p->e->cat, p->image, &i) == 0) {
		p->fresh_urls++;
		p->expired_err = reply->http ? -EIO : -outcome_fact(reply->outcome)->err;
		follow_renew(p->e, i.generation, renewed, p);
		image_release(&i);
		return;
	}
	if (p->trouble)
		failed(p, -EIO, p->trouble);
	else if (reply->outcome == OUTCOME_CUT || (reply->outcome == OUTCOME_OK && p->size >= 0 &&
							  p->have < p->size))
		failed(p, -EIO, "the download ended early");
	else if (reply->outcome != OUTCOME_OK)
		failed(p, -outcome_fact(reply->outcome)->err, reply->message);
	else if (picture_probe(p->head, p->head_len).type == PICTURE_UNKNOWN)
		failed(p, -EIO, "what the server gave is not a PNG, JPEG or WebP picture");
	else
		finished(p);
}

static void start(struct picture *p)
{
	struct image i;

	if (image_get(p->e->cat, p->image, &i) < 0 || !i.url) {
		image_release(&i);
		failed(p, -ENOENT, "the hub gave no address for it");
		return;
	}
	p->head_len = 0;
	p->trouble = NULL;
	buf_reset(&p->bytes);
	p->call = net_get_picture(p->e->net, is_asked(p) ? NET_WANTED : NET_AHEAD, i.url, 0, 0,
		take_bytes, done, p);
	image_release(&i);
}

void fetch_begin(struct engine *e, int64_t id, void *arg)
{
	struct picture *p = arg;

	(void)id;
	pthread_mutex_lock(&e->pictures->lock);
	p->state = PICTURE_FETCHING;
	p->have = 0;
	pthread_mutex_unlock(&e->pictures->lock);
	p->fresh_urls = 0;
	buf_init(&p->bytes, 2 * WRITE_MOST);
	list_append(&e->pictures->fileless, &p->fileless);
	start(p);
}

/* ---- before somebody asks ---- */

static void fetch_unless_here(struct engine *e, const struct image *i, bool ahead)
{
	pthread_mutex_lock(&e->pictures->lock);
	struct picture *p = picture_get(e, i->id, i->size, i->type);
	const bool go = picture_claim(p);
	pthread_mutex_unlock(&e->pictures->lock);
	if (go) {
		p->ahead = ahead;
		fetch_begin(e, 0, p);
	}
	picture_unref(p);
}

void pictures_listed(struct engine *e, int64_t image)
{
	struct image i;

	if (!e->config.eager || image_get(e->cat, image, &i) < 0)
		return;
	fetch_unless_here(e, &i, false);
	image_release(&i);
}

void pictures_measure(struct engine *e, int64_t image,
	void (*tell)(void *arg, const struct picture_measured *m), void *arg)
{
	pthread_mutex_lock(&e->pictures->lock);
	struct picture *p = picture_get(e, image, -1, PICTURE_UNKNOWN);
	const bool go = picture_claim(p);
	pthread_mutex_unlock(&e->pictures->lock);
	p->measured = tell;
	p->measured_arg = arg;
	if (go)
		fetch_begin(e, 0, p);
	picture_unref(p);
}

void fetch_hurry(struct engine *e, int64_t image, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&e->pictures->lock);
	struct picture *p = picture_find(e->pictures, image);
	if (p)
		p->refs++;
	pthread_mutex_unlock(&e->pictures->lock);
	if (!p)
		return;
	if (p->call)
		net_hurry(p->call);
	picture_unref(p);
}

/* As many as a small cache can hold beside what it has. */
static int64_t room_ahead(const struct engine *e)
{
	const int64_t most = e->config.cache_max / 4;

	return most > 0 && most < AHEAD_BYTES ? most : AHEAD_BYTES;
}

static void fetch_following(struct engine *e, int64_t image)
{
	int64_t ids[AHEAD_MOST], room = room_ahead(e);
	const int n = keeper_is_behind(e->pictures->keeper)
		? 0
		: ahead_read(e->pictures->ahead, image, ids);

	for (int k = 0; k < n; k++) {
		struct image i;

		if (image_get(e->cat, ids[k], &i) < 0)
			continue;
		room -= i.size;
		if (i.size >= 0 && !i.removed && room >= 0)
			fetch_unless_here(e, &i, true);
		image_release(&i);
	}
}

/* The picture itself goes first: what follows is looked for when its request is out. */
void fetch_ahead(struct engine *e, int64_t image, void *arg)
{
	struct pictures *ps = e->pictures;

	(void)arg;
	if (ps->n_begun < BEGUN_MOST)
		ps->begun[ps->n_begun++] = image;
}

bool pictures_are_due(const struct engine *e)
{
	return e->pictures->n_begun > 0;
}

void pictures_turn(struct engine *e)
{
	struct pictures *ps = e->pictures;

	make_files(e);
	write_arrived(e);
	for (int i = 0; i < ps->n_begun; i++)
		fetch_following(e, ps->begun[i]);
	ps->n_begun = 0;
}

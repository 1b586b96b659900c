/*
 * Pictures: many readers, one download, a disk cache. picture.h has the table of states.
 */
#include "base/log.h"
#include "engine/picture.h"
#include <errno.h>
#include <search.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { IDLE_MOST = 1024 };

struct waiter {
	struct list link;
	int64_t end; /* wants [.., end) */
	picture_ready_fn *fn;
	void *arg;
};

/* ---- the table ---- */

static int compare(const void *a, const void *b)
{
	const int64_t x = ((const struct picture *)a)->image;
	const int64_t y = ((const struct picture *)b)->image;

	return x < y ? -1 : x > y;
}

struct picture *picture_find(struct pictures *ps, int64_t image)
{
	const struct picture key = {.image = image};
	struct picture *const *found = tfind(&key, &ps->table, compare);

	return found ? *found : NULL;
}

/* Under lock. */
static void take(struct pictures *ps, struct picture *p)
{
	if (!list_empty(&p->idle)) {
		list_remove(&p->idle);
		ps->n_idle--;
	}
	p->refs++;
}

struct picture *picture_get(struct engine *e, int64_t image, int64_t size, enum picture_type type)
{
	struct pictures *ps = e->pictures;
	struct picture *p = picture_find(ps, image);

	if (!p) {
		p = xcalloc(1, sizeof *p);
		*p = (struct picture){
			.e = e, .image = image, .size = size, .type = type, .fd = -1};
		list_init(&p->waiters);
		list_init(&p->fetch);
		list_init(&p->keeping);
		list_init(&p->fileless);
		list_init(&p->arrived);
		list_init(&p->idle);
		p->fd = size >= 0 ? cache_find(ps->cache, image, size) : -1;
		if (p->fd >= 0) {
			p->state = PICTURE_HERE;
			p->kept = true;
			p->have = size;
		}
		tsearch(p, &ps->table, compare);
	}
	take(ps, p);
	return p;
}

/* Under lock, out of the table; it is the caller's to finish. */
static void detach(struct pictures *ps, struct picture *p)
{
	tdelete(p, &ps->table, compare);
	if (!list_empty(&p->idle)) {
		list_remove(&p->idle);
		ps->n_idle--;
	}
}

/* Without the lock. */
static void finish(struct picture *p)
{
	if (p->kept)
		cache_touch(p->fd);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

/* Under lock: the reference is given back; a picture that has to go, or NULL. */
static struct picture *give_back(struct pictures *ps, struct picture *p)
{
	if (--p->refs > 0)
		return NULL;
	if (p->kept && !p->forgotten) {
		list_append(&ps->idle, &p->idle);
		if (++ps->n_idle <= ps->idle_most)
			return NULL;
		p = CONTAINER_OF(ps->idle.next, struct picture, idle);
	}
	detach(ps, p);
	return p;
}

void picture_unref(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	pthread_mutex_lock(&ps->lock);
	struct picture *gone = give_back(ps, p);
	pthread_mutex_unlock(&ps->lock);
	if (gone)
		finish(gone);
}

bool picture_is_used(struct pictures *ps, int64_t image)
{
	pthread_mutex_lock(&ps->lock);
	const struct picture *p = picture_find(ps, image);
	const bool used = p && p->refs > 0;
	pthread_mutex_unlock(&ps->lock);
	return used;
}

void pictures_drop_idle(struct pictures *ps)
{
	struct picture *p;

	do {
		p = NULL;
		pthread_mutex_lock(&ps->lock);
		if (!list_empty(&ps->idle)) {
			p = CONTAINER_OF(ps->idle.next, struct picture, idle);
			detach(ps, p);
		}
		pthread_mutex_unlock(&ps->lock);
		if (p)
			finish(p);
	} while (p);
}

bool picture_claim(struct picture *p)
{
	if (p->state != PICTURE_ABSENT || !list_empty(&p->fetch))
		return false;
	list_append(&p->e->pictures->fetches, &p->fetch);
	p->refs++;
	return true;
}

/* ---- readers (any thread) ---- */

/* The picture with a reference when it is in the table with its size known, or NULL. */
static struct picture *open_known(struct pictures *ps, int64_t image)
{
	pthread_mutex_lock(&ps->lock);
	struct picture *p = picture_find(ps, image);
	if (p && p->size >= 0 && !p->forgotten)
		take(ps, p);
	else
		p = NULL;
	pthread_mutex_unlock(&ps->lock);
	return p;
}

/* The bytes that a read wants are before this. */
static int64_t end_of(const struct picture *p, int64_t offset, size_t len)
{
	const int64_t end = offset + (int64_t)len;

	return end > p->size && p->size >= 0 ? p->size : end;
}

int picture_check(struct picture *p, int fd, int64_t offset, size_t len)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && st.st_size >= end_of(p, offset, len))
		return 0;
	log_warning("the cached picture %lld was cut; it is fetched again", (long long)p->image);
	pictures_forget(p->e, p->image);
	return -EIO;
}

/* One that was there before, whose file may have suffered since. */
static bool is_damaged(struct picture *p)
{
	pthread_mutex_lock(&p->e->pictures->lock);
	const int fd = p->state == PICTURE_HERE ? p->fd : -1;
	pthread_mutex_unlock(&p->e->pictures->lock);
	return fd >= 0 && picture_check(p, fd, 0, (size_t)p->size) < 0;
}

int picture_open(struct engine *e, int64_t image, struct picture **out)
{
	struct image i;

	*out = open_known(e->pictures, image);
	if (*out && !is_damaged(*out))
		return 0;
	if (*out)
		picture_unref(*out);
	int rc = image_get(e->cat, image, &i);
	if (rc < 0)
		return rc;
	if (i.size < 0 || i.removed) {
		rc = -ENOENT;
	} else {
		pthread_mutex_lock(&e->pictures->lock);
		*out = picture_get(e, image, i.size, i.type);
		pthread_mutex_unlock(&e->pictures->lock);
	}
	image_release(&i);
	return rc;
}

struct picture *picture_hold(struct picture *p)
{
	pthread_mutex_lock(&p->e->pictures->lock);
	p->refs++;
	pthread_mutex_unlock(&p->e->pictures->lock);
	return p;
}

void picture_close(struct picture *p)
{
	picture_unref(p);
}

bool picture_leads_on(struct picture *p)
{
	struct pictures *ps = p->e->pictures;

	if (!ps->ahead)
		return false;
	pthread_mutex_lock(&ps->lock);
	const bool here = p->state == PICTURE_HERE;
	pthread_mutex_unlock(&ps->lock);
	/* A run of pictures that are all here is no sequence that needs help. */
	return !here || ahead_expects(ps->ahead, p->image);
}

void engine_fetch_following(struct engine *e, int64_t image)
{
	engine_post(e, fetch_ahead, image, NULL);
}

/* Under lock. */
static bool is_here(const struct picture *p, int64_t end)
{
	end = end_of(p, end, 0);
	return p->fd >= 0 && p->state != PICTURE_ABSENT &&
		(p->state == PICTURE_HERE || p->have >= end);
}

int picture_fd(struct picture *p, int64_t offset, size_t len, bool *complete)
{
	int fd = -EAGAIN;

	pthread_mutex_lock(&p->e->pictures->lock);
	*complete = p->state == PICTURE_HERE;
	if (is_here(p, offset + (int64_t)len)) {
		fd = p->fd;
		p->users += !*complete;
	}
	pthread_mutex_unlock(&p->e->pictures->lock);
	return fd;
}

void picture_fd_done(struct picture *p)
{
	int *fds = NULL, n = 0;

	pthread_mutex_lock(&p->e->pictures->lock);
	if (--p->users == 0) {
		fds = p->retired;
		n = p->n_retired;
		p->retired = NULL;
		p->n_retired = 0;
	}
	pthread_mutex_unlock(&p->e->pictures->lock);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
}

int picture_retire(struct picture *p)
{
	const int fd = p->fd;

	p->fd = -1;
	p->state = PICTURE_ABSENT;
	p->have = 0;
	if (fd < 0 || p->users == 0)
		return fd;
	p->retired = xrealloc(p->retired, (size_t)(p->n_retired + 1) * sizeof *p->retired);
	p->retired[p->n_retired++] = fd;
	return -1;
}

void picture_wait(struct picture *p, int64_t offset, size_t len, picture_ready_fn *fn, void *arg)
{
	const int64_t end = offset + (int64_t)len;
	bool post = false, hurry = false;
	int fd = -1;

	pthread_mutex_lock(&p->e->pictures->lock);
	if (is_here(p, end)) {
		fd = p->fd;
	} else {
		struct waiter *w = xcalloc(1, sizeof *w);

		*w = (struct waiter){.end = end, .fn = fn, .arg = arg};
		list_append(&p->waiters, &w->link);
		post = picture_claim(p);
		hurry = !post && !p->asked;
		p->asked = true;
	}
	pthread_mutex_unlock(&p->e->pictures->lock);
	if (fd >= 0)
		fn(arg, fd);
	else if (post)
		engine_post(p->e, fetch_begin, 0, p);
	else if (hurry)
		engine_post(p->e, fetch_hurry, p->image, NULL);
}

bool picture_is_awaited(struct picture *p, int64_t end)
{
	bool awaited = false;

	pthread_mutex_lock(&p->e->pictures->lock);
	list_for_each_safe (pos, next, &p->waiters)
		awaited |= CONTAINER_OF(pos, struct waiter, link)->end <= end;
	pthread_mutex_unlock(&p->e->pictures->lock);
	return awaited;
}

void picture_wake(struct picture *p, int error)
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

/* ---- life ---- */

void pictures_forget(struct engine *e, int64_t image)
{
	struct pictures *ps = e->pictures;

	pthread_mutex_lock(&ps->lock);
	struct picture *p = picture_find(ps, image);
	const bool idle = p && p->refs == 0;
	if (p)
		p->forgotten = true;
	if (idle)
		detach(ps, p);
	pthread_mutex_unlock(&ps->lock);
	if (idle)
		finish(p);
	cache_remove(ps->cache, image);
}

/* No more than a quarter of the descriptors that this process may have. */
static int idle_most(void)
{
	struct rlimit l;

	return getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur / 4 < IDLE_MOST
		? (int)(l.rlim_cur / 4)
		: IDLE_MOST;
}

struct pictures *pictures_create(struct engine *e, char **error)
{
	struct cache *cache = cache_open(e->config.cache_dir, e->config.cache_max, error);
	struct pictures *ps;

	if (!cache)
		return NULL;
	ps = xcalloc(1, sizeof *ps);
	ps->cache = cache;
	list_init(&ps->fetches);
	list_init(&ps->fileless);
	list_init(&ps->arrived);
	list_init(&ps->idle);
	ps->idle_most = idle_most();
	ps->keeper = keeper_create(e);
	if (e->config.read_ahead > 0)
		ps->ahead = ahead_create(e->cat, e->config.read_ahead);
	pthread_mutex_init(&ps->lock, NULL);
	return ps;
}

int pictures_start(struct engine *e)
{
	return keeper_start(e->pictures->keeper);
}

/* After the engine's thread and the mount's workers have ended: no new waiter comes. */
void pictures_release(struct engine *e)
{
	struct pictures *ps = e->pictures;

	keeper_stop(ps->keeper);
	list_for_each_safe (pos, next, &ps->fetches) {
		struct picture *p = CONTAINER_OF(pos, struct picture, fetch);

		list_remove(pos);
		fetch_cancel(p);
		picture_wake(p, -ENOTCONN);
		picture_unref(p);
	}
}

void pictures_destroy(struct pictures *ps)
{
	if (!ps)
		return;
	keeper_destroy(ps->keeper);
	pictures_drop_idle(ps);
	ahead_destroy(ps->ahead);
	cache_close(ps->cache);
	pthread_mutex_destroy(&ps->lock);
	free(ps);
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

/* No request waits for it, of which there may be several where the hub gives an id twice. Without one the
 * hub's word counts. */
static bool is_settled(struct engine *e, const struct generation *g)
{
	struct request_brief r;
	int64_t running;

	if (request_running_of_generation(e->cat, g->id, 0, &running, 1) != 0)
		return false;
	return g->phase != PHASE_PENDING ||
		(g->request && request_brief(e->cat, g->request, &r) == 0);
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

/*
 * Keeping: a finished download gets its SHA-256 and becomes a durable file of the cache.
 *
 * Hashing and syncing take as long as the download itself, so a thread of its own does them, while
 * the engine's fetches the next picture and readers read from the file that is still temporary. A
 * power loss before that leaves a temporary file, which the next start removes; after it the
 * picture is there whole. The hash is written first, so no file of the cache is without one.
 */
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/picture.h"
#include <errno.h>
#include <openssl/evp.h>

enum {
	CHUNK = 256 * 1024,
	BEHIND = 64,		/* pictures waiting: the disk is slower than the network */
	STOP_MS = 2000,
	TIDY_MS = 2,		/* at a time, and as long a pause: the lock is wanted by others */
	SHA256_BYTES = 32,
};

struct keeper {
	struct engine *e;
	pthread_t thread;
	bool running;
	pthread_mutex_t lock; /* leaf */
	pthread_cond_t wake;
	struct list waiting; /* under lock, as all below */
	int n_waiting;
	int64_t stop_ms; /* monotonic: when what waits is dropped; 0: not stopping */
	bool tidy;	 /* the catalogue's spool */
};

/* ---- the hash ---- */

/* Of the whole file; its length, or a negative errno. */
static int64_t hash_file(int fd, unsigned char sum[SHA256_BYTES])
{
	EVP_MD_CTX *sha = EVP_MD_CTX_new();
	char *chunk = xmalloc(CHUNK);
	int64_t at = 0;
	ssize_t n;

	EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
	while ((n = files_pread_full(fd, chunk, CHUNK, at)) > 0) {
		EVP_DigestUpdate(sha, chunk, (size_t)n);
		at += n;
	}
	EVP_DigestFinal_ex(sha, sum, NULL);
	EVP_MD_CTX_free(sha);
	free(chunk);
	return n < 0 ? n : at;
}

/* ---- keeping ---- */

static int keep_file(struct engine *e, const struct picture *p)
{
	unsigned char sum[SHA256_BYTES];
	const int64_t length = hash_file(p->fd, sum);

	if (length != p->size)
		return length < 0 ? (int)length : -EIO;
	const int rc = image_set_sha256(e->cat, p->image, sum);
	return rc < 0 ? rc : cache_finish(e->pictures->cache, p->image, p->fd);
}

static bool is_used(void *arg, int64_t image)
{
	return picture_is_used(arg, image);
}

static void trim(struct pictures *ps)
{
	if (!cache_is_over(ps->cache))
		return;
	pictures_drop_idle(ps);
	cache_trim(ps->cache, is_used, ps);
}

static void keep(struct engine *e, struct picture *p)
{
	struct pictures *ps = e->pictures;
	const int rc = keep_file(e, p);

	if (rc == 0) {
		pthread_mutex_lock(&ps->lock);
		p->kept = true;
		pthread_mutex_unlock(&ps->lock);
	} else {
		/* Removed by its owner meanwhile: nothing to say. */
		if (rc != -ENOENT)
			log_warning("a picture cannot be kept in the cache: %s", strerror(-rc));
		cache_abandon(ps->cache, p->image);
	}
	picture_unref(p);
	trim(ps);
}

/* Under lock, which is given up meanwhile. */
static void tidy(struct keeper *k)
{
	pthread_mutex_unlock(&k->lock);
	const bool done = catalogue_tidy(k->e->cat, TIDY_MS);
	const struct timespec until = clock_timespec(clock_mono_ms() + TIDY_MS);
	pthread_mutex_lock(&k->lock);
	k->tidy = done;
	if (!done && list_empty(&k->waiting) && k->stop_ms == 0)
		pthread_cond_timedwait(&k->wake, &k->lock, &until);
}

/* Under lock: the next picture, or NULL when the thread should end. */
static struct picture *take(struct keeper *k)
{
	while (list_empty(&k->waiting) && k->stop_ms == 0) {
		if (k->tidy)
			pthread_cond_wait(&k->wake, &k->lock);
		else
			tidy(k);
	}
	if (list_empty(&k->waiting) || (k->stop_ms && clock_mono_ms() >= k->stop_ms))
		return NULL;
	struct picture *p = CONTAINER_OF(k->waiting.next, struct picture, keeping);
	list_remove(&p->keeping);
	k->n_waiting--;
	return p;
}

static void *keeper_main(void *arg)
{
	struct keeper *k = arg;
	struct pictures *ps = k->e->pictures;
	struct picture *p;

	if (k->e->config.cache_max > 0) {
		cache_scan(ps->cache);
		trim(ps);
	}
	pthread_mutex_lock(&k->lock);
	while ((p = take(k)) != NULL) {
		pthread_mutex_unlock(&k->lock);
		keep(k->e, p);
		pthread_mutex_lock(&k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

/* ---- life ---- */

struct keeper *keeper_create(struct engine *e)
{
	struct keeper *k = xcalloc(1, sizeof *k);

	k->e = e;
	pthread_mutex_init(&k->lock, NULL);
	thread_cond_init(&k->wake);
	list_init(&k->waiting);
	return k;
}

int keeper_start(struct keeper *k)
{
	const int rc = thread_start(&k->thread, "keeper", keeper_main, k);

	k->running = rc == 0;
	return rc;
}

void keeper_add(struct keeper *k, struct picture *p)
{
	pthread_mutex_lock(&k->lock);
	list_append(&k->waiting, &p->keeping);
	k->n_waiting++;
	pthread_cond_signal(&k->wake);
	pthread_mutex_unlock(&k->lock);
}

bool keeper_is_behind(struct keeper *k)
{
	pthread_mutex_lock(&k->lock);
	const bool behind = k->n_waiting >= BEHIND;
	pthread_mutex_unlock(&k->lock);
	return behind;
}

void keeper_stop(struct keeper *k)
{
	if (k->running) {
		pthread_mutex_lock(&k->lock);
		k->stop_ms = clock_mono_ms() + STOP_MS;
		pthread_cond_signal(&k->wake);
		pthread_mutex_unlock(&k->lock);
		pthread_join(k->thread, NULL);
		k->running = false;
	}
	list_for_each_safe (pos, next, &k->waiting) {
		struct picture *p = CONTAINER_OF(pos, struct picture, keeping);

		list_remove(pos);
		cache_abandon(k->e->pictures->cache, p->image);
		picture_unref(p);
	}
	k->n_waiting = 0;
}

void keeper_destroy(struct keeper *k)
{
	if (!k)
		return;
	keeper_stop(k);
	pthread_cond_destroy(&k->wake);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

/* ---- checking the cache ---- */

struct verifying {
	struct engine *e;
	int64_t good, bad;
};

static bool is_whole(const struct image *i, int fd)
{
	unsigned char sum[SHA256_BYTES];

	return i->have_sha256 && hash_file(fd, sum) == i->size &&
		memcmp(sum, i->sha256, sizeof sum) == 0;
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

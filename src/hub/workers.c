#include "hub/workers.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

struct workers {
	struct store *store;
	struct provider *provider;
	struct hub_trouble trouble;
	void (*ended)(void *arg, const char *id);
	void *arg;
	int images, refs; /* folders */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* for one that is idle: the queue may have more */
	pthread_cond_t stop; /* for pauses: stopping is set */
	uint64_t work;	/* rises with each wake, under lock */
	long taken;	/* generations, for fail_every; under lock */
	bool stopping;	/* under lock */
	pthread_t *threads;
	int count;
};

/* ---- one generation ---- */

static void pause_for(struct workers *w, int ms)
{
	const int64_t until = clock_mono_ms() + ms;
	const struct timespec t = clock_timespec(until);

	pthread_mutex_lock(&w->lock);
	while (!w->stopping && clock_mono_ms() < until)
		if (pthread_cond_timedwait(&w->stop, &w->lock, &t) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&w->lock);
}

static int make_picture(struct workers *w, const struct provider_job *job, int index,
	struct hub_image *image, char **error)
{
	char name[HUB_ID_SIZE + 8];
	struct buf bytes;

	buf_init(&bytes, PROVIDER_PICTURE_MAX);
	if (w->trouble.delay_ms)
		pause_for(w, w->trouble.delay_ms);
	int rc = w->provider->generate(w->provider, job, index, &bytes, error);
	if (rc == 0) {
		hub_id_make(image->id, "", 32);
		image->ext = xstrdup(w->provider->extension);
		snprintf(name, sizeof name, "%s.%s", image->id, image->ext);
		rc = files_write_durable(w->images, name, bytes.data, bytes.len);
		if (rc < 0)
			fail(error, rc, "the hub cannot keep the picture: %s", strerror(-rc));
	}
	buf_release(&bytes);
	return rc;
}

static void make_all(struct workers *w, const struct hub_generation *g,
	const struct provider_job *job, struct hub_result *result, char **error)
{
	const int wanted = order_images(&g->order) - (w->trouble.fewer ? 1 : 0);

	for (int i = 0; i < wanted; i++)
		if (make_picture(w, job, i, &result->images[result->n_images], error) == 0)
			result->n_images++;
}

static char **reference_paths(struct workers *w, const struct hub_generation *g)
{
	char **paths = xcalloc((size_t)g->n_references + 1, sizeof *paths);

	for (int i = 0; i < g->n_references; i++)
		paths[i] = xasprintf("%s/refs/%s/%d", store_dir(w->store), g->id, i + 1);
	return paths;
}

static void drop_references(struct workers *w, const struct hub_generation *g, char **paths)
{
	for (int i = 0; i < g->n_references; i++) {
		unlink(paths[i]);
		free(paths[i]);
	}
	free(paths);
	if (g->n_references > 0)
		unlinkat(w->refs, g->id, AT_REMOVEDIR);
}

static bool must_fail(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	const long number = ++w->taken;
	pthread_mutex_unlock(&w->lock);
	return w->trouble.fail_every > 0 && number % w->trouble.fail_every == 0;
}

static void work_on(struct workers *w, const char *id)
{
	CLEANUP_FREE char *error = NULL;
	struct hub_result result = {.n_images = 0};
	struct hub_generation g;

	if (generation_load_to_work(w->store, id, &g) < 0)
		return;
	char **paths = reference_paths(w, &g);
	const struct provider_job job = {&g.order, (const char *const *)paths, g.n_references};

	snprintf(result.id, sizeof result.id, "%s", id);
	if (must_fail(w))
		error = xstrdup("The provider failed, as it was told to for a test");
	else
		make_all(w, &g, &job, &result, &error);
	result.error_message = error;
	const int rc = generation_finish(w->store, &result);
	if (rc < 0)
		log_error("generation %s cannot be finished: %s", id, strerror(-rc));
	else
		drop_references(w, &g, paths);
	for (int i = 0; i < result.n_images; i++)
		free(result.images[i].ext);
	hub_generation_release(&g);
	w->ended(w->arg, id);
}

/* ---- the threads ---- */

static void *worker_main(void *arg)
{
	struct workers *w = arg;
	char id[HUB_ID_SIZE];

	pthread_mutex_lock(&w->lock);
	while (!w->stopping) {
		const uint64_t seen = w->work;

		pthread_mutex_unlock(&w->lock);
		const int rc = generation_take(w->store, id);
		if (rc == 1)
			work_on(w, id);
		if (rc < 0) {
			log_error("the queue cannot be read: %s", strerror(-rc));
			pause_for(w, 1000);
		}
		pthread_mutex_lock(&w->lock);
		while (rc == 0 && seen == w->work && !w->stopping)
			pthread_cond_wait(&w->wake, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int open_folder(struct store *s, const char *name)
{
	CLEANUP_FREE char *path = files_join(store_dir(s), name);

	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

struct workers *workers_start(struct store *store, struct provider *provider, int count,
	const struct hub_trouble *trouble, void (*ended)(void *arg, const char *id), void *arg)
{
	struct workers *w = xcalloc(1, sizeof *w);

	*w = (struct workers){.store = store, .provider = provider, .trouble = *trouble,
		.ended = ended, .arg = arg, .images = open_folder(store, "images"),
		.refs = open_folder(store, "refs")};
	pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->wake);
	thread_cond_init(&w->stop);
	if (trouble->hold)
		count = 0;
	w->threads = xcalloc((size_t)count, sizeof *w->threads);
	while (w->count < count &&
		thread_start(&w->threads[w->count], "worker", worker_main, w) == 0)
		w->count++;
	return w;
}

void workers_wake(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->work++;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

void workers_stop(struct workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->wake);
	pthread_cond_broadcast(&w->stop);
	pthread_mutex_unlock(&w->lock);
	for (int i = 0; i < w->count; i++)
		pthread_join(w->threads[i], NULL);
	close(w->images);
	close(w->refs);
	pthread_cond_destroy(&w->stop);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w->threads);
	free(w);
}

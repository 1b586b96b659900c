#include "engine/engine.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/internal.h"
#include <errno.h>
#include <sodium.h>

enum { STOP_SLICE_MS = 50 };

struct command {
	struct list link;
	void (*run)(struct engine *e, int64_t id, void *arg);
	int64_t id;
	void *arg;
	int64_t by_ms;
};

void engine_tell(struct engine *e, enum engine_change what, int64_t node, int64_t request,
	int64_t generation, int64_t image)
{
	const struct engine_event event = {what, node, request, generation, image};

	if (e->events.changed)
		e->events.changed(e->events.arg, &event);
}

void engine_post_by(struct engine *e, void (*run)(struct engine *e, int64_t id, void *arg),
	int64_t id, void *arg, int64_t by_ms)
{
	struct command *c = xcalloc(1, sizeof *c);

	*c = (struct command){.run = run, .id = id, .arg = arg, .by_ms = by_ms};
	pthread_mutex_lock(&e->lock);
	list_append(&e->commands, &c->link);
	const bool sleeps_on = e->sleeps_until_ms > by_ms;
	pthread_mutex_unlock(&e->lock);
	if (sleeps_on)
		net_wake(e->net);
}

void engine_post(struct engine *e, void (*run)(struct engine *e, int64_t id, void *arg), int64_t id,
	void *arg)
{
	engine_post_by(e, run, id, arg, 0);
}

static void kicked(struct engine *e, int64_t id, void *arg)
{
	(void)id;
	(void)arg;
	e->kicked = true;
}

void engine_kick(struct engine *e)
{
	engine_post(e, kicked, 0, NULL);
}

int64_t backoff_jitter(int64_t delay_ms)
{
	const uint32_t spread = (uint32_t)(delay_ms * 2 / 5) + 1;

	return delay_ms - delay_ms / 5 + randombytes_uniform(spread);
}

int64_t backoff_next(int64_t delay_ms, int64_t most_ms)
{
	const int64_t next = delay_ms + delay_ms / 2;

	return next > most_ms ? most_ms : next;
}

/* Runs the commands that were there when it began; they may post more. */
static bool run_commands(struct engine *e)
{
	struct list taken = LIST_INIT(taken);
	bool stopping;

	pthread_mutex_lock(&e->lock);
	while (!list_empty(&e->commands)) {
		struct list *link = e->commands.next;

		list_remove(link);
		list_append(&taken, link);
	}
	stopping = e->stopping;
	pthread_mutex_unlock(&e->lock);

	list_for_each_safe (pos, next, &taken) {
		struct command *c = CONTAINER_OF(pos, struct command, link);

		list_remove(pos);
		e->by_ms = c->by_ms;
		c->run(e, c->id, c->arg);
		free(c);
	}
	return !stopping;
}

/* Waits for the network for so long (-1: for ever), unless there are commands. Whoever posts one by then
 * need not wake the thread: a wake-up for each of a thousand files that are closed in a second would
 * cost as much as a tenth of their writing. */
static void wait_for_network(struct engine *e, int wait_ms)
{
	pthread_mutex_lock(&e->lock);
	if (!list_empty(&e->commands) || e->stopping)
		wait_ms = 0;
	e->sleeps_until_ms = wait_ms < 0 ? INT64_MAX : clock_mono_ms() + wait_ms;
	pthread_mutex_unlock(&e->lock);
	net_run(e->net, wait_ms);
	pthread_mutex_lock(&e->lock);
	e->sleeps_until_ms = 0;
	pthread_mutex_unlock(&e->lock);
}

/* ---- what has been committed, on the disk ---- */

enum { SYNC_AGAIN_MS = 1000 };

static void sync_again(struct timer *timer)
{
	engine_sync(CONTAINER_OF(timer, struct engine, sync_again));
}

static void sync_later(struct engine *e, int64_t id, void *arg)
{
	(void)id;
	(void)arg;
	timer_set(&e->timers, &e->sync_again, clock_mono_ms() + SYNC_AGAIN_MS);
}

int engine_sync(struct engine *e)
{
	const int rc = catalogue_sync(e->cat);

	if (rc < 0)
		engine_post(e, sync_later, 0, NULL);
	return rc;
}

static void day_began(struct timer *timer)
{
	struct engine *e = CONTAINER_OF(timer, struct engine, midnight);
	const int64_t now = clock_wall_ms();
	const int64_t day = 24 * 3600 * 1000;

	/* A day of 23 or 25 hours is met by looking again an hour later at the latest. */
	int64_t wait = clock_day_start_ms(now) + day - now;
	if (wait < 1000 || wait > 3600 * 1000)
		wait = wait < 1000 ? 1000 : 3600 * 1000;
	timer_set(&e->timers, timer, clock_mono_ms() + wait);
	submit_budget_freed(e);
}

/* Sent POSTs get their time to be answered: what is not answered by then stays `sending`. */
static void finish_posts(struct engine *e)
{
	const int64_t deadline = clock_mono_ms() + e->grace_ms;

	while (e->sending > 0 && clock_mono_ms() < deadline)
		net_run(e->net, STOP_SLICE_MS);
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;

	account_start(e); /* first: what is recovered may ask for the balance */
	answer_recover(e);
	follow_recover(e);
	commit_recover(e);
	day_began(&e->midnight);
	e->kicked = true;
	while (run_commands(e)) {
		timers_run(&e->timers, clock_mono_ms());
		if (e->kicked) {
			e->kicked = false;
			submit_queue(e);
		}
		wait_for_network(e, e->kicked || pictures_are_due(e)
				? 0
				: timers_wait_ms(&e->timers, clock_mono_ms(), -1));
		pictures_turn(e);
	}
	finish_posts(e);
	return NULL;
}


struct engine *engine_create(const struct engine_config *config, struct catalogue *cat,
	const struct engine_events *events, char **error)
{
	char *origin = net_origin(config->hub, error);
	if (!origin)
		return NULL;
	if (sodium_init() < 0) {
		fail(error, -EIO, "libsodium does not start");
		free(origin);
		return NULL;
	}

	struct engine *e = xcalloc(1, sizeof *e);
	e->config = *config;
	e->config.hub = origin;
	e->config.key = xstrdup_or_null(config->key);
	e->config.cache_dir = xstrdup_or_null(config->cache_dir);
	e->config.mountpoint = xstrdup_or_null(config->mountpoint);
	e->control = config->mountpoint ? xasprintf("%s/control", config->mountpoint)
					: xstrdup("control");
	if (e->config.sending_max <= 0)
		e->config.sending_max = 4;
	if (e->config.running_max <= 0)
		e->config.running_max = INT32_MAX;
	e->cat = cat;
	if (events)
		e->events = *events;
	e->midnight.fire = day_began;
	e->sync_again.fire = sync_again;
	pthread_mutex_init(&e->lock, NULL);
	list_init(&e->commands);
	list_init(&e->flights);
	list_init(&e->errands);
	list_init(&e->adoptions);
	catalogue_models_load(cat, &e->models, &(int64_t){0});

	submit_init(e);

	const struct net_config net = {.hub = origin, .key = e->config.key};
	e->net = net_create(&net, error);
	e->pictures = e->net ? pictures_create(e, error) : NULL;
	if (!e->pictures) {
		engine_destroy(e);
		return NULL;
	}
	return e;
}

int engine_start(struct engine *e)
{
	int rc = pictures_start(e);

	if (rc == 0)
		rc = thread_start(&e->thread, "engine", engine_main, e);
	e->running = rc == 0;
	return rc;
}

void engine_stop(struct engine *e, int64_t grace_ms)
{
	if (!e->running)
		return;
	pthread_mutex_lock(&e->lock);
	e->stopping = true;
	e->grace_ms = grace_ms;
	pthread_mutex_unlock(&e->lock);
	net_wake(e->net);
	pthread_join(e->thread, NULL);
	e->running = false;

	answer_release(e);
	adopt_release(e, -ENOTCONN);
	pictures_release(e);
	follow_release(e);
	account_release(e);
	settle_release(e);
}

void engine_destroy(struct engine *e)
{
	if (!e)
		return;
	engine_stop(e, 0);
	list_for_each_safe (pos, next, &e->commands)
		free(CONTAINER_OF(pos, struct command, link));
	/* What a cancelled call would have got: each begins with its link. */
	list_for_each_safe (errand, following, &e->errands)
		free(errand);
	net_destroy(e->net);
	pictures_destroy(e->pictures);
	timers_release(&e->timers);
	wire_models_release(&e->models);
	free(e->hub_message);
	free(e->gate_why);
	free(e->control_said);
	pthread_mutex_destroy(&e->lock);
	free((char *)e->config.hub);
	free((char *)e->config.key);
	free((char *)e->config.cache_dir);
	free((char *)e->config.mountpoint);
	free(e->control);
	free(e);
}

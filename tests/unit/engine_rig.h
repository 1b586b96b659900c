/*
 * engine_rig.h - an engine on a state directory of its own, with a scripted hub, for tests.
 *
 *	struct rig r;
 *	rig_open(&r);			the engine is created, not started
 *	… judge(r.e, …), submit_queue(r.e), rig_turn(&r) on this thread; or engine_start(r.e) …
 *	rig_close(&r);
 *
 * Statements are run with rig_sql(), a macro as they must be literals. rig_forbid() makes a kind of
 * write fail by a trigger, rig_allow() lets it pass again.
 */
#ifndef UNIT_ENGINE_RIG_H
#define UNIT_ENGINE_RIG_H

#include "base/clock.h"
#include "base/files.h"
#include "catalogue/internal.h"
#include "engine/internal.h"
#include "engine/life.h"
#include "net/internal.h"
#include "scripted_hub.h"
#include <errno.h>

struct rig {
	char dir[64];
	struct catalogue *cat;
	struct scripted_hub *hub;
	struct engine *e;
	int names;

	/* Told from any thread. */
	pthread_mutex_t lock;
	pthread_cond_t told;
	int64_t events, models; /* all; and those that tell of models */
	void (*changed)(struct rig *r, const struct engine_event *event);
	int64_t victim; /* canceled, as a user may at any moment, by the next event (rig_cancel_victim) */
};

#define rig_sql(r, sql) assert_true(db_run((r)->cat->db, sql, "") >= 0)
#define rig_forbid(r, when, table)                                                                 \
	rig_sql(r, "CREATE TRIGGER forbidden BEFORE " when " ON " table                            \
		   " BEGIN SELECT RAISE(ABORT, 'forbidden'); END")
#define rig_allow(r) rig_sql(r, "DROP TRIGGER forbidden")

static inline void rig_cancel_victim(struct rig *r, const struct engine_event *event)
{
	struct request q;
	const int64_t id = r->victim;

	(void)event;
	if (id == 0)
		return;
	r->victim = 0;
	assert_int_equal(request_get(r->cat, id, &q), 0);
	q.generation = 0;
	assert_int_equal(life_move(r->e, &q, REQUEST_CANCELED, DB_FULL, NULL, "canceled"), 0);
	request_release(&q);
}

static inline void rig_changed(void *arg, const struct engine_event *event)
{
	struct rig *r = arg;

	if (r->changed)
		r->changed(r, event);
	pthread_mutex_lock(&r->lock);
	r->events++;
	r->models += event->what == CHANGE_MODELS;
	pthread_cond_broadcast(&r->told);
	pthread_mutex_unlock(&r->lock);
}

/* Opens the state in r->dir. */
static inline void rig_open_state(struct rig *r, const struct engine_config *config)
{
	const struct engine_events events = {rig_changed, r};
	CLEANUP_FREE char *cache = files_join(r->dir, "cache");
	CLEANUP_FREE char *error = NULL;
	struct engine_config c = *config;

	r->cat = catalogue_open(r->dir, NULL, &error);
	assert_null(error);
	c.cache_dir = cache;
	r->e = engine_create(&c, r->cat, &events, &error);
	assert_null(error);
}

static inline void rig_open_with(struct rig *r, const struct engine_config *config)
{
	*r = (struct rig){.dir = "/tmp/engine-test-XXXXXX"};
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->told, NULL);
	assert_non_null(mkdtemp(r->dir));
	r->hub = hub_start();

	struct engine_config c = *config;
	if (!c.hub)
		c.hub = r->hub->url;
	rig_open_state(r, &c);
}

static inline void rig_open(struct rig *r)
{
	rig_open_with(r, &(struct engine_config){.key = "gih_live_test", .max_spend = -1});
}

static inline void rig_close_state(struct rig *r)
{
	if (!r->e->running) {
		answer_release(r->e);
		follow_release(r->e);
	}
	engine_destroy(r->e);
	catalogue_close(r->cat);
	r->e = NULL;
	r->cat = NULL;
}

static inline void rig_close(struct rig *r)
{
	CLEANUP_FREE char *command = xasprintf("rm -rf '%s'", r->dir);

	rig_close_state(r);
	hub_stop(r->hub);
	assert_int_equal(system(command), 0);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->told);
}

/* Models and a balance as if the hub had told them. */
static inline void rig_know(struct rig *r, int64_t credits, int64_t as_of_ms)
{
	const char *body = strstr(r->hub->models, "\r\n\r\n") + 4;
	const struct wire_balance b = {.credits = credits};

	wire_models_release(&r->e->models);
	assert_int_equal(wire_models_decode(body, strlen(body), &r->e->models, NULL), 0);
	assert_int_equal(catalogue_balance_save(r->cat, &b, as_of_ms), 0);
}

/* A prompt file and its request; returns the request's id. */
static inline int64_t rig_add(struct rig *r, enum request_state state, const char *size)
{
	CLEANUP_FREE char *name = xasprintf("p%d.prompt", r->names++);
	struct node n;
	struct request q = {.path = name, .state = state, .price_low = -1, .price_high = -1,
		.charged = -1, .balance_before = -1, .balance_after = -1};

	assert_int_equal(tree_create(r->cat, TREE_ROOT, name, S_IFREG | 0644, 1, 1, NULL, &n), 0);
	q.node = n.id;
	q.order = (struct order){.model = (char *)"m1", .prompt = (char *)"x", .size = (char *)size,
		.async = true};
	snprintf(q.key, sizeof q.key, "key-%d", r->names);
	assert_int_equal(request_insert(r->cat, &q, NULL, 0, "queued"), 0);
	return q.id;
}

/* Takes it to `sending` with its charge, as the queue does. */
static inline void rig_send(struct rig *r, int64_t id)
{
	struct request q;

	assert_int_equal(request_get(r->cat, id, &q), 0);
	q.sent_ms = clock_wall_ms();
	q.charged = -1;
	q.attempts++;
	assert_int_equal(life_move(r->e, &q, REQUEST_SENDING, DB_FULL, NULL, "sending"), 0);
	assert_int_equal(request_charge_open(r->cat, id, 8), 0);
	request_release(&q);
}

/* An answer that came for it. */
static inline void rig_answer(struct rig *r, int64_t id, const struct net_reply *reply)
{
	struct posting *p = answer_expect(r->e, &(struct request){.id = id});
	struct net_reply copy = *reply;

	copy.message = reply->message ? reply->message : reply->outcome ? "as it said" : NULL;
	copy.body = reply->body ? reply->body : (char *)"";
	copy.body_len = strlen(copy.body);
	r->e->sending++;
	answer_post(p, &copy);
}

static inline enum request_state rig_state(struct rig *r, int64_t id)
{
	struct request q;

	assert_int_equal(request_get(r->cat, id, &q), 0);
	const enum request_state state = q.state;
	request_release(&q);
	return state;
}

static inline int64_t rig_count(struct rig *r, const char *table)
{
	int64_t n = -1;

	db_lock(r->cat->db);
	if (strcmp(table, "log") == 0)
		db_get_int(r->cat->db, &n, "SELECT count(*) FROM log", "");
	else
		db_get_int(r->cat->db, &n, "SELECT count(*) FROM charge", "");
	db_unlock(r->cat->db);
	return n;
}

/* How often the hub's models were heard. */
static inline int64_t rig_models(struct rig *r)
{
	pthread_mutex_lock(&r->lock);
	const int64_t n = r->models;
	pthread_mutex_unlock(&r->lock);
	return n;
}

/* One turn of the engine's thread, by hand. */
static inline void rig_turn(struct rig *r)
{
	timers_run(&r->e->timers, clock_mono_ms());
	net_run(r->e->net, 5);
}

enum { RIG_LIMIT_MS = 60 * 1000 }; /* that anything may take on a slow machine */

#define rig_until(r, condition)                                                                    \
	do {                                                                                       \
		const int64_t end = clock_mono_ms() + RIG_LIMIT_MS;                                \
		while (!(condition)) {                                                             \
			assert_true(clock_mono_ms() < end);                                        \
			rig_turn(r);                                                               \
		}                                                                                  \
	} while (0)

/* With a started engine: waits for what it tells of, as long. */
#define rig_wait(r, condition)                                                                     \
	do {                                                                                       \
		struct timespec end;                                                               \
		clock_gettime(CLOCK_REALTIME, &end);                                               \
		end.tv_sec += RIG_LIMIT_MS / 1000;                                                 \
		for (;;) {                                                                         \
			pthread_mutex_lock(&(r)->lock);                                            \
			const int64_t seen = (r)->events;                                          \
			pthread_mutex_unlock(&(r)->lock);                                          \
			if (condition)                                                             \
				break;                                                             \
			pthread_mutex_lock(&(r)->lock);                                            \
			int rc = 0;                                                                \
			while ((r)->events == seen && rc == 0)                                     \
				rc = pthread_cond_timedwait(&(r)->told, &(r)->lock, &end);         \
			pthread_mutex_unlock(&(r)->lock);                                          \
			assert_int_equal(rc, 0);                                                   \
		}                                                                                  \
	} while (0)

#endif

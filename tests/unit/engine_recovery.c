/*
 * A crash at each step of intend, send and answer: the state directory is copied at that moment, as a
 * kill would leave it, and another engine starts on the copy, at a hub that knows keys and at one that
 * does not. The first one, whose fate is not that of the test, goes on unharmed.
 */
#include "engine_rig.h"
#include <fcntl.h>
#include <signal.h>

enum step {
	STEP_QUEUED,   /* committed, not looked at */
	STEP_INTENDED, /* `sending` is durable, nothing has left */
	STEP_RECEIVED, /* the hub has the POST, and has not answered */
	STEP_ANSWERED, /* the answer is here, and cannot be written */
	STEP_ACCEPTED, /* it is written */
	STEPS,
};

static struct rig r;
static enum step step;
static char copy[64];
static bool copied;

static void copy_state(void)
{
	if (copied)
		return;
	copied = true;
	assert_non_null(mkdtemp(copy));
	CLEANUP_FREE char *command = xasprintf("cp -a '%s/.' '%s'", r.dir, copy);
	assert_int_equal(system(command), 0);
}

static void on_change(struct rig *rig, const struct engine_event *event)
{
	if (step != STEP_INTENDED || event->what != CHANGE_REQUEST || !event->request ||
		rig_state(rig, event->request) != REQUEST_SENDING)
		return;
	assert_int_equal(hub_posts(rig->hub), 0);
	copy_state();
}

static void on_post(void *arg)
{
	(void)arg;
	if (step == STEP_RECEIVED)
		copy_state();
}

static bool kept; /* under r.lock */

static void look(struct engine *e, int64_t id, void *arg)
{
	(void)id;
	(void)arg;
	pthread_mutex_lock(&r.lock);
	kept = hub_posts(r.hub) == 1 && e->sending == 0;
	r.events++;
	pthread_cond_broadcast(&r.told);
	pthread_mutex_unlock(&r.lock);
}

/* Nothing tells of an answer that cannot be written: the engine's thread is asked. */
static bool answer_is_kept(void)
{
	pthread_mutex_lock(&r.lock);
	const bool now = kept;
	pthread_mutex_unlock(&r.lock);
	if (!now)
		engine_post(r.e, look, 0, NULL);
	return now;
}

/* Runs one request to its end, with a copy taken at the step. */
static void crash_at(enum step at, bool keys, bool heard)
{
	const char *name = "/tmp/engine-crash-XXXXXX";
	int64_t id;

	step = at;
	copied = kept = false;
	snprintf(copy, sizeof copy, "%s", name);
	rig_open(&r);
	r.hub->idempotent = keys;
	r.hub->received = on_post;
	r.changed = on_change;
	rig_know(&r, 1000, clock_wall_ms());
	if (heard && keys)
		submit_heard(r.e, &(struct net_reply){.idempotent = true});
	id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	if (at == STEP_QUEUED)
		copy_state();
	if (at == STEP_ANSWERED)
		rig_forbid(&r, "INSERT", "generation");
	assert_int_equal(engine_start(r.e), 0);
	if (at == STEP_ANSWERED) {
		rig_wait(&r, answer_is_kept());
		assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
		copy_state();
		rig_allow(&r);
	}
	rig_wait(&r, rig_state(&r, id) == REQUEST_RUNNING);
	if (at == STEP_ACCEPTED)
		copy_state();
	engine_stop(r.e, 1000);
	assert_true(copied);
	assert_int_equal(hub_posts(r.hub), 1);
}

/* By one look: it goes from `sending` to `queued` meanwhile. */
static bool has_moved(int64_t id)
{
	const enum request_state now = rig_state(&r, id);

	return now != REQUEST_QUEUED && now != REQUEST_SENDING;
}

/* Another start, on the copy. Returns the state the request comes to rest or to run in. */
static enum request_state start_again(bool keys, int *posts)
{
	const struct engine_config c = {.hub = r.hub->url, .key = "gih_live_test", .max_spend = -1};
	CLEANUP_FREE char *clean = xasprintf("rm -rf '%s'", r.dir);
	const int before = hub_posts(r.hub);
	struct request q;

	rig_close_state(&r);
	assert_int_equal(system(clean), 0);
	snprintf(r.dir, sizeof r.dir, "%s", copy);
	r.changed = NULL;
	rig_open_state(&r, &c);
	/* It stands for the state itself after a kill, not for a copy of it. */
	assert_int_equal(catalogue_set(r.cat, "paused", NULL), 0);
	if (step == STEP_ANSWERED)
		rig_allow(&r);
	rig_know(&r, 1000, clock_wall_ms());
	assert_int_equal(engine_start(r.e), 0);
	rig_wait(&r, has_moved(1));
	/* And another: what rests stays as it is. */
	engine_stop(r.e, 1000);
	rig_close_state(&r);
	rig_open_state(&r, &c);
	const int64_t heard = rig_models(&r);
	assert_int_equal(engine_start(r.e), 0);
	rig_wait(&r, rig_models(&r) > heard);
	engine_stop(r.e, 1000);

	assert_int_equal(request_get(r.cat, 1, &q), 0);
	const enum request_state state = q.state;
	assert_int_equal(request_charges_open(r.cat, 1), 1);
	assert_int_equal(request_spent_since(r.cat, 0), 8);
	if (state == REQUEST_UNKNOWN)
		assert_int_equal(q.charged, -1);
	request_release(&q);
	*posts = hub_posts(r.hub) - before;
	(void)keys;
	return state;
}

static void every_step(void **state)
{
	/* By step: what it becomes, and how many POSTs the second start makes. */
	static const struct {
		enum request_state state;
		int posts;
	} expected[STEPS][2] = {
		[STEP_QUEUED] = {{REQUEST_RUNNING, 1}, {REQUEST_RUNNING, 1}},
		[STEP_INTENDED] = {{REQUEST_UNKNOWN, 0}, {REQUEST_RUNNING, 1}},
		[STEP_RECEIVED] = {{REQUEST_UNKNOWN, 0}, {REQUEST_RUNNING, 1}},
		[STEP_ANSWERED] = {{REQUEST_UNKNOWN, 0}, {REQUEST_RUNNING, 1}},
		[STEP_ACCEPTED] = {{REQUEST_RUNNING, 0}, {REQUEST_RUNNING, 0}},
	};
	int fired = 0;

	(void)state;
	for (int at = 0; at < STEPS; at++)
		for (int keys = 0; keys < 2; keys++) {
			char first[sizeof r.hub->last_post];
			int posts;

			crash_at((enum step)at, keys, true);
			snprintf(first, sizeof first, "%s", r.hub->last_post);
			assert_int_equal(start_again(keys, &posts), expected[at][keys].state);
			assert_int_equal(posts, expected[at][keys].posts);
			/* What goes again is the same: key, body and all. */
			assert_string_equal(r.hub->last_post, first);
			rig_close(&r);
			fired++;
		}
	print_message("%d crashes\n", fired);
	assert_int_equal(fired, STEPS * 2);
}

/* The hub was one that knows keys when it was sent, and is another when it comes back. */
static void a_hub_that_forgot_keys(void **state)
{
	int posts;

	(void)state;
	crash_at(STEP_RECEIVED, true, true);
	r.hub->idempotent = false;
	assert_int_equal(start_again(true, &posts), REQUEST_UNKNOWN);
	assert_int_equal(posts, 0);
	rig_close(&r);
}

/* At a full disk a start cannot even write that it is unknown: it does once it can. */
static void a_start_that_cannot_write(void **state)
{
	(void)state;
	rig_open(&r);
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_send(&r, id);
	rig_forbid(&r, "UPDATE", "request");
	assert_int_equal(engine_start(r.e), 0);
	rig_wait(&r, rig_models(&r) > 0);
	assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
	rig_allow(&r);
	rig_wait(&r, rig_state(&r, id) == REQUEST_UNKNOWN);
	assert_int_equal(hub_posts(r.hub), 0);
	rig_close(&r);
}

/* Two orders that get one id come to an end both; one that the hub has lost is not called free. */
static void one_id_for_two(void **state)
{
	(void)state;
	rig_open(&r);
	rig_know(&r, 1000, clock_wall_ms());
	const int64_t a = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t b = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	hub_say(r.hub, &r.hub->generation, hub_answer(200, "", "{\"id\":\"gen_00000001\",\"status\":"
		"\"failed\",\"error\":{\"message\":\"no\"}}"));
	assert_int_equal(engine_start(r.e), 0);
	rig_wait(&r, (rig_state(&r, a) == REQUEST_FAILED && rig_state(&r, b) == REQUEST_FAILED));
	engine_stop(r.e, 0);
	assert_int_equal(request_get(r.cat, a, &q), 0);
	assert_int_equal(q.charged, 0);
	request_release(&q);
	assert_int_equal(hub_posts(r.hub), 2);
	rig_close(&r);
}

/* As after a kill with a spool too large for the start to look through. */
static void a_large_spool_is_tidied_meanwhile(void **state)
{
	enum { STRAYS = 100 };
	const int64_t end = clock_mono_ms() + 20000;
	int left = STRAYS;

	(void)state;
	rig_open(&r);
	for (int i = 0; i < STRAYS; i++) {
		CLEANUP_FREE char *name = xasprintf("%d", 999000 + i);
		CLEANUP_CLOSE int fd = openat(r.cat->spool, name, O_CREAT | O_WRONLY, 0600);
		assert_true(fd >= 0);
	}
	r.cat->untidy = fdopendir(openat(r.cat->spool, ".", O_RDONLY | O_DIRECTORY));
	assert_false(catalogue_tidy(r.cat, 0));
	assert_int_equal(engine_start(r.e), 0);
	while (left > 0 && clock_mono_ms() < end) {
		left = 0;
		for (int i = 0; i < STRAYS; i++) {
			CLEANUP_FREE char *name = xasprintf("%d", 999000 + i);
			left += faccessat(r.cat->spool, name, F_OK, 0) == 0;
		}
	}
	assert_int_equal(left, 0);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_step),
		cmocka_unit_test(a_hub_that_forgot_keys),
		cmocka_unit_test(a_start_that_cannot_write),
		cmocka_unit_test(one_id_for_two),
		cmocka_unit_test(a_large_spool_is_tidied_meanwhile),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

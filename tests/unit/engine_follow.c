/*
 * Following a generation that the hub does not know for a while: it may be paid, so that neither a short
 * trouble nor another account's API key ends it.
 */
#include "engine_rig.h"

static struct rig r;
static struct clock_fake fake;

static int setup(void **state)
{
	(void)state;
	fake = (struct clock_fake){.wall_ms = clock_wall_ms(), .mono_ms = clock_mono_ms()};
	clock_fake_set(&fake);
	rig_open(&r);
	account_start(r.e);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	account_release(r.e);
	rig_close(&r);
	clock_fake_set(NULL);
	return 0;
}

/* A request whose generation the hub has accepted; followed. */
static int64_t follow(void)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");

	rig_send(&r, id);
	rig_answer(&r, id, &(struct net_reply){.outcome = OUTCOME_OK, .http = 202,
		.body = (char *)"{\"id\":\"gen_00000001\",\"status\":\"queued\"}"});
	assert_int_equal(rig_state(&r, id), REQUEST_RUNNING);
	assert_int_equal(r.e->n_flights, 1);
	return id;
}

/* So much time passes, in steps of a minute, each with its poll; how many polls were answered. */
static int polls_of(int minutes)
{
	int polls = 0;

	for (int k = 0; k < minutes && r.e->n_flights > 0; k++) {
		fake.mono_ms += 75 * 1000; /* above the longest pause between polls */
		fake.wall_ms += 75 * 1000;
		timers_run(&r.e->timers, clock_mono_ms());
		timers_run(&r.e->timers, clock_mono_ms()); /* its turn in the line */
		while (net_running(r.e->net) > 0)
			net_run(r.e->net, 5);
		polls++;
	}
	return polls;
}

static char *word(void)
{
	struct generation g;

	assert_int_equal(generation_get(r.cat, 1, &g), 0);
	char *status = xstrdup(g.status);
	generation_release(&g);
	return status;
}

static void what_the_hub_denies_for_an_hour_has_failed(void **state)
{
	const int64_t id = follow();
	struct request q;

	(void)state;
	assert_int_equal(polls_of(45), 45);
	assert_int_equal(rig_state(&r, id), REQUEST_RUNNING);
	CLEANUP_FREE char *meanwhile = word();
	assert_string_equal(meanwhile, "not known to the hub just now");
	assert_true(polls_of(45) < 10);
	assert_int_equal(request_get(r.cat, id, &q), 0);
	assert_int_equal(q.state, REQUEST_FAILED);
	assert_true(request_may_be_charged(&q));
	request_release(&q);
}

static void what_it_knows_again_goes_on(void **state)
{
	const int64_t id = follow();

	(void)state;
	for (int k = 0; k < 3; k++) {
		polls_of(40);
		assert_int_equal(rig_state(&r, id), REQUEST_RUNNING);
		hub_say(r.hub, &r.hub->generation, hub_answer(200, "",
			"{\"id\":\"gen_00000001\",\"status\":\"processing\"}"));
		polls_of(1);
		CLEANUP_FREE char *now = word();
		assert_string_equal(now, "processing");
		hub_say(r.hub, &r.hub->generation, hub_answer(404, "", ""));
	}
	hub_say(r.hub, &r.hub->generation, hub_answer(200, "",
		"{\"id\":\"gen_00000001\",\"status\":\"failed\"}"));
	polls_of(1);
	assert_int_equal(rig_state(&r, id), REQUEST_FAILED);
}

static void another_key_proves_nothing(void **state)
{
	(void)state;
	fake.wall_ms += 1000;
	r.e->key_since_ms = clock_wall_ms() + 1; /* as after a start with another key */
	const int64_t id = follow();

	assert_int_equal(polls_of(200), 200);
	assert_int_equal(rig_state(&r, id), REQUEST_RUNNING);
	CLEANUP_FREE char *meanwhile = word();
	assert_string_equal(meanwhile, "not known to the hub under this API key");
}

/* A hub that gives an id a second time, after it was removed here. */
static void an_id_that_was_removed_comes_back(void **state)
{
	const struct net_reply reply = {.outcome = OUTCOME_OK, .http = 200,
		.body = (char *)"{\"id\":\"gen_00000001\",\"status\":\"failed\"}"};
	const int64_t a = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t b = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct generation g;

	(void)state;
	rig_send(&r, a);
	rig_answer(&r, a, &reply);
	assert_int_equal(rig_state(&r, a), REQUEST_FAILED);
	assert_int_equal(engine_forget_generation(r.e, 1), 0);
	assert_int_equal(generation_get(r.cat, 1, &g), -ENOENT);
	rig_send(&r, b);
	rig_answer(&r, b, &reply);
	assert_int_equal(rig_state(&r, b), REQUEST_FAILED); /* not running for ever */
	assert_int_equal(generation_get(r.cat, 1, &g), 0);
	generation_release(&g);

	/* And a third time, under way: what one order has ended is not settled while another waits for it. */
	const int64_t c = follow();
	assert_int_equal(engine_forget_generation(r.e, 1), -EBUSY);
	hub_say(r.hub, &r.hub->generation, hub_answer(200, "",
		"{\"id\":\"gen_00000001\",\"status\":\"failed\"}"));
	polls_of(1);
	assert_int_equal(rig_state(&r, c), REQUEST_FAILED);
	assert_int_equal(engine_forget_generation(r.e, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_the_hub_denies_for_an_hour_has_failed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_it_knows_again_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(an_id_that_was_removed_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(another_key_proves_nothing, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

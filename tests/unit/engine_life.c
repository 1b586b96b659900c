/*
 * The table of states: every pair, the invariants, and that a move that is refused or undone writes
 * nothing and tells nobody.
 */
#include "engine_rig.h"

static struct rig r;

/* DESIGN.md, section 4, once more: where each state may lead. */
static const char *const may[REQUEST_STATES] = {
	[REQUEST_QUEUED] = "held sending refused unknown canceled",
	[REQUEST_HELD] = "queued canceled",
	[REQUEST_SENDING] = "running failed refused unknown queued held",
	[REQUEST_RUNNING] = "succeeded failed",
	[REQUEST_SUCCEEDED] = "",
	[REQUEST_FAILED] = "queued",
	[REQUEST_REFUSED] = "queued",
	[REQUEST_UNKNOWN] = "queued canceled",
	[REQUEST_CANCELED] = "",
};

static bool allowed(enum request_state from, enum request_state to)
{
	const char *name = life_name(to), *at = strstr(may[from], name);
	const size_t len = strlen(name);

	return at && (at == may[from] || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0');
}

/* Whatever the state to come asks for. */
static void fit(struct request *q, enum request_state to)
{
	q->generation = to == REQUEST_RUNNING || to == REQUEST_SUCCEEDED;
	q->hold = to == REQUEST_HELD ? HOLD_PAUSED : HOLD_NONE;
	q->sent_ms = 1;
	q->reason = to == REQUEST_FAILED || to == REQUEST_REFUSED || to == REQUEST_UNKNOWN
		? OUTCOME_CUT
		: OUTCOME_OK;
}

static void every_pair(void **state)
{
	int passed = 0;

	(void)state;
	rig_open(&r);
	for (int from = 0; from < REQUEST_STATES; from++)
		for (int to = 0; to < REQUEST_STATES; to++) {
			const int64_t id = rig_add(&r, (enum request_state)from, "1024x1024");
			struct request q;

			assert_int_equal(request_get(r.cat, id, &q), 0);
			fit(&q, (enum request_state)to);
			const int64_t lines = rig_count(&r, "log"), events = r.events;
			const int64_t rows = catalogue_changes(r.cat);
			const bool ok = allowed(from, to);
			assert_int_equal(life_may(from, to), ok);
			assert_int_equal(life_move(r.e, &q, to, DB_NORMAL, NULL, "moved"),
				ok ? 0 : -EINVAL);
			assert_int_equal(q.state, ok ? to : from);
			assert_int_equal(rig_state(&r, id), ok ? to : from);
			assert_int_equal(rig_count(&r, "log"), lines + ok);
			assert_int_equal(r.events, events + ok);
			if (!ok)
				assert_int_equal(catalogue_changes(r.cat), rows);
			passed += ok;
			request_release(&q);
		}
	assert_int_equal(passed, 19);
	for (int s = 0; s < REQUEST_STATES; s++)
		assert_int_equal(life_rests(s), s != REQUEST_QUEUED && s != REQUEST_SENDING &&
				s != REQUEST_RUNNING);
	rig_close(&r);
}

static void refuses(enum request_state from, enum request_state to, void (*spoil)(struct request *))
{
	const int64_t id = rig_add(&r, from, "1024x1024");
	struct request q;

	assert_int_equal(request_get(r.cat, id, &q), 0);
	fit(&q, to);
	spoil(&q);
	const int64_t lines = rig_count(&r, "log");
	assert_int_equal(life_move(r.e, &q, to, DB_NORMAL, NULL, "moved"), -EINVAL);
	assert_int_equal(q.state, from);
	assert_int_equal(rig_state(&r, id), from);
	assert_int_equal(rig_count(&r, "log"), lines);
	request_release(&q);
}

static void give_generation(struct request *q)
{
	q->generation = 7;
}

static void take_generation(struct request *q)
{
	q->generation = 0;
}

static void take_hold(struct request *q)
{
	q->hold = HOLD_NONE;
}

static void take_time(struct request *q)
{
	q->sent_ms = 0;
}

static void take_reason(struct request *q)
{
	q->reason = OUTCOME_OK;
}

static void invariants(void **state)
{
	(void)state;
	rig_open(&r);
	refuses(REQUEST_HELD, REQUEST_QUEUED, give_generation);
	refuses(REQUEST_HELD, REQUEST_CANCELED, give_generation);
	refuses(REQUEST_QUEUED, REQUEST_HELD, give_generation);
	refuses(REQUEST_QUEUED, REQUEST_HELD, take_hold);
	refuses(REQUEST_QUEUED, REQUEST_SENDING, take_time);
	refuses(REQUEST_SENDING, REQUEST_RUNNING, take_generation);
	refuses(REQUEST_RUNNING, REQUEST_SUCCEEDED, take_generation);
	refuses(REQUEST_SENDING, REQUEST_REFUSED, take_reason);
	refuses(REQUEST_RUNNING, REQUEST_FAILED, take_reason);
	refuses(REQUEST_SENDING, REQUEST_UNKNOWN, take_reason);
	rig_close(&r);
}

static int write_and_fail(struct engine *e, struct request *q, void *arg)
{
	(void)arg;
	assert_int_equal(request_charge_open(e->cat, q->id, 8), 0);
	return -ENOSPC;
}

static int write_well(struct engine *e, struct request *q, void *arg)
{
	(void)arg;
	return request_charge_open(e->cat, q->id, 8);
}

/* What goes with a move is written with it or not at all, and nobody is told of what is undone. */
static void all_or_nothing(void **state)
{
	const struct life_with bad = {write_and_fail, NULL}, good = {write_well, NULL};
	struct request q, other;

	(void)state;
	rig_open(&r);
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	assert_int_equal(request_get(r.cat, id, &q), 0);
	fit(&q, REQUEST_SENDING);
	const int64_t events = r.events;
	assert_int_equal(life_move(r.e, &q, REQUEST_SENDING, DB_FULL, &bad, "sending"), -ENOSPC);
	rig_forbid(&r, "INSERT", "log");
	assert_int_equal(life_move(r.e, &q, REQUEST_SENDING, DB_FULL, &good, "x"), -ECANCELED);
	rig_allow(&r);
	rig_forbid(&r, "UPDATE", "request");
	assert_int_equal(life_move(r.e, &q, REQUEST_SENDING, DB_FULL, &good, "x"), -ECANCELED);
	rig_allow(&r);
	assert_int_equal(q.state, REQUEST_QUEUED);
	assert_int_equal(rig_state(&r, id), REQUEST_QUEUED);
	assert_int_equal(rig_count(&r, "charge"), 0);
	assert_int_equal(r.events, events);

	assert_int_equal(request_get(r.cat, id, &other), 0);
	assert_int_equal(life_move(r.e, &q, REQUEST_SENDING, DB_FULL, &good, "sending"), 0);
	assert_int_equal(rig_count(&r, "charge"), 1);
	assert_int_equal(r.events, events + 1);
	/* A cancel that read the row before is too late. */
	assert_int_equal(life_move(r.e, &other, REQUEST_CANCELED, DB_FULL, &good, "x"), -ESTALE);
	assert_int_equal(rig_count(&r, "charge"), 1);
	assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
	request_release(&q);
	request_release(&other);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pair),
		cmocka_unit_test(invariants),
		cmocka_unit_test(all_or_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

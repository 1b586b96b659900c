/*
 * Whether a queued request may be sent: every verdict and every hold, and what lets the held go on.
 */
#include "engine_rig.h"

static struct rig r;

static int setup(void **state)
{
	(void)state;
	rig_open(&r);
	account_start(r.e);
	rig_know(&r, 500, clock_wall_ms());
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	account_release(r.e);
	rig_close(&r);
	return 0;
}

/* The verdict on a request, which change (may be NULL) makes special. */
static enum verdict verdict_on(int64_t id, void (*change)(struct request *q), enum hold *why)
{
	struct request q;

	assert_int_equal(request_get(r.cat, id, &q), 0);
	if (change)
		change(&q);
	const enum verdict v = judge(r.e, &q);
	if (why)
		*why = q.hold;
	request_release(&q);
	return v;
}

static enum verdict verdict(const char *size)
{
	return verdict_on(rig_add(&r, REQUEST_QUEUED, size), NULL, NULL);
}

static enum hold held_by(const char *size, void (*change)(struct request *q))
{
	enum hold why;

	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, size), change, &why), VERDICT_HOLD);
	return why;
}

static void no_model(struct request *q)
{
	free(q->order.model);
	q->order.model = NULL;
}

static void unpriced_model(struct request *q)
{
	free(q->order.model);
	q->order.model = xstrdup("m2");
}

static void wrong_model(struct request *q)
{
	free(q->order.model);
	q->order.model = xstrdup("m9");
}

static void approved(struct request *q)
{
	q->approved = true;
}

static void lost_before(struct request *q)
{
	q->reason = OUTCOME_CUT;
	q->sent_ms = 1000;
}

static void models_and_prices(void **state)
{
	(void)state;
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, "auto"), no_model, NULL), VERDICT_SEND);
	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, "auto"), wrong_model, NULL),
		VERDICT_REFUSE);
	assert_int_equal(held_by("1024x1024", unpriced_model), HOLD_PRICE);

	/* No list of models: waited for, unless the hub has said that it has none. */
	wire_models_release(&r.e->models);
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT);
	r.e->models_refresh.answered = true;
	assert_int_equal(held_by("1024x1024", NULL), HOLD_PRICE);
	assert_int_equal(held_by("1024x1024", no_model), HOLD_PRICE);
	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, "auto"), approved, NULL), VERDICT_SEND);
}

static void pause_and_removal(void **state)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct node n;

	(void)state;
	assert_int_equal(catalogue_set(r.cat, "paused", "1"), 0);
	assert_int_equal(held_by("1024x1024", approved), HOLD_PAUSED);
	assert_int_equal(catalogue_set(r.cat, "paused", NULL), 0);

	/* Removed, and while somebody still has it open. */
	assert_int_equal(tree_unlink(r.cat, TREE_ROOT, "p0.prompt", &n), 0);
	assert_int_equal(verdict_on(id, NULL, NULL), VERDICT_CANCEL);
	const int64_t open = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_sql(&r, "UPDATE node SET parent = NULL, name = NULL WHERE name = 'p2.prompt'");
	assert_int_equal(verdict_on(open, NULL, NULL), VERDICT_CANCEL);
	/* That it cannot be looked for does not mean that it is gone. */
	const int64_t there = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_sql(&r, "ALTER TABLE node RENAME TO gone");
	assert_int_equal(verdict_on(there, NULL, NULL), VERDICT_SEND);
	rig_sql(&r, "ALTER TABLE gone RENAME TO node");
}

/* It may have arrived: only with the hub's word of this session, and the same API key. */
static void repeats(void **state)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");

	(void)state;
	r.e->key_since_ms = 0;
	r.e->idempotent = true; /* as the setting says, from before */
	assert_int_equal(verdict_on(id, lost_before, NULL), VERDICT_LATER);
	submit_heard(r.e, &(struct net_reply){.idempotent = true});
	assert_int_equal(verdict_on(id, lost_before, NULL), VERDICT_SEND);
	r.e->config.max_spend = 0; /* it is no new spending */
	assert_int_equal(verdict_on(id, lost_before, NULL), VERDICT_SEND);
	r.e->key_since_ms = 2000;
	assert_int_equal(verdict_on(id, lost_before, NULL), VERDICT_UNKNOWN);
	r.e->key_since_ms = 0;
	submit_heard(r.e, &(struct net_reply){.idempotent = false});
	submit_heard(r.e, &(struct net_reply){.idempotent = false});
	assert_int_equal(verdict_on(id, lost_before, NULL), VERDICT_UNKNOWN);
	assert_null(catalogue_setting(r.cat, "idempotent"));
}

static void budget(void **state)
{
	(void)state;
	r.e->config.max_spend = 20;
	assert_int_equal(request_charge_open(r.cat, 1000, 8), 0); /* in flight counts */
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	assert_int_equal(verdict("auto"), VERDICT_SEND); /* 12 at most */
	assert_int_equal(request_charge_open(r.cat, 1001, 1), 0);
	assert_int_equal(held_by("auto", NULL), HOLD_BUDGET);
	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, "auto"), approved, NULL), VERDICT_SEND);
	assert_int_equal(request_charge_open(r.cat, 1002, 100), 0); /* over it */
	assert_int_equal(held_by("1024x1024", NULL), HOLD_BUDGET);
	rig_sql(&r, "UPDATE charge_sum SET quarter = quarter - 2 * 96"); /* yesterday's */
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	/* What cannot be counted is not spent. */
	rig_sql(&r, "ALTER TABLE charge_sum RENAME TO lost");
	assert_int_equal(held_by("1024x1024", NULL), HOLD_BUDGET);
	rig_sql(&r, "ALTER TABLE lost RENAME TO charge_sum");
	rig_sql(&r, "ALTER TABLE charge RENAME TO gone");
	assert_true(request_charges_open(r.cat, 1) > 1);
	assert_true(request_in_flight(r.cat) > 1000000);
	assert_true(request_charge_open(r.cat, 1, 1) < 0);
	assert_true(request_charge_settle(r.cat, 1, 1) < 0);
	assert_true(request_charge_merge(r.cat, 1) < 0);
	rig_sql(&r, "ALTER TABLE gone RENAME TO charge");
}

static void balance(void **state)
{
	const int64_t now = clock_wall_ms();

	(void)state;
	rig_know(&r, 8, now);
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	rig_know(&r, 7, now);
	assert_int_equal(held_by("1024x1024", NULL), HOLD_BALANCE);
	assert_int_equal(verdict_on(rig_add(&r, REQUEST_QUEUED, "1024x1024"), approved, NULL),
		VERDICT_SEND);

	/* An old balance is asked for anew; when that fails the hub decides. */
	rig_know(&r, 7, now - 60 * 1000);
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT);
	r.e->balance_heard = true;
	r.e->balance_outcome = OUTCOME_SERVER_ERROR;
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT); /* being asked */
	net_cancel(r.e->balance_refresh.call);
	r.e->balance_refresh.call = NULL;
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	r.e->balance_outcome = OUTCOME_OK;

	rig_know(&r, 7, now + 86400 * 1000); /* from before the clock was set back */
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT);
	net_cancel(r.e->balance_refresh.call);
	r.e->balance_refresh.call = NULL;

	/* What is in flight may take it: its end shows. */
	rig_know(&r, 15, now);
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_send(&r, id);
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT);
	rig_know(&r, 16, now);
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	rig_know(&r, 500, now); /* not worth summing up */
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);

	/* Not known: waited for at first; then the hub decides. */
	rig_sql(&r, "DELETE FROM setting WHERE name = 'balance'");
	assert_int_equal(verdict("1024x1024"), VERDICT_SEND);
	r.e->balance_heard = false;
	assert_int_equal(verdict("1024x1024"), VERDICT_WAIT);
}

/* ---- what lets the held go on ---- */

static int64_t held(enum hold why, int64_t balance_before)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	assert_int_equal(request_get(r.cat, id, &q), 0);
	q.hold = why;
	q.price_low = q.price_high = 8;
	q.balance_before = balance_before;
	if (why == HOLD_PRICE)
		unpriced_model(&q);
	assert_int_equal(life_move(r.e, &q, REQUEST_HELD, DB_NORMAL, NULL, "held"), 0);
	request_release(&q);
	return id;
}

static bool goes_on(int64_t id, bool rose)
{
	struct request q;

	submit_unhold(r.e, rose);
	assert_int_equal(request_get(r.cat, id, &q), 0);
	const bool on = q.state == REQUEST_QUEUED;
	assert_int_equal(on, q.hold == HOLD_NONE);
	request_release(&q);
	return on;
}

static void holds_end(void **state)
{
	const int64_t now = clock_wall_ms();

	(void)state;
	rig_know(&r, 7, now);
	int64_t id = held(HOLD_BALANCE, 7);
	assert_false(goes_on(id, true));
	rig_know(&r, 8, now);
	assert_true(goes_on(id, false));

	/* 402 with 20: not at 20, nor after a fall to 5; but at any rise that is enough. */
	rig_know(&r, 20, now);
	id = held(HOLD_CREDITS, 20);
	assert_false(goes_on(id, false));
	rig_know(&r, 5, now);
	assert_false(goes_on(id, false));
	assert_false(goes_on(id, true));
	rig_know(&r, 18, now);
	assert_true(goes_on(id, true));
	id = held(HOLD_CREDITS, 10); /* the rise came before the 402 */
	assert_true(goes_on(id, false));

	id = held(HOLD_PRICE, -1);
	assert_false(goes_on(id, true));
	rig_sql(&r, "UPDATE request SET wanted = replace(wanted, 'm2', 'm1')");
	assert_true(goes_on(id, false));

	r.e->config.max_spend = 10;
	id = held(HOLD_BUDGET, -1);
	assert_int_equal(request_charge_open(r.cat, 1000, 8), 0);
	assert_false(goes_on(id, true));
	assert_int_equal(request_charge_settle(r.cat, 1000, 2), 0);
	assert_true(goes_on(id, false));
	assert_int_equal(request_charge_open(r.cat, 1000, 8), 0);
	id = held(HOLD_BUDGET, -1);
	r.e->config.max_spend = -1; /* mounted without a limit */
	assert_true(goes_on(id, false));

	catalogue_set(r.cat, "paused", "1");
	id = held(HOLD_PAUSED, -1);
	assert_false(goes_on(id, true));
	catalogue_set(r.cat, "paused", NULL);
	/* A row that cannot be read does not stop the others. */
	const int64_t broken = held(HOLD_PAUSED, -1), after = held(HOLD_PAUSED, -1);
	rig_sql(&r, "UPDATE request SET key = 'broken', wanted = '' WHERE id ="
		    " (SELECT max(id) - 1 FROM request)");
	assert_true(goes_on(id, false));
	assert_int_equal(rig_state(&r, after), REQUEST_QUEUED);
	struct request q;
	assert_int_equal(request_get(r.cat, broken, &q), -EIO);
}

/* For one that has room, a batch is not moved to the queue and back: each time with an event, two log lines
 * and two transactions for every one of them. */
static void as_many_go_on_as_have_room(void **state)
{
	const int64_t now = clock_wall_ms();
	int64_t counts[REQUEST_STATES];

	(void)state;
	for (int k = 0; k < 20; k++)
		held(HOLD_BUDGET, -1);
	r.e->config.max_spend = 20;
	submit_budget_freed(r.e);
	assert_int_equal(request_counts(r.cat, counts), 0);
	assert_int_equal(counts[REQUEST_QUEUED], 2);
	rig_sql(&r, "UPDATE request SET state = 'canceled'");
	for (int k = 0; k < 20; k++)
		held(k % 2 ? HOLD_BALANCE : HOLD_CREDITS, 7);
	rig_know(&r, 100, now);
	submit_budget_freed(r.e); /* not theirs */
	assert_int_equal(request_counts(r.cat, counts), 0);
	assert_int_equal(counts[REQUEST_QUEUED], 0);
	submit_unhold(r.e, true);
	assert_int_equal(request_counts(r.cat, counts), 0);
	assert_int_equal(counts[REQUEST_QUEUED], 12);
	assert_int_equal(counts[REQUEST_HELD], 8);
}

/* A cancel that comes between reading and moving wins. */
static void a_held_one_that_was_canceled(void **state)
{
	(void)state;
	const int64_t id = held(HOLD_PAUSED, -1);

	rig_sql(&r, "CREATE TRIGGER meanwhile BEFORE UPDATE ON request WHEN old.state = 'held' AND"
		    " new.state = 'queued' BEGIN SELECT RAISE(IGNORE); END");
	submit_unhold(r.e, false);
	rig_sql(&r, "DROP TRIGGER meanwhile");
	assert_int_equal(rig_state(&r, id), REQUEST_HELD);
	/* Read in one list with the one before it. */
	r.victim = held(HOLD_PAUSED, -1);
	r.changed = rig_cancel_victim;
	const int64_t canceled = r.victim;
	submit_unhold(r.e, false);
	r.changed = NULL;
	assert_int_equal(rig_state(&r, id), REQUEST_QUEUED);
	assert_int_equal(rig_state(&r, canceled), REQUEST_CANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(models_and_prices, setup, teardown),
		cmocka_unit_test_setup_teardown(pause_and_removal, setup, teardown),
		cmocka_unit_test_setup_teardown(repeats, setup, teardown),
		cmocka_unit_test_setup_teardown(budget, setup, teardown),
		cmocka_unit_test_setup_teardown(balance, setup, teardown),
		cmocka_unit_test_setup_teardown(holds_end, setup, teardown),
		cmocka_unit_test_setup_teardown(as_many_go_on_as_have_room, setup, teardown),
		cmocka_unit_test_setup_teardown(a_held_one_that_was_canceled, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

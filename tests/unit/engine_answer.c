/*
 * What becomes of a request by what came of its POST: every outcome, with the answer lost before or
 * not, to a hub that knows keys or not; answers that cannot be written; the evidence of balances.
 */
#include "engine_rig.h"

static struct rig r;

static int setup(void **state)
{
	(void)state;
	rig_open(&r);
	account_start(r.e);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	account_release(r.e);
	rig_close(&r);
	return 0;
}

/* ---- every outcome ---- */

/* DESIGN.md, section 4, where the request may have left, at a hub that knows no keys. */
static const enum request_state table[OUTCOME_COUNT] = {
	[OUTCOME_OK] = REQUEST_RUNNING,
	[OUTCOME_INVALID_REQUEST] = REQUEST_REFUSED,
	[OUTCOME_MISSING_KEY] = REQUEST_REFUSED,
	[OUTCOME_INVALID_KEY] = REQUEST_REFUSED,
	[OUTCOME_EXPIRED_KEY] = REQUEST_REFUSED,
	[OUTCOME_NO_CREDITS] = REQUEST_HELD,
	[OUTCOME_NOT_FOUND] = REQUEST_REFUSED,
	[OUTCOME_GENERATION_FAILED] = REQUEST_FAILED,
	[OUTCOME_FORBIDDEN] = REQUEST_REFUSED,
	[OUTCOME_TOO_LARGE] = REQUEST_REFUSED,
	[OUTCOME_IDEMPOTENCY_MISMATCH] = REQUEST_REFUSED,
	[OUTCOME_RATE_LIMITED] = REQUEST_QUEUED,
	[OUTCOME_REFUSED] = REQUEST_REFUSED,
	[OUTCOME_SERVER_ERROR] = REQUEST_UNKNOWN,
	[OUTCOME_UNREADABLE] = REQUEST_UNKNOWN,
	[OUTCOME_HOSTILE] = REQUEST_UNKNOWN,
	[OUTCOME_NO_HOST] = REQUEST_UNKNOWN,
	[OUTCOME_NO_CONNECTION] = REQUEST_UNKNOWN,
	[OUTCOME_TLS] = REQUEST_UNKNOWN,
	[OUTCOME_TIMEOUT] = REQUEST_UNKNOWN,
	[OUTCOME_CUT] = REQUEST_UNKNOWN,
	[OUTCOME_LOCAL] = REQUEST_UNKNOWN,
};

enum before { FIRST, USER_RETRIED, BY_KEY };

static bool is_network(enum outcome o)
{
	return table[o] == REQUEST_UNKNOWN;
}

static enum request_state expected(enum outcome o, bool sent, bool keys, enum before before)
{
	enum request_state s = table[o];

	if (is_network(o) && (!sent || keys))
		s = REQUEST_QUEUED;
	/* A second try's refusal says nothing of the first. */
	if (before != FIRST && (s == REQUEST_REFUSED || s == REQUEST_FAILED))
		s = REQUEST_UNKNOWN;
	return s;
}

/* A request `sending`, an earlier try of which may have been charged. */
static int64_t sending(enum before before)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	if (before != FIRST) {
		rig_send(&r, id);
		rig_answer(&r, id, &(struct net_reply){.outcome = OUTCOME_CUT, .sent = true});
		assert_int_equal(request_get(r.cat, id, &q), 0);
		if (before == USER_RETRIED) {
			assert_int_equal(q.state, REQUEST_UNKNOWN);
			q.reason = OUTCOME_OK;
			assert_int_equal(life_move(r.e, &q, REQUEST_QUEUED, DB_FULL, NULL, "retry"), 0);
		}
		assert_int_equal(q.state, REQUEST_QUEUED);
		request_release(&q);
	}
	rig_send(&r, id);
	if (before == BY_KEY)
		assert_int_equal(request_charge_merge(r.cat, id), 0);
	return id;
}

static int generations;

static void one_outcome(enum outcome o, bool sent, bool keys, enum before before)
{
	r.e->idempotent = before == BY_KEY || (before == FIRST && keys);
	const int64_t id = sending(before);
	r.e->idempotent = keys;
	CLEANUP_FREE char *body = o == OUTCOME_OK
		? xasprintf("{\"id\":\"gen_%08d\",\"status\":\"queued\"}", ++generations)
		: NULL;
	const struct net_reply reply = {.outcome = o, .http = outcome_fact(o)->http, .sent = sent,
		.body = body, .retry_after_ms = -1, .idempotent = keys};
	struct request q;

	rig_answer(&r, id, &reply);
	assert_int_equal(request_get(r.cat, id, &q), 0);
	const enum request_state state = expected(o, sent, keys, before);
	assert_int_equal(q.state, state);

	/* Never called free where it may have been paid, nor open where it is free. */
	const bool repaid = state == REQUEST_UNKNOWN || (state == REQUEST_QUEUED && sent && is_network(o));
	const bool open = state == REQUEST_RUNNING || repaid || before != FIRST;
	assert_int_equal(q.charged, open ? -1 : 0);
	assert_int_equal(request_charges_open(r.cat, id) > 0, open);
	assert_int_equal(request_may_be_charged(&q), open);
	if (state == REQUEST_RUNNING && keys)
		assert_int_equal(request_charges_open(r.cat, id), 1);
	/* A repeat stays one; what goes for the first time by the hub's patience is none. */
	if (state == REQUEST_QUEUED)
		assert_int_equal(q.reason != OUTCOME_OK, before == BY_KEY || (sent && is_network(o)));
	assert_int_equal(q.attempts > 0, !(state == REQUEST_HELD || o == OUTCOME_RATE_LIMITED ||
		(is_network(o) && !sent)) || before == BY_KEY || before == USER_RETRIED);
	request_release(&q);
}

static void every_outcome(void **state)
{
	int fired = 0;

	(void)state;
	for (int o = 0; o < OUTCOME_COUNT; o++)
		for (int sent = 0; sent < 2; sent++)
			for (int keys = 0; keys < 2; keys++)
				for (int before = FIRST; before <= BY_KEY; before++) {
					one_outcome((enum outcome)o, sent || !is_network(o), keys, before);
					fired++;
				}
	assert_int_equal(fired, OUTCOME_COUNT * 12);
	assert_int_equal(r.e->sending, 0);
	print_message("%d outcomes\n", fired);
}

/* ---- answers that are not what they seem ---- */

static enum request_state becomes(const struct net_reply *reply)
{
	const int64_t id = sending(FIRST);
	struct net_reply copy = *reply;

	copy.sent = true;
	if (copy.retry_after_ms == 0)
		copy.retry_after_ms = -1;
	rig_answer(&r, id, &copy);
	return rig_state(&r, id);
}

static void strange_answers(void **state)
{
	char *generation = (char *)"{\"id\":\"gen_strange1\",\"status\":\"queued\"}";
	char *failure = (char *)"{\"id\":\"gen_strange2\",\"status\":\"failed\"}";

	(void)state;
	/* Its code alone is no 429. */
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_RATE_LIMITED, .http = 503}),
		REQUEST_UNKNOWN);
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_RATE_LIMITED, .http = 403}),
		REQUEST_REFUSED);
	/* A refusal over a generation that is under way; over one that failed it is no contradiction. */
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_NO_CREDITS, .http = 402,
				 .body = generation}), REQUEST_UNKNOWN);
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_REFUSED, .http = 409,
				 .body = failure}), REQUEST_REFUSED);
	/* 2xx, but no generation. */
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_OK, .http = 200,
				 .body = (char *)"<html>"}), REQUEST_UNKNOWN);
	/* Charged at once. */
	assert_int_equal(becomes(&(struct net_reply){.outcome = OUTCOME_OK, .http = 200,
		.body = (char *)"{\"id\":\"gen_strange3\",\"status\":\"x\",\"usage\":{\"credits\":8}}"}),
		REQUEST_RUNNING);
}

static void repeats_have_an_end(void **state)
{
	const int64_t id = sending(FIRST);
	const struct net_reply cut = {.outcome = OUTCOME_CUT, .sent = true, .retry_after_ms = -1};
	int posts = 1;

	(void)state;
	r.e->idempotent = true;
	for (rig_answer(&r, id, &cut); rig_state(&r, id) == REQUEST_QUEUED; posts++) {
		rig_send(&r, id);
		rig_answer(&r, id, &cut);
	}
	assert_int_equal(rig_state(&r, id), REQUEST_UNKNOWN);
	assert_int_equal(posts, 10);

	/* What was sent with another API key may belong to another account. */
	const int64_t other = sending(FIRST);
	r.e->key_since_ms = clock_wall_ms() + 1000;
	rig_answer(&r, other, &cut);
	assert_int_equal(rig_state(&r, other), REQUEST_UNKNOWN);
}

/* ---- the queue's pace ---- */

/* That the gate was closed, since `since`, for least to most. However long the rest took. */
static void closed_for(int64_t since_ms, int64_t least, int64_t most)
{
	assert_true(timer_armed(&r.e->gate));
	assert_true(r.e->gate.due_ms >= since_ms + least);
	assert_true(r.e->gate.due_ms <= clock_mono_ms() + most);
}

static void answered(enum outcome o, int http, bool sent, int64_t retry_after_ms)
{
	submit_resume(r.e);
	rig_answer(&r, sending(FIRST), &(struct net_reply){.outcome = o, .http = http, .sent = sent,
		.retry_after_ms = retry_after_ms});
}

static void paced(enum outcome o, int http, bool sent, int64_t retry_after_ms, int64_t least, int64_t most)
{
	const int64_t since_ms = clock_mono_ms();

	answered(o, http, sent, retry_after_ms);
	closed_for(since_ms, least, most);
}

static void pace(void **state)
{
	(void)state;
	paced(OUTCOME_RATE_LIMITED, 429, true, -1, 5000, 5000);
	paced(OUTCOME_RATE_LIMITED, 429, true, 0, 1000, 1000); /* no tight loop */
	paced(OUTCOME_RATE_LIMITED, 429, true, 60000, 60000, 60000);
	paced(OUTCOME_NO_CREDITS, 402, true, -1, 1000, 1000);
	/* Trouble grows, until the hub has answered. */
	paced(OUTCOME_NO_CONNECTION, 0, false, -1, 800, 1200);
	paced(OUTCOME_SERVER_ERROR, 503, true, -1, 1200, 1800);
	paced(OUTCOME_SERVER_ERROR, 503, true, 60000, 60000, 60000);
	assert_true(r.e->gate_delay_ms > 0);
	answered(OUTCOME_REFUSED, 404, true, -1);
	assert_false(timer_armed(&r.e->gate));
	assert_int_equal(r.e->gate_delay_ms, 0);
	/* A connection that was cut says nothing of the next. */
	answered(OUTCOME_CUT, 0, true, -1);
	assert_false(timer_armed(&r.e->gate));
	r.e->idempotent = true;
	paced(OUTCOME_CUT, 0, true, -1, 800, 1200);
	/* The longer wait stands. */
	submit_resume(r.e);
	const int64_t since_ms = clock_mono_ms();
	submit_pause(r.e, 50000, "long");
	submit_pause(r.e, 1000, "short");
	closed_for(since_ms, 50000, 50000);
	assert_string_equal(r.e->gate_why, "long");
	submit_resume(r.e);
	assert_null(r.e->gate_why);
}

/* ---- what cannot be written ---- */

static void kept_until_it_can_be_written(void **state)
{
	const struct net_reply accepted = {.outcome = OUTCOME_OK, .http = 202, .sent = true,
		.body = (char *)"{\"id\":\"gen_kept0001\",\"status\":\"queued\","
				"\"balance\":{\"credits\":77}}"};
	const int64_t id = sending(FIRST);
	struct generation g;

	(void)state;
	rig_forbid(&r, "INSERT", "generation");
	rig_answer(&r, id, &accepted);
	assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
	assert_false(list_empty(&r.e->postings));
	timers_run(&r.e->timers, clock_mono_ms() + 510); /* again in vain */
	assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
	assert_false(list_empty(&r.e->postings));
	rig_allow(&r);
	rig_until(&r, rig_state(&r, id) == REQUEST_RUNNING);
	assert_true(list_empty(&r.e->postings));
	assert_int_equal(generation_find(r.cat, "gen_kept0001", &g), 0);
	assert_int_equal(g.request, id);
	generation_release(&g);
	assert_int_equal(account_known_balance(r.e, NULL), 77);
}

static void kept_while_its_row_cannot_be_read(void **state)
{
	const int64_t id = sending(FIRST);

	(void)state;
	rig_sql(&r, "UPDATE request SET hold = 'nonsense'");
	rig_answer(&r, id, &(struct net_reply){.outcome = OUTCOME_REFUSED, .http = 400, .sent = true});
	assert_false(list_empty(&r.e->postings));
	rig_sql(&r, "UPDATE request SET hold = ''");
	rig_until(&r, list_empty(&r.e->postings));
	assert_int_equal(rig_state(&r, id), REQUEST_REFUSED);
}

static void left_alone_when_it_was_moved(void **state)
{
	const int64_t id = sending(FIRST);

	(void)state;
	rig_sql(&r, "UPDATE request SET state = 'unknown', reason = 'cut'");
	rig_answer(&r, id, &(struct net_reply){.outcome = OUTCOME_REFUSED, .http = 400, .sent = true});
	assert_true(list_empty(&r.e->postings));
	assert_int_equal(rig_state(&r, id), REQUEST_UNKNOWN);
}

/* An unknown that cannot be written asks for no evidence, and the end makes a last try. */
static void a_last_try_at_the_end(void **state)
{
	const int64_t a = sending(FIRST), b = sending(FIRST), c = sending(FIRST);
	const struct net_reply cut = {.outcome = OUTCOME_CUT, .sent = true, .retry_after_ms = -1};

	(void)state;
	rig_forbid(&r, "UPDATE", "request");
	rig_answer(&r, a, &cut);
	assert_false(r.e->evidence_wanted);
	rig_allow(&r);
	answer_expect(r.e, &(struct request){.id = b}); /* never answered */
	answer_release(r.e);
	assert_int_equal(rig_state(&r, a), REQUEST_UNKNOWN);
	assert_int_equal(rig_state(&r, b), REQUEST_SENDING);

	rig_forbid(&r, "UPDATE", "request");
	rig_answer(&r, c, &cut);
	answer_release(r.e);
	rig_answer(&r, c, &(struct net_reply){.outcome = OUTCOME_OK, .http = 200,
		.body = (char *)"{\"id\":\"gen_lost00001\",\"status\":\"queued\"}"});
	answer_release(r.e); /* says which generation it was */
	assert_true(list_empty(&r.e->postings));
	rig_allow(&r);
	assert_int_equal(rig_state(&r, c), REQUEST_SENDING);
	answer_recover(r.e); /* the next start */
	assert_int_equal(rig_state(&r, b), REQUEST_UNKNOWN);
	assert_int_equal(rig_state(&r, c), REQUEST_UNKNOWN);
}

/* What a try did not cost lets another one go. */
static void budget_that_came_back(void **state)
{
	const int64_t id = sending(FIRST), held = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	(void)state;
	rig_know(&r, 500, clock_wall_ms());
	r.e->config.max_spend = 10;
	assert_int_equal(request_get(r.cat, held, &q), 0);
	assert_int_equal(judge(r.e, &q), VERDICT_HOLD);
	assert_int_equal(life_move(r.e, &q, REQUEST_HELD, DB_NORMAL, NULL, "held"), 0);
	request_release(&q);
	rig_answer(&r, id, &(struct net_reply){.outcome = OUTCOME_REFUSED, .http = 400, .sent = true});
	assert_int_equal(rig_state(&r, held), REQUEST_QUEUED);
	r.e->config.max_spend = 0; /* an accepted one gives nothing back */
	const int64_t taken = sending(FIRST);
	rig_answer(&r, taken, &(struct net_reply){.outcome = OUTCOME_OK, .http = 202, .sent = true,
		.body = (char *)"{\"id\":\"gen_budget001\",\"status\":\"queued\"}"});
	assert_int_equal(rig_state(&r, taken), REQUEST_RUNNING);
}

/* At the end of a generation its charge is what the hub says, or stays open. */
static void the_hub_s_word(void **state)
{
	const int64_t said = sending(FIRST), unsaid = sending(FIRST);
	const int64_t ids[] = {said, unsaid}, credits[] = {5, -1};

	(void)state;
	for (int i = 0; i < 2; i++) {
		CLEANUP_FREE char *body =
			xasprintf("{\"id\":\"gen_word%04d\",\"status\":\"queued\"}", i);
		struct request q;

		rig_answer(&r, ids[i], &(struct net_reply){.outcome = OUTCOME_OK, .http = 202,
			.sent = true, .body = body});
		assert_int_equal(request_get(r.cat, ids[i], &q), 0);
		q.charged = credits[i];
		assert_int_equal(life_move(r.e, &q, REQUEST_SUCCEEDED, DB_NORMAL, &answer_settle, "ok"), 0);
		request_release(&q);
		assert_int_equal(request_charges_open(r.cat, ids[i]), i);
	}
	assert_int_equal(request_spent_since(r.cat, 0), 5 + 8);
}

/* ---- evidence ---- */

static int64_t balance_after(int64_t id)
{
	struct request q;

	assert_int_equal(request_get(r.cat, id, &q), 0);
	const int64_t after = q.balance_after;
	request_release(&q);
	return after;
}

static void evidence(void **state)
{
	const struct net_reply cut = {.outcome = OUTCOME_CUT, .sent = true, .retry_after_ms = -1};
	const int64_t id = sending(FIRST), unreadable = sending(FIRST), later = sending(FIRST);

	(void)state;
	answer_evidence(r.e, 400, clock_mono_ms()); /* nobody asks */
	rig_answer(&r, id, &cut);
	answer_evidence(r.e, 500, r.e->lost_ms - 1); /* asked for before the loss: proves nothing */
	assert_int_equal(balance_after(id), -1);
	assert_true(r.e->evidence_wanted);
	rig_forbid(&r, "UPDATE", "request");
	answer_evidence(r.e, 492, r.e->lost_ms);
	rig_allow(&r);
	assert_int_equal(balance_after(id), -1);

	rig_answer(&r, unreadable, &cut);
	rig_sql(&r, "UPDATE request SET hold = 'nonsense' WHERE id = 2");
	answer_evidence(r.e, 484, r.e->lost_ms);
	assert_int_equal(balance_after(id), 484);
	rig_answer(&r, later, &cut);
	answer_evidence(r.e, 476, r.e->lost_ms);
	assert_int_equal(balance_after(id), 484); /* the first stands */
	assert_int_equal(balance_after(later), 476);
	rig_sql(&r, "UPDATE request SET hold = '' WHERE id = 2");

	/* Given up while the one before it got its evidence. */
	const int64_t one = sending(FIRST), two = sending(FIRST);
	rig_answer(&r, one, &cut);
	rig_answer(&r, two, &cut);
	r.victim = two;
	r.changed = rig_cancel_victim;
	answer_evidence(r.e, 470, r.e->lost_ms);
	r.changed = NULL;
	assert_int_equal(balance_after(one), 470);
	assert_int_equal(balance_after(two), -1);
	assert_int_equal(rig_state(&r, two), REQUEST_CANCELED);

	/* By the real way: the question that a loss asks. */
	const int64_t asked = sending(FIRST);
	rig_answer(&r, asked, &cut);
	rig_until(&r, balance_after(asked) == 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_outcome, setup, teardown),
		cmocka_unit_test_setup_teardown(strange_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(repeats_have_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(pace, setup, teardown),
		cmocka_unit_test_setup_teardown(kept_until_it_can_be_written, setup, teardown),
		cmocka_unit_test_setup_teardown(kept_while_its_row_cannot_be_read, setup, teardown),
		cmocka_unit_test_setup_teardown(left_alone_when_it_was_moved, setup, teardown),
		cmocka_unit_test_setup_teardown(a_last_try_at_the_end, setup, teardown),
		cmocka_unit_test_setup_teardown(budget_that_came_back, setup, teardown),
		cmocka_unit_test_setup_teardown(the_hub_s_word, setup, teardown),
		cmocka_unit_test_setup_teardown(evidence, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Whether a queued request may be sent now, and what holds it: pause, price, the day's budget, the
 * balance (DESIGN.md, section 4, "Money"). What is held goes on by itself when that changes.
 */
#include "base/clock.h"
#include "catalogue/tree.h"
#include "engine/internal.h"
#include "engine/life.h"
#include "engine/words.h"
#include <errno.h>

enum {
	BATCH = 64,
	BALANCE_OLD_MS = 10 * 1000,
	/* With so many credits for each request under way, what they may take is not summed up. */
	COMFORT = 100,
};

static enum verdict hold(struct request *r, enum hold why, char *text)
{
	r->hold = why;
	free(r->text);
	r->text = text;
	return VERDICT_HOLD;
}

/* ---- budget and balance ---- */

static int64_t budget_left(struct engine *e)
{
	const int64_t spent =
		request_spent_since(e->cat, clock_day_start_ms(clock_wall_ms()));

	return spent < e->config.max_spend ? e->config.max_spend - spent : 0;
}

static enum verdict over_budget(struct engine *e, struct request *r)
{
	const int64_t left = budget_left(e);

	if (r->price_high <= left)
		return VERDICT_SEND;
	return hold(r, HOLD_BUDGET,
		xasprintf("it may cost %lld credits, and of the day's budget of %lld there are "
			  "%lld left",
			(long long)r->price_high, (long long)e->config.max_spend,
			(long long)left));
}

/* What those under way may still take, where it matters. */
static int64_t in_flight(struct engine *e, int64_t balance)
{
	return balance < COMFORT * (int64_t)(e->sending + e->n_flights + 1)
		? request_in_flight(e->cat)
		: 0;
}

static void set_short(struct engine *e, bool is_short)
{
	pthread_mutex_lock(&e->lock);
	e->short_of_credits = is_short;
	pthread_mutex_unlock(&e->lock);
}

/* An old balance holds nothing back: it is asked for anew first, and where the hub does not tell it,
 * the hub decides. What is in flight is not held against a request for good: its end shows. */
static enum verdict over_balance(struct engine *e, struct request *r)
{
	int64_t as_of;
	const int64_t balance = account_known_balance(e, &as_of);

	r->balance_before = balance;
	if (balance < 0 && !e->balance_heard) {
		account_want_balance(e); /* the first question of a new profile is under way */
		return VERDICT_WAIT;
	}
	const bool enough = balance < 0 || r->price_low <= balance - in_flight(e, balance);
	set_short(e, !enough && r->price_low <= balance);
	if (enough)
		return VERDICT_SEND;
	if (account_is_old(as_of, BALANCE_OLD_MS)) {
		if (account_balance_failed(e))
			return VERDICT_SEND;
		account_want_balance(e);
		return VERDICT_WAIT;
	}
	if (r->price_low <= balance)
		return VERDICT_WAIT;
	return hold(r, HOLD_BALANCE,
		xasprintf("it costs %lld credits and the balance is %lld",
			(long long)r->price_low, (long long)balance));
}

static enum verdict judge_price(struct engine *e, struct request *r, const struct quote *q)
{
	enum verdict v = VERDICT_SEND;

	r->price_low = q->price_low;
	r->price_high = q->price_high;
	if (r->approved) {
		r->balance_before = account_known_balance(e, NULL);
		return VERDICT_SEND;
	}
	if (!q->priced)
		return hold(r, HOLD_PRICE, NULL);
	if (e->config.max_spend >= 0)
		v = over_budget(e, r);
	return v == VERDICT_SEND ? over_balance(e, r) : v;
}

/* ---- the verdict ---- */

static enum verdict judge_order(struct engine *e, struct request *r)
{
	CLEANUP_FREE char *why = NULL;
	struct quote q;

	const int rc = account_quote(e, &r->order, (size_t)r->n_references, &q, &why);
	if (rc == -EINVAL) {
		r->reason = OUTCOME_INVALID_REQUEST;
		free(r->text);
		r->text = why;
		why = NULL;
		return VERDICT_REFUSE;
	}
	if (rc == -EAGAIN && !account_models_answered(e))
		return VERDICT_WAIT;
	if (!q.model && !r->order.model)
		return hold(r, HOLD_PRICE,
			xstrdup("the hub lists no models; name one (model: …) at the prompt's top"));
	if (!r->order.model)
		r->order.model = xstrdup(q.model);
	free(q.model);
	return judge_price(e, r, &q);
}

/* It may have arrived already: only a hub that says now that it knows the key, asked with the same
 * API key, may get it again. It is no new spending, so neither budget nor balance is asked. */
static enum verdict judge_repeat(struct engine *e, const struct request *r)
{
	if (!e->keys_heard)
		return VERDICT_LATER;
	return e->idempotent && r->sent_ms >= e->key_since_ms ? VERDICT_SEND : VERDICT_UNKNOWN;
}

/* Removed before it was sent; a crash may have come before it was withdrawn. */
static bool is_gone(struct engine *e, const struct request *r)
{
	struct node n;
	const int rc = tree_get(e->cat, r->node, &n);

	return rc == -ENOENT || (rc == 0 && n.st.st_nlink == 0);
}

enum verdict judge(struct engine *e, struct request *r)
{
	CLEANUP_FREE char *paused = catalogue_setting(e->cat, "paused");

	if (r->reason == OUTCOME_OK && is_gone(e, r))
		return VERDICT_CANCEL;
	if (paused)
		return hold(r, HOLD_PAUSED, xstrdup(words_paused(paused)));
	if (r->reason != OUTCOME_OK)
		return judge_repeat(e, r);
	return judge_order(e, r);
}

/* ---- held requests that may go on ---- */

static bool is_priced(struct engine *e, const struct request *r)
{
	struct quote q;

	account_quote(e, &r->order, (size_t)r->n_references, &q, NULL);
	free(q.model);
	return q.priced;
}

/* What is there for those that wait: each that goes on takes its share, so that not thousands are moved
 * to the queue and back for one that has room. */
struct room {
	bool rose, paused;
	int64_t balance, credits_left, budget_left;
};

static bool has_credits(struct room *room, const struct request *r)
{
	if (r->price_low > room->credits_left)
		return false;
	room->credits_left -= r->price_low;
	return true;
}

static bool has_budget(struct room *room, const struct request *r)
{
	if (r->price_high > room->budget_left)
		return false;
	room->budget_left -= r->price_high;
	return true;
}

static bool may_go_on(struct engine *e, const struct request *r, struct room *room)
{
	switch (r->hold) {
	case HOLD_BALANCE:
		return has_credits(room, r);
	case HOLD_CREDITS:
		/* The hub refused it with the balance before; a rise from a lower one counts too. */
		return (room->rose || room->balance > r->balance_before) && has_credits(room, r);
	case HOLD_PRICE:
		return is_priced(e, r);
	case HOLD_BUDGET:
		return has_budget(room, r);
	default:
		return !room->paused;
	}
}

static void look_again(struct engine *e, int64_t id, struct room *room)
{
	struct request r;

	if (request_get(e->cat, id, &r) < 0)
		return;
	if (r.state == REQUEST_HELD && may_go_on(e, &r, room)) {
		r.hold = HOLD_NONE;
		free(r.text);
		r.text = NULL;
		life_move(e, &r, REQUEST_QUEUED, DB_NORMAL, NULL, "queued again");
	}
	request_release(&r);
}

static void unhold(struct engine *e, enum hold hold, struct room *room)
{
	const bool credits = hold == HOLD_BALANCE || hold == HOLD_CREDITS;
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_held(e->cat, hold, credits ? room->credits_left : INT64_MAX,
			hold == HOLD_BUDGET ? room->budget_left : INT64_MAX, after, ids, BATCH)) > 0)
		for (int i = 0; i < n; i++) {
			after = ids[i];
			look_again(e, ids[i], room);
		}
}

static struct room room_now(struct engine *e, bool rose)
{
	CLEANUP_FREE char *paused = catalogue_setting(e->cat, "paused");
	const int64_t balance = account_known_balance(e, NULL);

	return (struct room){
		.rose = rose,
		.paused = paused != NULL,
		.balance = balance,
		.credits_left = balance,
		.budget_left = e->config.max_spend < 0 ? INT64_MAX : budget_left(e),
	};
}

void submit_unhold(struct engine *e, bool rose)
{
	struct room room = room_now(e, rose);

	for (int hold = HOLD_BUDGET; hold <= HOLD_PAUSED; hold++)
		unhold(e, (enum hold)hold, &room);
	engine_kick(e);
}

void submit_budget_freed(struct engine *e)
{
	if (e->config.max_spend < 0)
		return;
	struct room room = room_now(e, false);
	unhold(e, HOLD_BUDGET, &room);
	engine_kick(e);
}

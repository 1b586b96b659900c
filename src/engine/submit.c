/*
 * The queue: which request goes next, what holds it, the paid POST, and what its outcome means.
 *
 * Money is decided here. The transition to `sending` is durable, with the row of the charge, before
 * net_post_order() is called; from then on only the answer, or the certainty that nothing left this
 * machine, moves the request (DESIGN.md, section 4).
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"
#include "engine/life.h"
#include <errno.h>
#include <stdio.h>

enum {
	GATE_FIRST_MS = 1000,
	GATE_MOST_MS = 60 * 1000,
	BATCH = 64,
	BALANCE_OLD_MS = 10 * 1000,
	RATE_LIMIT_MS = 5000, /* a 429 without Retry-After */
	RESEND_MAX = 10,      /* POSTs of one request to a hub that knows keys */
};

/* A POST under way. */
struct posting {
	struct list link; /* engine's errands */
	struct engine *e;
	int64_t request;
};

/* ---- the gate: nothing is sent while the hub cannot be reached or asked for patience ---- */

static void gate_close(struct engine *e, int64_t wait_ms, const char *why)
{
	pthread_mutex_lock(&e->lock);
	free(e->gate_why);
	e->gate_why = xstrdup(why);
	pthread_mutex_unlock(&e->lock);
	timer_set(&e->timers, &e->gate, clock_mono_ms() + wait_ms);
}

static void gate_back_off(struct engine *e, const char *why)
{
	e->gate_delay_ms =
		e->gate_delay_ms ? backoff_next(e->gate_delay_ms, GATE_MOST_MS) : GATE_FIRST_MS;
	gate_close(e, backoff_jitter(e->gate_delay_ms), why);
}

void submit_gate_opened(struct timer *timer)
{
	struct engine *e = CONTAINER_OF(timer, struct engine, gate);

	pthread_mutex_lock(&e->lock);
	free(e->gate_why);
	e->gate_why = NULL;
	pthread_mutex_unlock(&e->lock);
	e->kicked = true;
}

/* ---- before: may it go? ---- */

enum verdict { VERDICT_SEND, VERDICT_HOLD, VERDICT_REFUSE, VERDICT_WAIT };

static bool paused(struct engine *e)
{
	CLEANUP_FREE char *set = catalogue_setting(e->cat, "paused");

	return set && strcmp(set, "1") == 0;
}

static enum verdict hold(struct request *r, enum hold why, char *text)
{
	r->hold = why;
	free(r->text);
	r->text = text;
	return VERDICT_HOLD;
}

static enum verdict over_budget(struct engine *e, struct request *r)
{
	const int64_t spent =
		request_spent_since(e->cat, clock_day_start_ms(clock_wall_ms()));

	if (spent + r->price_high <= e->config.max_spend)
		return VERDICT_SEND;
	return hold(r, HOLD_BUDGET,
		xasprintf("it may cost %lld credits, and of the day's budget of %lld there are "
			  "%lld left",
			(long long)r->price_high, (long long)e->config.max_spend,
			(long long)(spent > e->config.max_spend ? 0
								: e->config.max_spend - spent)));
}

/* An old balance holds nothing back: it is asked for anew first. */
static enum verdict over_balance(struct engine *e, struct request *r)
{
	int64_t as_of;
	const int64_t balance = account_known_balance(e, &as_of);

	r->balance_before = balance;
	if (balance < 0 || r->price_low <= balance)
		return VERDICT_SEND;
	if (clock_wall_ms() - as_of > BALANCE_OLD_MS) {
		account_want_balance(e);
		return VERDICT_WAIT;
	}
	return hold(r, HOLD_BALANCE,
		xasprintf("it costs %lld credits and the balance is %lld",
			(long long)r->price_low, (long long)balance));
}

static enum verdict judge_price(struct engine *e, struct request *r, const struct quote *q)
{
	r->price_low = q->price_low;
	r->price_high = q->price_high;
	if (!q->priced && !r->approved)
		return hold(r, HOLD_PRICE, NULL);
	if (e->config.max_spend >= 0 && !r->approved) {
		const enum verdict v = over_budget(e, r);
		if (v != VERDICT_SEND)
			return v;
	}
	if (r->approved) {
		r->balance_before = account_known_balance(e, NULL);
		return VERDICT_SEND;
	}
	return over_balance(e, r);
}

static enum verdict judge(struct engine *e, struct request *r)
{
	CLEANUP_FREE char *why = NULL;
	struct quote q;
	enum verdict v;

	if (paused(e))
		return hold(r, HOLD_PAUSED, NULL);

	const int rc = account_quote(e, &r->order, (size_t)r->n_references, &q, &why);
	if (rc == -EAGAIN && !account_models_answered(e))
		return VERDICT_WAIT;
	if (rc == -EAGAIN && !r->order.model)
		return hold(r, HOLD_PRICE,
			xstrdup("the hub lists no models; name one (model: …) at the prompt's top"));
	if (rc == -EINVAL) {
		r->reason = OUTCOME_INVALID_REQUEST;
		free(r->text);
		r->text = why;
		why = NULL;
		return VERDICT_REFUSE;
	}
	if (!r->order.model)
		r->order.model = xstrdup(q.model);
	v = judge_price(e, r, &q);
	free(q.model);
	return v;
}

/* ---- the POST ---- */

static void post_done(void *arg, const struct net_reply *reply);

static int collect_references(struct engine *e, const struct request *r,
	struct net_reference **out, size_t *count)
{
	struct request_reference *refs;

	const int rc = request_references(e->cat, r->id, &refs, count);
	if (rc < 0)
		return rc;
	*out = xcalloc(*count + 1, sizeof **out);
	for (size_t i = 0; i < *count; i++)
		(*out)[i] = (struct net_reference){
			.path = request_refs_path(e->cat, r->key, refs[i].file),
			.name = xstrdup(refs[i].file),
			.mime = xstrdup(refs[i].mime),
		};
	request_references_free(refs, *count);
	return 0;
}

static void references_free(struct net_reference *refs, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free((char *)refs[i].path);
		free((char *)refs[i].name);
		free((char *)refs[i].mime);
	}
	free(refs);
}

/* The intent, durable: from here on the request counts as paid until the hub says otherwise. */
static int intend(struct engine *e, struct request *r)
{
	const int64_t estimate = r->price_high > 0 ? r->price_high : 0;

	r->hold = HOLD_NONE;
	r->reason = OUTCOME_OK;
	free(r->text);
	r->text = NULL;
	r->attempts++;
	r->not_before_ms = 0;
	r->sent_ms = clock_wall_ms();
	r->charged = -1;
	r->balance_after = -1;

	catalogue_begin(e->cat, DB_FULL);
	/* To a hub that knows the key, a second sending is the same charge. */
	int rc = e->idempotent && r->attempts > 1 ? request_charge_settle(e->cat, r->id, 0) : 0;
	if (rc >= 0)
		rc = request_charge_open(e->cat, r->id, estimate);
	if (rc >= 0)
		rc = life_move(e, r, REQUEST_SENDING, DB_FULL, "sending to %s (try %d, %s)",
			e->config.hub, r->attempts, r->order.model);
	return catalogue_end(e->cat, rc < 0 ? rc : 0);
}

static int send(struct engine *e, struct request *r)
{
	struct net_reference *refs = NULL;
	size_t count = 0;
	CLEANUP_FREE char *key = xasprintf("%s-%d", r->key, r->retries);

	int rc = collect_references(e, r, &refs, &count);
	if (rc == 0)
		rc = intend(e, r);
	if (rc == 0) {
		struct posting *p = xcalloc(1, sizeof *p);

		*p = (struct posting){.e = e, .request = r->id};
		list_append(&e->errands, &p->link);
		e->sending++;
		net_post_order(e->net, &r->order, refs, count, key, post_done, p);
	}
	references_free(refs, count);
	return rc;
}

/* ---- the queue ---- */

/* False when the queue has to wait. */
static bool consider(struct engine *e, struct request *r)
{
	int rc = 0;

	switch (judge(e, r)) {
	case VERDICT_SEND:
		rc = send(e, r);
		break;
	case VERDICT_HOLD:
		rc = life_move(e, r, REQUEST_HELD, DB_NORMAL, "held: %s",
			r->text ? r->text : "see .error");
		break;
	case VERDICT_REFUSE:
		rc = life_move(e, r, REQUEST_REFUSED, DB_NORMAL, "refused before sending: %s",
			r->text);
		break;
	case VERDICT_WAIT:
		return false;
	}
	if (rc < 0 && rc != -ESTALE) {
		log_error("%s cannot be sent now: %s", r->path, strerror(-rc));
		gate_back_off(e, strerror(-rc));
		return false;
	}
	return true;
}

/* A queued request that waits for a moment of its own opens the gate's timer then. */
static void wait_for_next(struct engine *e)
{
	const int64_t due = request_next_due(e->cat);

	if (due > 0 && !timer_armed(&e->gate))
		gate_close(e, due > clock_wall_ms() ? due - clock_wall_ms() : 0,
			"waits before it is tried again");
}

void submit_queue(struct engine *e)
{
	const int running_max = e->config.running_max > 0 ? e->config.running_max : INT32_MAX;
	int64_t ids[BATCH], after = 0;

	if (timer_armed(&e->gate))
		return;
	for (;;) {
		const int room = e->config.sending_max - e->sending;
		if (room <= 0 || e->n_flights + e->sending >= running_max)
			return;
		const int n = request_list(e->cat, REQUEST_QUEUED, clock_wall_ms(), after, ids,
			room < BATCH ? room : BATCH);
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++) {
			struct request r;
			bool go_on = true;

			after = ids[i];
			if (request_get(e->cat, ids[i], &r) < 0)
				continue;
			if (r.state == REQUEST_QUEUED)
				go_on = consider(e, &r);
			request_release(&r);
			if (!go_on || timer_armed(&e->gate))
				return;
		}
	}
	wait_for_next(e);
}

/* ---- after: what the outcome means ---- */

static void set_reason(struct request *r, const struct net_reply *reply)
{
	r->reason = reply->outcome;
	free(r->text);
	r->text = xstrdup_or_null(reply->message);
}

static int back_to_queue(struct engine *e, struct request *r, const struct net_reply *reply,
	int64_t wait_ms)
{
	set_reason(r, reply);
	r->not_before_ms = wait_ms > 0 ? clock_wall_ms() + wait_ms : 0;
	request_charge_settle(e->cat, r->id, 0);
	return life_move(e, r, REQUEST_QUEUED, DB_NORMAL, "queued again: %s", reply->message);
}

static int stop_uncharged(struct engine *e, struct request *r, const struct net_reply *reply,
	enum request_state state)
{
	set_reason(r, reply);
	r->charged = 0;
	request_charge_settle(e->cat, r->id, 0);
	return life_move(e, r, state, DB_FULL, "%s: %s", life_name(state), reply->message);
}

static int leave_unknown(struct engine *e, struct request *r, enum outcome reason,
	const char *message)
{
	r->reason = reason;
	free(r->text);
	r->text = xstrdup(message);
	account_want_balance(e);
	return life_move(e, r, REQUEST_UNKNOWN, DB_FULL,
		"unknown: %s; it may have been charged, and is not sent again by itself", message);
}

void submit_evidence(struct engine *e, int64_t balance)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_list(e->cat, REQUEST_UNKNOWN, INT64_MAX, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			struct request r;

			after = ids[i];
			if (request_get(e->cat, ids[i], &r) < 0)
				continue;
			if (r.state == REQUEST_UNKNOWN && r.balance_after < 0) {
				r.balance_after = balance;
				request_change(e->cat, &r, REQUEST_UNKNOWN, DB_NORMAL, NULL);
				engine_tell(e, CHANGE_REQUEST, r.node, r.id, 0, 0);
			}
			request_release(&r);
		}
	}
}

/* A lost answer: only a hub that replays the answer of the same key may be asked again, and not for
 * ever. */
static int lost(struct engine *e, struct request *r, const struct net_reply *reply)
{
	if (!e->idempotent || r->attempts >= RESEND_MAX)
		return leave_unknown(e, r, reply->outcome, reply->message);
	gate_back_off(e, reply->message);
	set_reason(r, reply);
	return life_move(e, r, REQUEST_QUEUED, DB_FULL,
		"queued again: %s (the hub knows repeated requests by their key)", reply->message);
}

static int hold_for_credits(struct engine *e, struct request *r, const struct net_reply *reply)
{
	set_reason(r, reply);
	r->hold = HOLD_CREDITS;
	r->approved = false;
	r->charged = 0;
	request_charge_settle(e->cat, r->id, 0);
	account_want_balance(e);
	/* The others wait until the balance is known, which may hold them as well. */
	gate_close(e, GATE_FIRST_MS, reply->message);
	return life_move(e, r, REQUEST_HELD, DB_NORMAL, "held: %s", reply->message);
}

static int answered(struct engine *e, struct request *r, const struct net_reply *reply)
{
	struct wire_generation w;
	CLEANUP_FREE char *error = NULL;
	int64_t generation;

	if (wire_generation_decode(reply->body, reply->body_len, &w, &error) < 0) {
		const struct net_reply unreadable = {
			.outcome = OUTCOME_UNREADABLE, .message = error};

		return lost(e, r, &unreadable);
	}

	catalogue_begin(e->cat, DB_FULL);
	int rc = follow_insert(e, &w, reply->body, r, &generation);
	if (rc == 0) {
		r->generation = generation;
		r->charged = w.credits > 0 ? w.credits : -1;
		rc = life_move(e, r, REQUEST_RUNNING, DB_FULL, "accepted by the hub as %s, %s",
			w.id, w.status);
	}
	rc = catalogue_end(e->cat, rc);
	if (rc == 0) {
		account_balance(e, &w.balance);
		follow_start(e, generation, r->id, &w);
	}
	wire_generation_release(&w);
	return rc;
}

static int settle(struct engine *e, struct request *r, const struct net_reply *reply)
{
	switch (reply->outcome) {
	case OUTCOME_OK:
		return answered(e, r, reply);
	case OUTCOME_NO_CREDITS:
		return hold_for_credits(e, r, reply);
	case OUTCOME_RATE_LIMITED: {
		const int64_t wait =
			reply->retry_after_ms >= 0 ? reply->retry_after_ms : RATE_LIMIT_MS;
		gate_close(e, wait, reply->message);
		return back_to_queue(e, r, reply, wait);
	}
	case OUTCOME_GENERATION_FAILED:
		return stop_uncharged(e, r, reply, REQUEST_FAILED);
	case OUTCOME_INVALID_REQUEST:
	case OUTCOME_MISSING_KEY:
	case OUTCOME_INVALID_KEY:
	case OUTCOME_EXPIRED_KEY:
	case OUTCOME_NOT_FOUND:
	case OUTCOME_FORBIDDEN:
	case OUTCOME_TOO_LARGE:
	case OUTCOME_IDEMPOTENCY_MISMATCH:
	case OUTCOME_REFUSED:
		return stop_uncharged(e, r, reply, REQUEST_REFUSED);
	default:
		if (reply->sent)
			return lost(e, r, reply);
		gate_back_off(e, reply->message);
		return back_to_queue(e, r, reply, 0);
	}
}

static void note_idempotency(struct engine *e, const struct net_reply *reply)
{
	if (!reply->idempotent || e->idempotent)
		return;
	e->idempotent = true;
	catalogue_set(e->cat, "idempotent", "1");
}

static void post_done(void *arg, const struct net_reply *reply)
{
	struct posting *p = arg;
	struct engine *e = p->e;
	struct request r;

	list_remove(&p->link);
	e->sending--;
	e->kicked = true;
	note_idempotency(e, reply);
	if (reply->http > 0 && reply->outcome != OUTCOME_RATE_LIMITED)
		e->gate_delay_ms = 0;
	if (request_get(e->cat, p->request, &r) == 0) {
		const int rc = settle(e, &r, reply);
		/* What cannot be written down stays `sending`, and is `unknown` at the next start. */
		if (rc < 0)
			log_error("%s: the hub's answer cannot be kept: %s", r.path, strerror(-rc));
		request_release(&r);
	}
	free(p);
}

/* ---- start-up, and held requests that may go on ---- */

void submit_recover(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_list(e->cat, REQUEST_SENDING, INT64_MAX, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			const struct net_reply reply = {.outcome = OUTCOME_CUT,
				.message = "this program ended before the hub's answer came"};
			struct request r;

			after = ids[i];
			if (request_get(e->cat, ids[i], &r) < 0)
				continue;
			lost(e, &r, &reply);
			request_release(&r);
		}
	}
}

static bool may_go_on(struct engine *e, struct request *r)
{
	struct quote q = {0};
	const int64_t balance = account_known_balance(e, NULL);

	switch (r->hold) {
	case HOLD_BALANCE:
		return balance >= r->price_low;
	case HOLD_CREDITS:
		return balance > r->balance_before && balance >= r->price_low;
	case HOLD_PRICE:
		account_quote(e, &r->order, (size_t)r->n_references, &q, NULL);
		free(q.model);
		return q.priced;
	case HOLD_BUDGET:
		return request_spent_since(e->cat, clock_day_start_ms(clock_wall_ms())) +
			r->price_high <= e->config.max_spend || e->config.max_spend < 0;
	default:
		return r->hold == HOLD_PAUSED && !paused(e);
	}
}

void submit_unhold(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_list(e->cat, REQUEST_HELD, INT64_MAX, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			struct request r;

			after = ids[i];
			if (request_get(e->cat, ids[i], &r) < 0)
				continue;
			if (r.state == REQUEST_HELD && may_go_on(e, &r)) {
				r.hold = HOLD_NONE;
				free(r.text);
				r.text = NULL;
				life_move(e, &r, REQUEST_QUEUED, DB_NORMAL, "queued again");
			}
			request_release(&r);
		}
	}
	engine_kick(e);
}

/*
 * What came of a POST: the next state of the request, and what the queue learns from it.
 *
 * An answer is read once into its fate, and its fate is written in one transaction with the charge.
 * An answer that cannot be written (a full disk) is kept and tried again until it can, as the hub's
 * id in it may have been paid for; until then the request stays `sending`.
 *
 * A POST whose answer was lost may have been charged. It is `unknown`, and only the user sends it
 * again; but to a hub that knows repeated requests by their key it goes again by itself. Neither
 * a refusal nor a failure of a later try says anything of the earlier one, so those end in `unknown`
 * as well.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"
#include "engine/life.h"
#include <errno.h>

enum {
	BATCH = 64,
	PATIENCE_MS = 5000, /* a 429 without Retry-After */
	PATIENCE_LEAST_MS = 1000,
	CREDITS_MS = 1000, /* after a 402: for the balance to be known, which may hold others */
	RESEND_MAX = 10,   /* POSTs of one request to a hub that knows keys */
	WRITE_FIRST_MS = 500,
	WRITE_MOST_MS = 60 * 1000,
};

enum fate {
	FATE_ACCEPTED,
	FATE_HELD,     /* 402 */
	FATE_PATIENCE, /* 429 */
	FATE_NEVER_LEFT,
	FATE_FAILED,
	FATE_REFUSED,
	FATE_LOST, /* it may have been charged */
};

struct posting {
	struct list link; /* engine's postings */
	struct engine *e;
	int64_t request;
	int64_t asked_ms; /* monotonic: when the call began */

	/* Once the answer is here. */
	enum fate fate;
	enum outcome outcome;
	char *message; /* NULL when it was accepted */
	int64_t wait_ms; /* Retry-After; -1 */
	struct wire_generation generation; /* when it was accepted */
	char *body;
	struct timer timer; /* armed while it waits to be written */
	int64_t delay_ms;
};

static void write_again(struct timer *timer);

struct posting *answer_expect(struct engine *e, const struct request *r)
{
	struct posting *p = xcalloc(1, sizeof *p);

	*p = (struct posting){.e = e, .request = r->id, .timer.fire = write_again};
	list_append(&e->postings, &p->link);
	return p;
}

void answer_drop(struct posting *p)
{
	timer_cancel(&p->e->timers, &p->timer);
	list_remove(&p->link);
	wire_generation_release(&p->generation);
	free(p->message);
	free(p->body);
	free(p);
}

/* ---- reading ---- */

static enum fate fate_of(const struct net_reply *reply)
{
	switch (reply->outcome) {
	case OUTCOME_OK:
		return FATE_ACCEPTED;
	case OUTCOME_NO_CREDITS:
		return FATE_HELD;
	case OUTCOME_RATE_LIMITED:
		/* Its code with another status is not the 429 that allows to send again. */
		return reply->http == 429 ? FATE_PATIENCE
			: reply->http < 500 ? FATE_REFUSED
					      : FATE_LOST;
	case OUTCOME_GENERATION_FAILED:
		return FATE_FAILED;
	case OUTCOME_INVALID_REQUEST:
	case OUTCOME_MISSING_KEY:
	case OUTCOME_INVALID_KEY:
	case OUTCOME_EXPIRED_KEY:
	case OUTCOME_NOT_FOUND:
	case OUTCOME_FORBIDDEN:
	case OUTCOME_TOO_LARGE:
	case OUTCOME_IDEMPOTENCY_MISMATCH:
	case OUTCOME_REFUSED:
		return FATE_REFUSED;
	default:
		return reply->sent ? FATE_LOST : FATE_NEVER_LEFT;
	}
}

static void unreadable(struct posting *p, char *why)
{
	free(p->message);
	p->message = why;
	p->outcome = OUTCOME_UNREADABLE;
	p->fate = FATE_LOST;
}

/* A body that is a generation under way, behind a status that refuses it: one of them is wrong. */
static bool contradicts(const struct net_reply *reply, char **why)
{
	struct wire_generation w;

	if (reply->http < 300 ||
		wire_generation_decode(reply->body, reply->body_len, &w, NULL) < 0)
		return false;
	if (w.phase != PHASE_FAILED)
		*why = xasprintf("the answer contradicts itself: HTTP %d, and generation %s is %s",
			reply->http, w.id, w.status);
	wire_generation_release(&w);
	return *why != NULL;
}

static void read_answer(struct posting *p, const struct net_reply *reply)
{
	char *why = NULL;

	p->asked_ms = reply->asked_ms;
	p->fate = fate_of(reply);
	p->outcome = reply->outcome;
	p->message = xstrdup_or_null(reply->message);
	p->wait_ms = reply->retry_after_ms;
	p->body = xstrdup(reply->body);
	if (p->fate == FATE_ACCEPTED
			? wire_generation_decode(reply->body, reply->body_len, &p->generation, &why) < 0
			: contradicts(reply, &why))
		unreadable(p, why);
}

/* ---- what the queue learns ---- */

static void pace(const struct posting *p)
{
	struct engine *e = p->e;

	switch (p->fate) {
	case FATE_PATIENCE:
		submit_pause(e,
			p->wait_ms < 0			   ? PATIENCE_MS
				: p->wait_ms < PATIENCE_LEAST_MS ? PATIENCE_LEAST_MS
								 : p->wait_ms,
			p->message);
		return;
	case FATE_NEVER_LEFT:
		submit_back_off(e, p->message);
		return;
	case FATE_LOST:
		/* A connection that was cut says nothing of the next request's. */
		if (e->idempotent || p->outcome == OUTCOME_SERVER_ERROR)
			submit_back_off(e, p->message);
		if (p->wait_ms > 0)
			submit_pause(e, p->wait_ms, p->message);
		return;
	case FATE_HELD:
		e->held_anew = true;
		account_want_balance(e);
		submit_pause(e, CREDITS_MS, p->message);
		break;
	default:
		break;
	}
	e->gate_delay_ms = 0;
}

/* ---- writing ---- */

/* It goes, or went, on the strength of its key: an earlier answer was lost. */
static bool is_repeat(const struct request *r)
{
	return r->reason != OUTCOME_OK;
}

static int write_settled(struct engine *e, struct request *r, void *arg)
{
	(void)arg;
	return r->charged < 0 ? 0 : request_charge_settle(e->cat, r->id, r->charged);
}

const struct life_with answer_settle = {write_settled, NULL};

static int write_uncharged(struct engine *e, struct request *r, void *arg)
{
	(void)arg;
	return request_charge_settle(e->cat, r->id, 0);
}

static void set_text(struct request *r, const char *text)
{
	free(r->text);
	r->text = xstrdup(text);
}

static int leave_unknown(struct posting *p, struct request *r, const struct life_with *with,
	const char *message)
{
	r->reason = p->outcome;
	set_text(r, message);
	const int rc = life_move(p->e, r, REQUEST_UNKNOWN, DB_FULL, with,
		"unknown: %s; it may have been charged, and is not sent again by itself", message);
	if (rc == 0)
		answer_lost(p->e);
	return rc;
}

/* This try cost nothing. A repeat shares its charge with the earlier try, which stays open. */
static int end_uncharged(struct posting *p, struct request *r, enum request_state to)
{
	static const struct life_with uncharged = {write_uncharged, NULL};
	const struct life_with *with = is_repeat(r) ? NULL : &uncharged;
	const bool earlier = is_repeat(r) || request_charges_open(p->e->cat, r->id) > 1;
	const bool over = to == REQUEST_REFUSED || to == REQUEST_FAILED;

	r->charged = earlier ? -1 : 0;
	if (over && earlier) {
		CLEANUP_FREE char *text = xasprintf(
			"the answer to an earlier try was lost; asked again, the hub said: %s",
			p->message);
		return leave_unknown(p, r, with, text);
	}
	if (over)
		r->reason = p->outcome;
	set_text(r, p->message);
	return life_move(p->e, r, to, over ? DB_FULL : DB_NORMAL, with, "%s: %s",
		to == REQUEST_QUEUED ? "queued again" : life_name(to), p->message);
}

static int back_to_queue(struct posting *p, struct request *r)
{
	r->attempts--;
	if (p->fate == FATE_PATIENCE)
		r->not_before_ms = clock_wall_ms() +
			(p->wait_ms < 0 ? (int64_t)PATIENCE_MS : p->wait_ms);
	return end_uncharged(p, r, REQUEST_QUEUED);
}

static int hold_for_credits(struct posting *p, struct request *r)
{
	r->attempts--;
	r->hold = HOLD_CREDITS;
	r->approved = false;
	return end_uncharged(p, r, REQUEST_HELD);
}

static int lost(struct posting *p, struct request *r)
{
	struct engine *e = p->e;

	if (!e->idempotent || r->sent_ms < e->key_since_ms || r->attempts >= RESEND_MAX)
		return leave_unknown(p, r, NULL, p->message);
	r->reason = p->outcome;
	set_text(r, p->message);
	return life_move(e, r, REQUEST_QUEUED, DB_FULL, NULL,
		"queued again: %s (the hub knows repeated requests by their key)", p->message);
}

static int write_accepted(struct engine *e, struct request *r, void *arg)
{
	struct posting *p = arg;

	int rc = follow_insert(e, &p->generation, p->body, r, &r->generation);
	if (rc == 0 && e->idempotent)
		rc = request_charge_merge(e->cat, r->id);
	return rc;
}

static int accepted(struct posting *p, struct request *r)
{
	const struct wire_generation *w = &p->generation;
	const struct life_with with = {write_accepted, p};

	r->reason = OUTCOME_OK;
	free(r->text);
	r->text = NULL;
	r->charged = w->credits > 0 ? w->credits : -1;
	const int rc = life_move(p->e, r, REQUEST_RUNNING, DB_NORMAL, &with,
		"accepted by the hub as %s, %s", w->id, w->status);
	if (rc == 0) {
		engine_sync(p->e);
		account_balance(p->e, &w->balance, p->asked_ms);
		follow_start(p->e, r->generation, r->id, w);
	}
	return rc;
}

static int write_fate(struct posting *p, struct request *r)
{
	switch (p->fate) {
	case FATE_ACCEPTED:
		return accepted(p, r);
	case FATE_HELD:
		return hold_for_credits(p, r);
	case FATE_PATIENCE:
	case FATE_NEVER_LEFT:
		return back_to_queue(p, r);
	case FATE_FAILED:
		return end_uncharged(p, r, REQUEST_FAILED);
	case FATE_REFUSED:
		return end_uncharged(p, r, REQUEST_REFUSED);
	default:
		return lost(p, r);
	}
}

static int write_answer(struct posting *p)
{
	struct request r;
	int rc = request_get(p->e->cat, p->request, &r);

	if (rc < 0)
		return rc;
	/* Another state: it was written after all, though the disk said otherwise. */
	if (r.state == REQUEST_SENDING)
		rc = write_fate(p, &r);
	request_release(&r);
	return rc;
}

/* Writes it and lets go of it, or keeps it for another try. */
static void conclude(struct posting *p)
{
	const int rc = write_answer(p);

	if (rc == 0) {
		/* What a try did not cost is left for others. */
		if (p->fate != FATE_ACCEPTED)
			submit_budget_freed(p->e);
		p->e->kicked = true;
		answer_drop(p);
		return;
	}
	if (p->delay_ms == 0)
		log_error("request %lld: the hub's answer (%s%s) cannot be written yet: %s",
			(long long)p->request,
			p->generation.id ? "generation " : "",
			p->generation.id ? p->generation.id : p->message, strerror(-rc));
	p->delay_ms = p->delay_ms ? backoff_next(p->delay_ms, WRITE_MOST_MS) : WRITE_FIRST_MS;
	timer_set(&p->e->timers, &p->timer, clock_mono_ms() + p->delay_ms);
}

static void write_again(struct timer *timer)
{
	conclude(CONTAINER_OF(timer, struct posting, timer));
}

void answer_post(void *arg, const struct net_reply *reply)
{
	struct posting *p = arg;
	struct engine *e = p->e;

	e->sending--;
	e->kicked = true;
	read_answer(p, reply);
	if (p->fate == FATE_ACCEPTED)
		submit_heard(e, reply);
	pace(p);
	conclude(p);
}

/* Whatever the disk has of the intent: after a power loss it may show as a POST whose answer was lost,
 * never as one that was not sent. */
void answer_unsent(struct posting *p, const char *why)
{
	p->fate = FATE_NEVER_LEFT;
	p->outcome = OUTCOME_LOCAL;
	p->message = xasprintf("not sent, as the disk did not keep that it would be: %s", why);
	conclude(p);
}

void answer_release(struct engine *e)
{
	list_for_each_safe (pos, next, &e->postings) {
		struct posting *p = CONTAINER_OF(pos, struct posting, link);

		if (!timer_armed(&p->timer) || write_answer(p) == 0) {
			answer_drop(p);
			continue;
		}
		log_error("request %lld: the hub's answer (%s) is lost", (long long)p->request,
			p->generation.id ? p->generation.id : p->message);
		answer_drop(p);
	}
}

/* ---- start-up ---- */

void answer_recover(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_list(e->cat, REQUEST_SENDING, INT64_MAX, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			struct posting *p = answer_expect(e, &(struct request){.id = ids[i]});

			after = ids[i];
			p->fate = FATE_LOST;
			p->outcome = OUTCOME_CUT;
			p->message = xstrdup("this program ended before the hub's answer came");
			conclude(p);
		}
	}
	e->evidence_wanted = true;
}

/* ---- evidence ---- */

void answer_lost(struct engine *e)
{
	e->evidence_wanted = true;
	e->lost_ms = clock_mono_ms();
	account_want_balance(e);
}

static void add_evidence(struct engine *e, int64_t id, int64_t balance)
{
	struct request r;

	if (request_get(e->cat, id, &r) < 0)
		return;
	if (r.state == REQUEST_UNKNOWN && r.balance_after < 0) {
		r.balance_after = balance;
		if (request_change(e->cat, &r, REQUEST_UNKNOWN, DB_NORMAL, NULL) == 0)
			engine_tell(e, CHANGE_REQUEST, r.node, r.id, 0, 0);
	}
	request_release(&r);
}

void answer_evidence(struct engine *e, int64_t balance, int64_t asked_ms)
{
	int64_t ids[BATCH], after = 0;
	int n;

	if (!e->evidence_wanted)
		return;
	/* Asked for before the loss, it may be the balance before the charge. */
	if (asked_ms < e->lost_ms) {
		account_want_balance(e);
		return;
	}
	while ((n = request_list(e->cat, REQUEST_UNKNOWN, INT64_MAX, after, ids, BATCH)) > 0)
		for (int i = 0; i < n; i++) {
			after = ids[i];
			add_evidence(e, ids[i], balance);
		}
	e->evidence_wanted = false;
}

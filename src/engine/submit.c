/*
 * The queue and the sending: which request goes next, the gate that holds all of them back, the
 * intent and the paid POST.
 *
 * The transition to `sending` is durable, with the row of the charge, before net_post_send() is
 * called; from then on only the answer (answer.c) moves the request. What can fail is done before:
 * the call is made ready first, so that nothing is left between the intent and the sending. An intent
 * that is committed but cannot be made durable sends nothing, and is taken back.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"
#include "engine/life.h"
#include <errno.h>
#include <sodium.h>

enum {
	GATE_FIRST_MS = 1000,
	GATE_MOST_MS = 60 * 1000,
	DUE_LEAST_MS = 1000,
	DUE_MOST_MS = 3600 * 1000, /* the wall clock may be set meanwhile */
	DUE_SLACK_MS = 20,	   /* two clocks: what the gate waited for is due when it opens */
	BATCH = 64,
};

/* ---- the gate: nothing is sent while the hub cannot be reached or asks for patience ---- */

void submit_pause(struct engine *e, int64_t wait_ms, const char *why)
{
	const int64_t due = clock_mono_ms() + wait_ms;

	if (timer_armed(&e->gate) && e->gate.due_ms >= due)
		return;
	pthread_mutex_lock(&e->lock);
	free(e->gate_why);
	e->gate_why = xstrdup(why);
	pthread_mutex_unlock(&e->lock);
	timer_set(&e->timers, &e->gate, due);
}

void submit_back_off(struct engine *e, const char *why)
{
	e->gate_delay_ms =
		e->gate_delay_ms ? backoff_next(e->gate_delay_ms, GATE_MOST_MS) : GATE_FIRST_MS;
	submit_pause(e, backoff_jitter(e->gate_delay_ms), why);
}

void submit_resume(struct engine *e)
{
	timer_cancel(&e->timers, &e->gate);
	pthread_mutex_lock(&e->lock);
	free(e->gate_why);
	e->gate_why = NULL;
	pthread_mutex_unlock(&e->lock);
	e->kicked = true;
}

static void gate_opens(struct timer *timer)
{
	submit_resume(CONTAINER_OF(timer, struct engine, gate));
}

static void due_now(struct timer *timer)
{
	CONTAINER_OF(timer, struct engine, due)->kicked = true;
}

/* ---- what is known of the hub: whether it takes a key again for the same charge ---- */

/* The key is not kept in the catalogue, only whether it is still the same: another key may be
 * another account, where what it sends again would be charged again. */
static void compare_key(struct engine *e)
{
	unsigned char hash[16];
	char now[2 * sizeof hash + 1];
	const char *key = e->config.key ? e->config.key : "";
	CLEANUP_FREE char *before = catalogue_setting(e->cat, "key_hash");
	CLEANUP_FREE char *since = catalogue_setting(e->cat, "key_since");

	crypto_generichash(hash, sizeof hash, (const unsigned char *)key, strlen(key), NULL, 0);
	sodium_bin2hex(now, sizeof now, hash, sizeof hash);
	if (before && since && strcmp(before, now) == 0) {
		e->key_since_ms = strtoll(since, NULL, 10);
		return;
	}
	e->key_since_ms = clock_wall_ms();
	CLEANUP_FREE char *text = xasprintf("%lld", (long long)e->key_since_ms);
	catalogue_begin(e->cat, DB_NORMAL);
	const int rc = catalogue_set(e->cat, "key_since", text);
	catalogue_end(e->cat, rc < 0 ? rc : catalogue_set(e->cat, "key_hash", now));
}

void submit_init(struct engine *e)
{
	CLEANUP_FREE char *idempotent = catalogue_setting(e->cat, "idempotent");

	e->gate.fire = gate_opens;
	e->due.fire = due_now;
	e->idempotent = idempotent != NULL;
	list_init(&e->postings);
	compare_key(e);
}

void submit_heard(struct engine *e, const struct net_reply *reply)
{
	if (!e->keys_heard)
		e->kicked = true;
	e->keys_heard = true;
	if (e->idempotent == reply->idempotent)
		return;
	e->idempotent = reply->idempotent;
	catalogue_set(e->cat, "idempotent", e->idempotent ? "1" : NULL);
}

/* ---- the intent and the POST ---- */

static int collect_references(struct engine *e, const struct request *r,
	struct net_reference **out, size_t *count)
{
	struct request_reference *refs;

	const int rc = request_references(e->cat, r->id, &refs, count);
	*out = xcalloc(*count, sizeof **out);
	for (size_t i = 0; i < *count; i++)
		(*out)[i] = (struct net_reference){
			.path = request_refs_path(e->cat, r->key, refs[i].file),
			.name = xstrdup(refs[i].file),
			.mime = xstrdup(refs[i].mime),
		};
	request_references_free(refs, *count);
	return rc;
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

static int write_charge(struct engine *e, struct request *r, void *arg)
{
	(void)arg;
	const int rc = request_charge_open(e->cat, r->id, r->price_high > 0 ? r->price_high : 0);

	/* What goes again under its key is the same charge, and counts once. */
	return rc < 0 || r->reason == OUTCOME_OK ? rc : request_charge_merge(e->cat, r->id);
}

/* The intent: from here on the request counts as paid until the hub says otherwise. */
static int intend(struct engine *e, struct request *r)
{
	static const struct life_with charge = {write_charge, NULL};

	r->hold = HOLD_NONE;
	r->attempts++;
	r->not_before_ms = 0;
	r->sent_ms = clock_wall_ms();
	r->charged = -1;
	r->balance_after = -1;
	return life_move(e, r, REQUEST_SENDING, DB_NORMAL, &charge, "sending to %s (try %d, %s)",
		e->config.hub, r->attempts, r->order.model);
}

static int refuse_here(struct engine *e, struct request *r, char *why)
{
	r->reason = OUTCOME_LOCAL;
	free(r->text);
	r->text = why;
	return life_move(e, r, REQUEST_REFUSED, DB_NORMAL, NULL, "refused before sending: %s", why);
}

static int send(struct engine *e, struct request *r, const struct net_reference *refs, size_t count)
{
	CLEANUP_FREE char *key = xasprintf("%s-%d", r->key, r->retries);
	char *why = NULL;
	struct posting *p = answer_expect(e, r);
	struct net_call *call =
		net_post_order(e->net, &r->order, refs, count, key, answer_post, p, &why);

	if (!call) {
		answer_drop(p);
		return refuse_here(e, r, why);
	}
	int rc = intend(e, r);
	if (rc < 0) {
		net_cancel(call);
		answer_drop(p);
		return rc;
	}
	rc = engine_sync(e);
	if (rc < 0) {
		net_cancel(call);
		answer_unsent(p, strerror(-rc));
		return rc;
	}
	e->sending++;
	net_post_send(call);
	return 0;
}

static int send_with_references(struct engine *e, struct request *r)
{
	struct net_reference *refs;
	size_t count;

	int rc = collect_references(e, r, &refs, &count);
	if (rc == 0)
		rc = send(e, r, refs, count);
	references_free(refs, count);
	return rc;
}

/* ---- the queue ---- */

static const char *said(const struct request *r)
{
	return r->text ? r->text : "see .error";
}

static int carry_out(struct engine *e, struct request *r, enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_SEND:
		return send_with_references(e, r);
	case VERDICT_HOLD:
		if (r->hold == HOLD_BALANCE)
			account_watch_balance(e);
		return life_move(e, r, REQUEST_HELD, DB_NORMAL, NULL, "held: %s", said(r));
	case VERDICT_REFUSE:
		return life_move(e, r, REQUEST_REFUSED, DB_NORMAL, NULL,
			"refused before sending: %s", said(r));
	case VERDICT_CANCEL:
		return life_move(e, r, REQUEST_CANCELED, DB_FULL, NULL,
			"canceled: %s was removed before it was sent", r->path);
	case VERDICT_UNKNOWN:
		answer_lost(e);
		return life_move(e, r, REQUEST_UNKNOWN, DB_FULL, NULL,
			"unknown: %s; it is not sent again: the hub no longer knows repeated "
			"requests, or the API key is another",
			said(r));
	default:
		return 0;
	}
}

/* False when the queue has to wait. */
static bool consider(struct engine *e, struct request *r)
{
	const enum verdict verdict = judge(e, r);
	const int rc = carry_out(e, r, verdict);

	/* Somebody else moved it (a cancel): that is seen to. */
	if (rc == 0 || rc == -ESTALE)
		return verdict != VERDICT_WAIT;
	log_error("%s cannot be sent now: %s", r->path, strerror(-rc));
	submit_back_off(e, strerror(-rc));
	return false;
}

/* A queued request may wait for a moment of its own (Retry-After) without the gate: after a start. */
static void wait_for_next(struct engine *e)
{
	const int64_t due = request_next_due(e->cat);
	int64_t wait = due - clock_wall_ms();

	if (due == 0)
		return;
	wait = wait < DUE_LEAST_MS ? DUE_LEAST_MS : wait > DUE_MOST_MS ? DUE_MOST_MS : wait;
	timer_set(&e->timers, &e->due, clock_mono_ms() + wait);
}

/* How many POSTs may begin: one while nobody knows whether the hub is back. */
static int room(const struct engine *e)
{
	const int most = e->gate_delay_ms > 0 ? 1 : e->config.sending_max;
	const int left = e->config.running_max - e->n_flights - e->sending;

	if (timer_armed(&e->gate))
		return 0;
	return left < most - e->sending ? left : most - e->sending;
}

/* Considers one by its id; false when the queue has to wait. */
static bool consider_id(struct engine *e, int64_t id)
{
	struct request r;

	if (request_get(e->cat, id, &r) < 0)
		return true; /* unreadable, which was logged; the others go on */
	/* One that is canceled meanwhile holds up nobody. */
	const bool go_on = r.state != REQUEST_QUEUED || consider(e, &r);
	request_release(&r);
	return go_on;
}

void submit_queue(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	for (;;) {
		const int most = room(e);

		if (most <= 0)
			return;
		n = request_list(e->cat, REQUEST_QUEUED, clock_wall_ms() + DUE_SLACK_MS, after, ids,
			most < BATCH ? most : BATCH);
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++) {
			after = ids[i];
			if (!consider_id(e, ids[i]))
				return;
		}
	}
	wait_for_next(e);
}

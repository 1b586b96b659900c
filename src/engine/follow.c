/*
 * Following generations: polling until the hub has its last word.
 *
 * A flight is a generation that is followed. While it is pending it is polled (1 s, ×1.5, up to
 * 10 s, ±20 %; slower when thousands are in flight, and evenly: all of them together stay under
 * POLLS_PER_SECOND, at a start-up with thousands too) and nothing is written while the hub's word
 * stays the same. What follows a success is landing.c's.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/flight.h"
#include <errno.h>
#include <search.h>

enum {
	POLL_FIRST_MS = 1000,
	POLL_MOST_MS = 10 * 1000,
	POLL_TROUBLE_MS = 60 * 1000,
	POLLS_PER_SECOND = 200,
	POLL_BURST_MS = 100, /* so many polls' time may be used at once */
	MISSING_POLLS = 5,   /* so many 404 in a row are told */
	LOST_MS = 3600 * 1000, /* nothing else for so long: the hub no longer knows it */
	BATCH = 256,
};

/* ---- flights ---- */

static int flight_compare(const void *a, const void *b)
{
	const int64_t x = ((const struct flight *)a)->generation;
	const int64_t y = ((const struct flight *)b)->generation;

	return x < y ? -1 : x > y;
}

static struct flight *flight_find(struct engine *e, int64_t generation)
{
	const struct flight key = {.generation = generation};
	struct flight *const *found = tfind(&key, &e->flight_tree, flight_compare);

	return found ? *found : NULL;
}

void flight_end(struct flight *f)
{
	struct engine *e = f->e;

	timer_cancel(&e->timers, &f->timer);
	if (f->call)
		net_cancel(f->call);
	landing_release(f);
	list_remove(&f->link);
	tdelete(f, &e->flight_tree, flight_compare);
	e->n_flights--;
	e->kicked = true;
	free(f->hub_id);
	free(f->poll_url);
	free(f->status);
	free(f);
}

void follow_release(struct engine *e)
{
	list_for_each_safe (pos, next, &e->flights)
		flight_end(CONTAINER_OF(pos, struct flight, link));
}

/* ---- polling ---- */

static void poll_later(struct flight *f, int64_t at_least_ms)
{
	const int64_t crowd = (int64_t)f->e->n_flights * 1000 / POLLS_PER_SECOND;
	int64_t wait = backoff_jitter(f->delay_ms > crowd ? f->delay_ms : crowd);

	timer_set(&f->e->timers, &f->timer,
		clock_mono_ms() + (wait > at_least_ms ? wait : at_least_ms));
}

/* Goes on from what the hub has just said (its rows are written). */
static void advance(struct flight *f, const struct wire_generation *w)
{
	if (w->phase == PHASE_SUCCEEDED) {
		landing_succeeded(f);
	} else if (w->phase == PHASE_FAILED) {
		landing_failed(f, w,
			w->error_message   ? w->error_message
			: w->n_images == 0 ? "the hub gave no picture and no reason"
					   : "the hub gave no reason");
	} else {
		f->delay_ms =
			f->delay_ms ? backoff_next(f->delay_ms, POLL_MOST_MS) : POLL_FIRST_MS;
		poll_later(f, 0);
	}
}

/* A 404. It may be paid, and failed is final: a proxy that was badly set up for a while, or another
 * account's API key, must not end it. True when it is ended. */
static bool is_lost(struct flight *f)
{
	const int64_t now = clock_mono_ms();

	if (f->missing++ == 0)
		f->missing_since_ms = now;
	if (f->missing == MISSING_POLLS)
		record_word(f, f->other_key ? "not known to the hub under this API key"
					    : "not known to the hub just now");
	if (f->other_key || f->missing < MISSING_POLLS || now - f->missing_since_ms < LOST_MS)
		return false;
	landing_failed(f, NULL, "the hub no longer knows this generation");
	return true;
}

static void poll_trouble(struct flight *f, const struct net_reply *reply)
{
	/* Perhaps only the address that the hub gave is wrong: from now on the one made of the id. */
	free(f->poll_url);
	f->poll_url = NULL;
	if (reply->outcome == OUTCOME_NOT_FOUND && is_lost(f))
		return;
	f->delay_ms = f->delay_ms ? backoff_next(f->delay_ms, POLL_TROUBLE_MS) : POLL_FIRST_MS;
	poll_later(f, reply->retry_after_ms);
}

static void poll_done(void *arg, const struct net_reply *reply)
{
	struct flight *f = arg;
	struct wire_generation w;
	CLEANUP_FREE char *error = NULL;

	f->call = NULL;
	if (reply->outcome != OUTCOME_OK) {
		poll_trouble(f, reply);
		return;
	}
	if (wire_generation_decode(reply->body, reply->body_len, &w, &error) < 0 ||
		strcmp(w.id, f->hub_id) != 0) {
		struct net_reply bad = *reply;

		bad.outcome = OUTCOME_UNREADABLE;
		log_warning("generation %s: %s", f->hub_id, error ? error : "another id came back");
		if (!error)
			wire_generation_release(&w);
		poll_trouble(f, &bad);
		return;
	}
	f->missing = 0;
	const int rc = record_answer(f, &w, reply->body);
	if (rc > 0) {
		f->delay_ms = 0;
		flight_tell(f);
	}
	if (rc < 0)
		poll_later(f, POLL_MOST_MS);
	else
		advance(f, &w);
	wire_generation_release(&w);
}

/* Whether a poll must wait for its turn: one takes 1/POLLS_PER_SECOND of the line. */
static bool must_queue(struct flight *f)
{
	struct engine *e = f->e;
	const int64_t now = clock_mono_ms();

	if (f->paced) {
		f->paced = false;
		return false;
	}
	if (e->poll_line_ms < now - POLL_BURST_MS)
		e->poll_line_ms = now - POLL_BURST_MS;
	e->poll_line_ms += 1000 / POLLS_PER_SECOND;
	if (e->poll_line_ms <= now)
		return false;
	f->paced = true;
	timer_set(&e->timers, &f->timer, e->poll_line_ms);
	return true;
}

static void poll_now(struct timer *timer)
{
	struct flight *f = CONTAINER_OF(timer, struct flight, timer);

	if (!f->call && !must_queue(f))
		f->call = net_get_generation(f->e->net, f->hub_id, f->poll_url, poll_done, f);
}

void follow_start(struct engine *e, int64_t generation, int64_t request,
	const struct wire_generation *w)
{
	struct generation g;
	struct flight *f = flight_find(e, generation);

	if (!f) {
		if (generation_get(e->cat, generation, &g) < 0)
			return;
		f = xcalloc(1, sizeof *f);
		*f = (struct flight){.e = e,
			.generation = generation,
			.request = request,
			.hub_id = xstrdup(g.hub_id),
			.poll_url = xstrdup_or_null(g.poll_url),
			.other_key = g.created_ms < e->key_since_ms,
			.timer.fire = poll_now};
		list_append(&e->flights, &f->link);
		record_taken(f, &g);
		tsearch(f, &e->flight_tree, flight_compare);
		e->n_flights++;
		generation_release(&g);
	}
	if (f->request == 0)
		f->request = request; /* looked up by its id before its order's answer came */
	flight_tell(f);
	if (w) {
		advance(f, w);
	} else {
		f->delay_ms = POLL_FIRST_MS;
		timer_set(&e->timers, &f->timer, clock_mono_ms());
	}
}

/* ---- start-up ---- */

static void recover_running(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_list(e->cat, REQUEST_RUNNING, INT64_MAX, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			struct request r;

			after = ids[i];
			if (request_get(e->cat, ids[i], &r) < 0)
				continue;
			follow_start(e, r.generation, r.id, NULL);
			request_release(&r);
		}
	}
}

/* Pictures that were never measured although their request is done. */
static void recover_unlisted(struct engine *e)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = image_unlisted(e->cat, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++) {
			struct generation g;
			struct image image;

			after = ids[i];
			if (image_get(e->cat, ids[i], &image) < 0)
				continue;
			if (!flight_find(e, image.generation) &&
				generation_get(e->cat, image.generation, &g) == 0) {
				follow_start(e, g.id, g.request, NULL);
				generation_release(&g);
			}
			image_release(&image);
		}
	}
}

void follow_recover(struct engine *e)
{
	recover_running(e);
	recover_unlisted(e);
}

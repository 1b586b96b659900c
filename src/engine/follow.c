/*
 * From the hub's id to the pictures: polling, success, and the size of each picture.
 *
 * A flight is a generation that is followed. While it is pending it is polled (1 s, ×1.5, up to
 * 10 s, ±20 %; slower when thousands are in flight, and evenly: all of them together stay under
 * POLLS_PER_SECOND, at a start-up with thousands too) and nothing is written while the hub's word
 * stays the same. At success each
 * picture is measured by one small ranged GET (presigned URLs refuse HEAD), and only then does the
 * request succeed, so that whoever sees the success finds the pictures listed. A picture that cannot
 * be measured is tried again; after PROBE_TRIES the request succeeds without it, says so, and it is
 * tried on in the background.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"
#include "engine/life.h"
#include <errno.h>
#include <search.h>
#include <stdio.h>

enum {
	POLL_FIRST_MS = 1000,
	POLL_MOST_MS = 10 * 1000,
	POLL_TROUBLE_MS = 60 * 1000,
	POLLS_PER_SECOND = 200,
	POLL_BURST_MS = 100, /* so many polls' time may be used at once */
	LOST_POLLS = 5,	 /* so many 404 in a row: the hub no longer knows it */
	PROBE_TRIES = 3, /* before the request succeeds without a picture */
	PROBE_FIRST_MS = 1000,
	PROBE_MOST_MS = 15 * 60 * 1000,
	WRITE_AGAIN_MS = 5000,
	BATCH = 256,
};

struct flight;

/* One picture being measured. */
struct probe {
	struct flight *flight;
	int64_t image;
	int number;
	int tries;
	int64_t delay_ms;
	struct timer timer;
	struct net_call *call;
	unsigned char *head;
	size_t head_len;
	bool listed;
};

struct flight {
	struct list link;
	struct engine *e;
	int64_t generation, request; /* rows; request 0: nobody's here */
	char *hub_id, *poll_url;
	char *status;	     /* the hub's word and price as they are written down: a poll that brings
			      * the same asks the catalogue nothing */
	int64_t credits;
	struct timer timer;
	struct net_call *call;
	int64_t delay_ms;
	bool paced;	     /* the timer is set to its turn in the line of polls */
	int missing;	     /* 404 in a row */
	struct probe *probes; /* at success; one for each picture */
	size_t n_probes;
	struct net_call *balance; /* asked at success, so that the price is known with it */
	bool concluded;	     /* the request has its final state */
};

static void poll_now(struct timer *timer);
static void probe_now(struct timer *timer);

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

static void probe_end(struct flight *f, struct probe *p)
{
	timer_cancel(&f->e->timers, &p->timer);
	if (p->call)
		net_cancel(p->call);
	p->call = NULL;
	free(p->head);
	p->head = NULL;
}

static void flight_end(struct flight *f)
{
	struct engine *e = f->e;

	timer_cancel(&e->timers, &f->timer);
	if (f->call)
		net_cancel(f->call);
	for (size_t i = 0; i < f->n_probes; i++)
		probe_end(f, &f->probes[i]);
	if (f->balance)
		net_cancel(f->balance);
	list_remove(&f->link);
	tdelete(f, &e->flight_tree, flight_compare);
	e->n_flights--;
	e->kicked = true;
	free(f->probes);
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

/* ---- the end ---- */

static void tell_generation(struct flight *f)
{
	engine_tell(f->e, CHANGE_GENERATION, 0, f->request, f->generation, 0);
}

static size_t listed_count(const struct flight *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n_probes; i++)
		n += f->probes[i].listed;
	return n;
}

/* What could not be written down (a full disk) is no end: the hub is asked again, later. */
static bool may_end(struct flight *f, int rc)
{
	if (rc == 0 || rc == -ESTALE || rc == -EINVAL)
		return true;
	log_error("generation %s: its end cannot be written yet: %s", f->hub_id, strerror(-rc));
	timer_set(&f->e->timers, &f->timer, clock_mono_ms() + WRITE_AGAIN_MS);
	return false;
}

/* Moves the requests that wait for this generation: one, but where the hub answered two orders with
 * one id. What was not charged as dearly as it might have been is left of the budget for others. */
static int end_requests(struct flight *f, int (*end)(struct flight *f, struct request *r, void *arg),
	void *arg)
{
	struct engine *e = f->e;
	int64_t id = 0;
	int rc = 0;

	while (request_running_of_generation(e->cat, f->generation, id, &id, 1) > 0) {
		struct request r;

		if (request_get(e->cat, id, &r) < 0)
			continue;
		const int ended = end(f, &r, arg);
		if (ended == 0 && e->config.max_spend >= 0 && r.charged >= 0 &&
			r.charged < r.price_high)
			submit_unhold(e, false);
		request_release(&r);
		rc = rc ? rc : ended;
	}
	return rc;
}

static int succeed_one(struct flight *f, struct request *r, void *arg)
{
	struct engine *e = f->e;
	const struct generation *g = arg;
	const size_t listed = listed_count(f);

	r->charged = g->credits;
	r->balance_after = account_known_balance(e, NULL);
	return life_move(e, r, REQUEST_SUCCEEDED, DB_NORMAL, &answer_settle,
		listed < f->n_probes
			? "succeeded: %zu of %zu pictures, %lld credits; the others cannot be reached, "
			  "which is tried again"
			: "succeeded: %zu of %zu pictures, %lld credits",
		listed, f->n_probes, (long long)g->credits);
}

static bool succeed(struct flight *f)
{
	struct generation g;
	int rc = generation_get(f->e->cat, f->generation, &g);

	if (rc == 0) {
		rc = end_requests(f, succeed_one, &g);
		generation_release(&g);
	}
	return may_end(f, rc == -ENOENT ? 0 : rc);
}

/* Concludes when every picture was listed or tried often enough and the balance is known, and ends
 * the flight when nothing is left to do. */
static void conclude(struct flight *f)
{
	bool waiting = false, open = false;

	for (size_t i = 0; i < f->n_probes; i++) {
		open |= !f->probes[i].listed;
		waiting |= !f->probes[i].listed && f->probes[i].tries < PROBE_TRIES;
	}
	if (waiting || f->balance)
		return;
	if (!f->concluded) {
		if (!succeed(f))
			return;
		f->concluded = true;
		tell_generation(f);
	}
	if (!open)
		flight_end(f);
}

struct failure {
	const struct wire_generation *w; /* NULL: the hub no longer knows it */
	const char *why;
};

static int fail_one(struct flight *f, struct request *r, void *arg)
{
	const struct failure *failure = arg;
	const struct wire_generation *w = failure->w;
	const bool credits = w && w->error_code &&
		outcome_from_http(402, w->error_code) == OUTCOME_NO_CREDITS;

	r->reason = credits ? OUTCOME_NO_CREDITS : OUTCOME_GENERATION_FAILED;
	/* A failure is refunded, by the hub's word; when the hub has lost it, nobody knows. */
	r->charged = !w ? -1 : w->credits > 0 ? w->credits : 0;
	free(r->text);
	r->text = xstrdup(failure->why);
	return life_move(f->e, r, REQUEST_FAILED, DB_NORMAL, &answer_settle, "failed: %s; %s",
		failure->why,
		r->charged > 0	  ? "charged"
		: r->charged == 0 ? "not charged"
				  : "it may have been charged");
}

static void end_failed(struct flight *f, const struct wire_generation *w, const char *why)
{
	if (!may_end(f, end_requests(f, fail_one, &(struct failure){w, why})))
		return;
	tell_generation(f);
	account_want_balance(f->e);
	flight_end(f);
}

/* ---- measuring the pictures ---- */

static void probe_later(struct probe *p)
{
	p->delay_ms = p->delay_ms ? backoff_next(p->delay_ms, PROBE_MOST_MS) : PROBE_FIRST_MS;
	timer_set(&p->flight->e->timers, &p->timer,
		clock_mono_ms() + backoff_jitter(p->delay_ms));
}

static void list_picture(struct probe *p, int64_t size, const struct picture_info *info)
{
	struct flight *f = p->flight;
	struct engine *e = f->e;
	struct image i;
	struct request r = {0};

	int rc = image_get(e->cat, p->image, &i);
	if (rc < 0) {
		probe_later(p);
		return;
	}
	i.size = size;
	i.type = info->type;
	i.width = info->width;
	i.height = info->height;
	i.listed_ms = clock_wall_ms();
	rc = image_put(e->cat, &i);
	image_release(&i);
	if (rc < 0) {
		log_error("picture %lld cannot be listed yet: %s", (long long)p->image,
			strerror(-rc));
		probe_later(p);
		return;
	}
	p->listed = true;
	if (f->request)
		request_get(e->cat, f->request, &r);
	engine_tell(e, CHANGE_PICTURE, r.node, f->request, f->generation, p->image);
	request_release(&r);
	pictures_listed(e, p->image);
}

static void probe_failed(struct probe *p, const char *why)
{
	struct flight *f = p->flight;
	struct engine *e = f->e;

	p->tries++;
	if (p->tries == 1 || p->tries == PROBE_TRIES) {
		CLEANUP_FREE char *line = xasprintf("picture %d cannot be measured: %s", p->number, why);
		log_add(e->cat, f->request, f->generation, line);
	}
	probe_later(p);
	conclude(f);
}

static bool probe_data(void *arg, const void *bytes, size_t len, int64_t total)
{
	struct probe *p = arg;
	const size_t room = PICTURE_HEAD_BYTES - p->head_len;

	(void)total;
	if (!p->head)
		p->head = xmalloc(PICTURE_HEAD_BYTES);
	memcpy(p->head + p->head_len, bytes, len < room ? len : room);
	p->head_len += len < room ? len : room;
	return true;
}

static void measured(void *arg, const struct picture_measured *m)
{
	struct probe *p = arg;

	if (m->size < 0) {
		probe_failed(p, m->message);
		return;
	}
	list_picture(p, m->size, &m->info);
	conclude(p->flight);
}

static void renewed(void *arg, bool ok)
{
	struct probe *p = arg;

	if (!ok)
		probe_failed(p, "its address has expired, and the hub gave no new one");
	else
		timer_set(&p->flight->e->timers, &p->timer, clock_mono_ms());
}

static void probe_done(void *arg, const struct net_picture_reply *reply)
{
	struct probe *p = arg;
	struct engine *e = p->flight->e;
	struct picture_info info;

	p->call = NULL;
	if (reply->expired && p->tries == 0) {
		p->tries++;
		follow_renew(e, p->flight->generation, renewed, p);
		return;
	}
	if (reply->outcome != OUTCOME_OK) {
		probe_failed(p, reply->message);
		return;
	}
	info = picture_probe(p->head, p->head_len);
	if (info.type == PICTURE_UNKNOWN) {
		probe_failed(p, "what the server gave is not a PNG, JPEG or WebP picture");
		return;
	}
	if (reply->total < 0) {
		pictures_measure(e, p->image, measured, p);
		return;
	}
	list_picture(p, reply->total, &info);
	conclude(p->flight);
}

static void probe_now(struct timer *timer)
{
	struct probe *p = CONTAINER_OF(timer, struct probe, timer);
	struct image i;

	if (p->call)
		return;
	if (image_get(p->flight->e->cat, p->image, &i) < 0) {
		probe_later(p);
		return;
	}
	p->head_len = 0;
	if (i.url)
		p->call = net_get_picture(p->flight->e->net, NET_WANTED, i.url, 0,
			PICTURE_HEAD_BYTES, probe_data, probe_done, p);
	image_release(&i);
}

static void balance_told(void *arg, const struct net_reply *reply)
{
	struct flight *f = arg;

	f->balance = NULL;
	account_balance_reply(f->e, reply);
	conclude(f);
}

/* Starts measuring what is not listed yet; the second time, tries to conclude again. */
static void probe_all(struct flight *f)
{
	struct engine *e = f->e;
	struct image *images;
	size_t n;

	if (f->probes) {
		conclude(f);
		return;
	}
	if (!may_end(f, image_list(e->cat, f->generation, &images, &n)))
		return;
	f->probes = xcalloc(n + 1, sizeof *f->probes);
	for (size_t i = 0; i < n; i++) {
		struct probe *p = &f->probes[i];

		*p = (struct probe){.flight = f,
			.image = images[i].id,
			.number = images[i].number,
			.timer.fire = probe_now,
			.listed = images[i].size >= 0 || images[i].removed};
		if (!p->listed)
			timer_set(&e->timers, &p->timer, clock_mono_ms());
	}
	f->n_probes = n;
	images_free(images, n);
	f->balance = net_get_credits(e->net, balance_told, f);
	conclude(f);
}

/* ---- what the hub says of a generation ---- */

/* may_add: pictures that are not known yet as well. */
static int keep_images(struct engine *e, int64_t generation, const struct wire_generation *w,
	bool may_add)
{
	int rc = 0;

	for (size_t k = 0; k < w->n_images && rc == 0; k++) {
		struct image i;

		if (image_find(e->cat, generation, (int)k + 1, &i) < 0) {
			if (!may_add)
				continue;
			i = (struct image){
				.generation = generation, .number = (int)k + 1, .size = -1};
		}
		free(i.hub_id);
		free(i.url);
		i.hub_id = xstrdup_or_null(w->images[k].id);
		i.url = xstrdup(w->images[k].url);
		i.url_ms = clock_wall_ms();
		rc = image_put(e->cat, &i);
		image_release(&i);
	}
	return rc;
}

static void set_text(char **field, const char *text)
{
	free(*field);
	*field = xstrdup_or_null(text);
}

static void fill(struct generation *g, const struct wire_generation *w, const char *body)
{
	set_text(&g->status, w->status);
	set_text(&g->response_json, body);
	g->phase = w->phase;
	if (w->model)
		set_text(&g->model, w->model);
	if (w->poll_url)
		set_text(&g->poll_url, w->poll_url);
	if (w->prompt && !g->prompt)
		set_text(&g->prompt, w->prompt);
	if (w->credits >= 0)
		g->credits = w->credits;
	set_text(&g->error,
		w->phase != PHASE_FAILED ? NULL
		: w->error_message	 ? w->error_message
		: w->n_images == 0	 ? "the hub gave no picture and no reason"
					 : "the hub gave no reason");
}

int follow_insert(struct engine *e, const struct wire_generation *w, const char *body,
	const struct request *r, int64_t *generation)
{
	struct generation g;
	int rc = generation_find(e->cat, w->id, &g) == 0 ? 1 : 0;

	if (rc == 0) {
		g = (struct generation){.hub_id = xstrdup(w->id), .credits = -1};
		if (r) {
			g.request = r->id;
			g.prompt = xstrdup_or_null(r->order.prompt);
			g.request_json = order_encode(&r->order);
			g.model = xstrdup_or_null(r->order.model);
		}
	} else if (r && g.request != 0 && g.request != r->id) {
		/* The hub answers two orders with one id: whatever it means, keep both rows. */
		log_warning("the hub gave generation %s to two requests", w->id);
	}
	fill(&g, w, body);
	rc = rc ? generation_update(e->cat, &g) : generation_insert(e->cat, &g);
	if (rc >= 0)
		rc = keep_images(e, g.id, w, true);
	*generation = g.id;
	generation_release(&g);
	return rc < 0 ? rc : 0;
}

/* True when the hub's word or anything a reader sees has changed. A flight is polled while it is
 * pending only. */
static bool is_news(const struct flight *f, const struct wire_generation *w)
{
	return strcmp(f->status, w->status) != 0 || w->phase != PHASE_PENDING ||
		(w->credits >= 0 && w->credits != f->credits);
}

static void take_word(struct flight *f, const struct generation *g)
{
	set_text(&f->status, g->status ? g->status : "");
	f->credits = g->credits;
}

/* 1 when it was written down, 0 when there was nothing new. */
static int update(struct flight *f, const struct wire_generation *w, const char *body)
{
	struct engine *e = f->e;
	struct generation g;

	if (!is_news(f, w))
		return 0;
	int rc = generation_get(e->cat, f->generation, &g);
	if (rc < 0)
		return rc;
	fill(&g, w, body);
	catalogue_begin(e->cat, DB_NORMAL);
	rc = generation_update(e->cat, &g);
	if (rc >= 0)
		rc = keep_images(e, f->generation, w, true);
	rc = catalogue_end(e->cat, rc < 0 ? rc : 0);
	if (rc == 0)
		take_word(f, &g);
	generation_release(&g);
	return rc < 0 ? rc : 1;
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
		probe_all(f);
	} else if (w->phase == PHASE_FAILED) {
		end_failed(f, w,
			w->error_message   ? w->error_message
			: w->n_images == 0 ? "the hub gave no picture and no reason"
					   : "the hub gave no reason");
	} else {
		f->delay_ms =
			f->delay_ms ? backoff_next(f->delay_ms, POLL_MOST_MS) : POLL_FIRST_MS;
		poll_later(f, 0);
	}
}

static void poll_trouble(struct flight *f, const struct net_reply *reply)
{
	/* Perhaps only the address that the hub gave is wrong: from now on the one made of the id. */
	free(f->poll_url);
	f->poll_url = NULL;
	if (reply->outcome == OUTCOME_NOT_FOUND) {
		if (++f->missing >= LOST_POLLS) {
			end_failed(f, NULL, "the hub no longer knows this generation");
			return;
		}
	}
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
	const int rc = update(f, &w, reply->body);
	if (rc > 0) {
		f->delay_ms = 0;
		tell_generation(f);
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
			.timer.fire = poll_now};
		list_append(&e->flights, &f->link);
		take_word(f, &g);
		tsearch(f, &e->flight_tree, flight_compare);
		e->n_flights++;
		generation_release(&g);
	}
	if (f->request == 0)
		f->request = request; /* looked up by its id before its order's answer came */
	tell_generation(f);
	if (w) {
		advance(f, w);
	} else {
		f->delay_ms = POLL_FIRST_MS;
		timer_set(&e->timers, &f->timer, clock_mono_ms());
	}
}

/* ---- fresh addresses of pictures ---- */

/* What has ended has its last word: only the addresses of the pictures it has are taken. The mount
 * counts on it (mount/attrs.c). */
static int keep_addresses(struct engine *e, int64_t generation, const struct wire_generation *w,
	const char *body)
{
	catalogue_begin(e->cat, DB_NORMAL);
	int rc = generation_answered(e->cat, generation, body);
	if (rc == 0)
		rc = keep_images(e, generation, w, false);
	return catalogue_end(e->cat, rc);
}

struct renewal {
	struct list link; /* engine's errands */
	struct engine *e;
	int64_t generation;
	void (*done)(void *arg, bool ok);
	void *arg;
};

static void renewal_done(void *arg, const struct net_reply *reply)
{
	struct renewal *r = arg;
	struct wire_generation w;
	bool ok = false;

	if (reply->outcome == OUTCOME_OK &&
		wire_generation_decode(reply->body, reply->body_len, &w, NULL) == 0) {
		ok = w.n_images > 0 &&
			keep_addresses(r->e, r->generation, &w, reply->body) == 0;
		wire_generation_release(&w);
	}
	list_remove(&r->link);
	r->done(r->arg, ok);
	free(r);
}

void follow_renew(struct engine *e, int64_t generation, void (*done)(void *arg, bool ok), void *arg)
{
	struct generation g;
	struct renewal *r;

	if (generation_get(e->cat, generation, &g) < 0) {
		done(arg, false);
		return;
	}
	r = xcalloc(1, sizeof *r);
	*r = (struct renewal){.e = e, .generation = generation, .done = done, .arg = arg};
	list_append(&e->errands, &r->link);
	net_get_generation(e->net, g.hub_id, g.poll_url, renewal_done, r);
	generation_release(&g);
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

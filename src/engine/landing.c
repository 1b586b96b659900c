/*
 * From a generation's success to its listed pictures, and the end of its request.
 *
 * At success each picture is measured by one small ranged GET (presigned URLs refuse HEAD), and only
 * then does the request succeed, so that whoever sees the success finds the pictures listed. A picture
 * that cannot be measured is tried again; after PROBE_TRIES the request succeeds without it, says so,
 * and it is tried on in the background.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/flight.h"
#include "engine/life.h"
#include <errno.h>

enum {
	PROBE_TRIES = 3, /* before the request succeeds without a picture */
	PROBE_FIRST_MS = 1000,
	PROBE_MOST_MS = 15 * 60 * 1000,
	WRITE_AGAIN_MS = 5000,
};

/* ---- the end ---- */

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
		if (ended == 0 && r.charged >= 0 && r.charged < r.price_high)
			submit_budget_freed(e);
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
	CLEANUP_FREE char *cost = g->credits >= 0
		? xasprintf("%lld credits", (long long)g->credits)
		: xstrdup("the hub does not tell what it cost");

	r->charged = g->credits;
	r->balance_after = account_known_balance(e, NULL);
	return life_move(e, r, REQUEST_SUCCEEDED, DB_NORMAL, &answer_settle,
		"succeeded: %zu of %zu pictures, %s%s", listed, f->n_probes, cost,
		listed < f->n_probes ? "; the others cannot be reached, which is tried again" : "");
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
		flight_tell(f);
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

void landing_failed(struct flight *f, const struct wire_generation *w, const char *why)
{
	if (!may_end(f, end_requests(f, fail_one, &(struct failure){w, why})))
		return;
	flight_tell(f);
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
void landing_succeeded(struct flight *f)
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

/* ---- giving up ---- */

static void probe_end(struct flight *f, struct probe *p)
{
	timer_cancel(&f->e->timers, &p->timer);
	if (p->call)
		net_cancel(p->call);
	p->call = NULL;
	free(p->head);
	p->head = NULL;
}

void landing_release(struct flight *f)
{
	for (size_t i = 0; i < f->n_probes; i++)
		probe_end(f, &f->probes[i]);
	if (f->balance)
		net_cancel(f->balance);
	free(f->probes);
}

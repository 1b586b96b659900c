/*
 * What the hub says of a generation, written down: its first answer, news of it, and fresh addresses of
 * its pictures.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/flight.h"
#include <errno.h>

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
	const bool known = generation_find(e->cat, w->id, &g) == 0;
	int rc = 0;

	if (!known) {
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
	/* One that was removed here is wanted again: its new order could not even be followed. */
	if (known && r)
		rc = generation_recall(e->cat, g.id);
	if (rc == 0)
		rc = known ? generation_update(e->cat, &g) : generation_insert(e->cat, &g);
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

void record_taken(struct flight *f, const struct generation *g)
{
	set_text(&f->status, g->status ? g->status : "");
	f->credits = g->credits;
}

int record_answer(struct flight *f, const struct wire_generation *w, const char *body)
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
		record_taken(f, &g);
	generation_release(&g);
	return rc < 0 ? rc : 1;
}

void record_word(struct flight *f, const char *word)
{
	struct engine *e = f->e;
	struct generation g;

	if (generation_get(e->cat, f->generation, &g) < 0)
		return;
	/* What has ended keeps the hub's last word. */
	if (g.phase == PHASE_PENDING)
		set_text(&g.status, word);
	catalogue_begin(e->cat, DB_NORMAL);
	int rc = generation_update(e->cat, &g);
	if (rc >= 0)
		rc = log_add(e->cat, f->request, f->generation, word);
	rc = catalogue_end(e->cat, rc < 0 ? rc : 0);
	if (rc == 0) {
		record_taken(f, &g);
		flight_tell(f);
	}
	generation_release(&g);
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

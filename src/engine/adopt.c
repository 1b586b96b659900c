/*
 * Generations that were started elsewhere: a look-up of an id that is not known here asks the hub
 * once and adopts what it answers. Several look-ups of one id share one question; a "no" is kept for
 * NO_FRESH_MS so that it is not asked again and again.
 */
#include "base/clock.h"
#include "base/names.h"
#include "engine/internal.h"
#include <errno.h>

enum { NO_FRESH_MS = 30 * 1000, NOES_MAX = 256 };

struct asker {
	struct list link;
	engine_adopt_fn *fn;
	void *arg;
};

struct adoption {
	struct list link;
	struct engine *e;
	char *hub_id;
	struct list askers;
	struct net_call *call;
	int64_t no_until_ms; /* monotonic; 0: being asked */
	int no;		     /* the error that stands until then */
};

/* What crosses from another thread. */
struct wish {
	char *hub_id;
	engine_adopt_fn *fn;
	void *arg;
};

static void answer(struct adoption *a, int error, int64_t generation)
{
	list_for_each_safe (pos, next, &a->askers) {
		struct asker *asker = CONTAINER_OF(pos, struct asker, link);

		list_remove(pos);
		asker->fn(asker->arg, error, generation);
		free(asker);
	}
}

static void adoption_free(struct adoption *a)
{
	list_remove(&a->link);
	free(a->hub_id);
	free(a);
}

/* Drops the noes that are old, and the oldest when there are too many. */
static void forget_noes(struct engine *e)
{
	const int64_t now = clock_mono_ms();
	int count = 0;

	list_for_each_safe (pos, next, &e->adoptions) {
		count++;
		struct adoption *a = CONTAINER_OF(pos, struct adoption, link);

		if (a->no_until_ms && a->no_until_ms <= now) {
			adoption_free(a);
			count--;
		}
	}
	/* What was freed is not in the list any more, which the analyzer does not see. */
	list_for_each_safe (pos, next, &e->adoptions) { /* NOLINT(clang-analyzer-unix.Malloc) */
		struct adoption *a = CONTAINER_OF(pos, struct adoption, link);

		if (count <= NOES_MAX)
			break;
		if (a->no_until_ms) {
			adoption_free(a);
			count--;
		}
	}
}

static void say_no(struct adoption *a, int error)
{
	a->no = error;
	a->no_until_ms = clock_mono_ms() + (error == -ENOENT ? NO_FRESH_MS : 1000);
	answer(a, error, 0);
}

static int adopt(struct engine *e, const char *hub_id, const struct net_reply *reply,
	int64_t *generation)
{
	struct wire_generation w;

	if (wire_generation_decode(reply->body, reply->body_len, &w, NULL) < 0)
		return -EPROTO;
	int rc = strcmp(w.id, hub_id) == 0 ? 0 : -EPROTO;
	if (rc == 0) {
		catalogue_begin(e->cat, DB_NORMAL);
		rc = follow_insert(e, &w, reply->body, NULL, generation);
		if (rc == 0)
			rc = log_add(e->cat, 0, *generation, "found at the hub by its id");
		rc = catalogue_end(e->cat, rc < 0 ? rc : 0);
	}
	if (rc == 0)
		follow_start(e, *generation, 0, &w);
	wire_generation_release(&w);
	return rc;
}

static void adoption_done(void *arg, const struct net_reply *reply)
{
	struct adoption *a = arg;
	int64_t generation = 0;

	a->call = NULL;
	if (reply->outcome != OUTCOME_OK) {
		say_no(a, -outcome_fact(reply->outcome)->err);
		return;
	}
	const int rc = adopt(a->e, a->hub_id, reply, &generation);
	if (rc < 0) {
		say_no(a, rc);
		return;
	}
	answer(a, 0, generation);
	adoption_free(a);
}

static struct adoption *adoption_get(struct engine *e, const char *hub_id)
{
	struct adoption *a;

	forget_noes(e);
	list_for_each_safe (pos, next, &e->adoptions) { /* NOLINT(clang-analyzer-unix.Malloc) */
		a = CONTAINER_OF(pos, struct adoption, link);
		if (strcmp(a->hub_id, hub_id) == 0)
			return a;
	}
	a = xcalloc(1, sizeof *a);
	a->e = e;
	a->hub_id = xstrdup(hub_id);
	list_init(&a->askers);
	list_append(&e->adoptions, &a->link);
	return a;
}

static void wished(struct engine *e, int64_t id, void *arg)
{
	struct wish *w = arg;
	struct adoption *a = adoption_get(e, w->hub_id);
	struct generation_entry known = {0};

	(void)id;
	const int rc = generation_entry_find(e->cat, w->hub_id, &known);
	if (rc != -ENOENT) {
		w->fn(w->arg, rc == -ESTALE ? -ENOENT : rc, known.id);
		if (list_empty(&a->askers) && !a->call)
			adoption_free(a);
	} else if (a->no_until_ms) {
		w->fn(w->arg, a->no, 0);
	} else {
		struct asker *asker = xcalloc(1, sizeof *asker);

		*asker = (struct asker){.fn = w->fn, .arg = w->arg};
		list_append(&a->askers, &asker->link);
		if (!a->call)
			a->call = net_get_generation(e->net, a->hub_id, NULL, adoption_done, a);
	}
	free(w->hub_id);
	free(w);
}

void engine_adopt(struct engine *e, const char *hub_id, engine_adopt_fn *fn, void *arg)
{
	struct wish *w;

	if (!names_is_lookup_id(hub_id)) {
		fn(arg, -ENOENT, 0);
		return;
	}
	w = xcalloc(1, sizeof *w);
	*w = (struct wish){xstrdup(hub_id), fn, arg};
	engine_post(e, wished, 0, w);
}

void adopt_release(struct engine *e, int error)
{
	list_for_each_safe (pos, next, &e->adoptions) {
		struct adoption *a = CONTAINER_OF(pos, struct adoption, link);

		if (a->call)
			net_cancel(a->call);
		answer(a, error, 0);
		adoption_free(a);
	}
}

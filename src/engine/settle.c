/*
 * The settle time (DESIGN.md, section 3): a file that its last writer has left is looked at a moment
 * later, as it may be opened again, removed or renamed until then.
 */
#include "base/clock.h"
#include "catalogue/tree.h"
#include "engine/internal.h"
#include <search.h>

enum { BATCH = 256, RETRY_MS = 5000 };

/* A file whose settle time runs; in a tree by its node, as thousands may be closed at once. */
struct settle {
	struct timer timer;
	struct engine *e;
	int64_t node;
};

static int settle_compare(const void *a, const void *b)
{
	const int64_t x = ((const struct settle *)a)->node;
	const int64_t y = ((const struct settle *)b)->node;

	return x < y ? -1 : x > y;
}

static struct settle *settle_find(struct engine *e, int64_t node)
{
	const struct settle key = {.node = node};
	struct settle *const *found = tfind(&key, &e->settling, settle_compare);

	return found ? *found : NULL;
}

static void settle_free(void *settle)
{
	struct settle *s = settle;

	timer_cancel(&s->e->timers, &s->timer);
	free(s);
}

static void settle_end(struct settle *s)
{
	tdelete(s, &s->e->settling, settle_compare);
	settle_free(s);
}

static void settle_over(struct timer *timer)
{
	struct settle *s = CONTAINER_OF(timer, struct settle, timer);
	struct engine *e = s->e;
	const int64_t node = s->node;

	settle_end(s);
	commit_node(e, node, false, NULL);
}

static void settle_until(struct engine *e, int64_t node, int64_t due_ms)
{
	struct settle *s = settle_find(e, node);

	if (!s) {
		s = xcalloc(1, sizeof *s);
		*s = (struct settle){.timer.fire = settle_over, .e = e, .node = node};
		tsearch(s, &e->settling, settle_compare);
	}
	timer_set(&e->timers, &s->timer, due_ms);
}

static void settle(struct engine *e, int64_t node, void *arg)
{
	(void)arg;
	settle_until(e, node, e->by_ms);
}

static void disturb(struct engine *e, int64_t node, void *arg)
{
	struct settle *s = settle_find(e, node);

	(void)arg;
	if (s)
		settle_end(s);
}

void engine_settle(struct engine *e, int64_t node)
{
	engine_post_by(e, settle, node, NULL, clock_mono_ms() + e->config.settle_ms);
}

void settle_retry(struct engine *e, int64_t node)
{
	engine_post_by(e, settle, node, NULL, clock_mono_ms() + RETRY_MS);
}

void engine_disturb(struct engine *e, int64_t node)
{
	engine_post(e, disturb, node, NULL);
}

static void look_again(struct engine *e, int64_t id, void *arg)
{
	int64_t ids[BATCH], after = 0;
	int n;

	(void)id;
	(void)arg;
	while ((n = tree_pending(e->cat, after, ids, BATCH)) > 0) {
		for (int i = 0; i < n; i++)
			if (!settle_find(e, ids[i]))
				settle_until(e, ids[i], clock_mono_ms() + e->config.settle_ms);
		after = ids[n - 1];
	}
}

void engine_folder_shown(struct engine *e)
{
	engine_post(e, look_again, 0, NULL);
}

void settle_release(struct engine *e)
{
	tdestroy(e->settling, settle_free);
	e->settling = NULL;
}

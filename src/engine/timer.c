#include "engine/timer.h"

static void place(struct timers *ts, size_t i, struct timer *t)
{
	ts->heap[i] = t;
	t->at = i + 1;
}

static void sift_up(struct timers *ts, size_t i, struct timer *t)
{
	while (i > 0 && ts->heap[(i - 1) / 2]->due_ms > t->due_ms) {
		place(ts, i, ts->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	place(ts, i, t);
}

static void sift_down(struct timers *ts, size_t i, struct timer *t)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= ts->count)
			break;
		if (child + 1 < ts->count &&
			ts->heap[child + 1]->due_ms < ts->heap[child]->due_ms)
			child++;
		if (ts->heap[child]->due_ms >= t->due_ms)
			break;
		place(ts, i, ts->heap[child]);
		i = child;
	}
	place(ts, i, t);
}

void timer_cancel(struct timers *ts, struct timer *t)
{
	size_t i = t->at;

	if (i == 0)
		return;
	t->at = 0;
	i--;

	struct timer *last = ts->heap[--ts->count];
	if (last == t)
		return;
	if (i > 0 && ts->heap[(i - 1) / 2]->due_ms > last->due_ms)
		sift_up(ts, i, last);
	else
		sift_down(ts, i, last);
}

void timer_set(struct timers *ts, struct timer *t, int64_t due_ms)
{
	timer_cancel(ts, t);
	t->due_ms = due_ms;
	if (ts->count == ts->alloc) {
		ts->alloc = ts->alloc ? ts->alloc * 2 : 64;
		ts->heap = xrealloc(ts->heap, ts->alloc * sizeof(struct timer *));
	}
	sift_up(ts, ts->count++, t);
}

void timers_run(struct timers *ts, int64_t now_ms)
{
	while (ts->count > 0 && ts->heap[0]->due_ms <= now_ms) {
		struct timer *t = ts->heap[0];

		timer_cancel(ts, t);
		t->fire(t);
	}
}

int timers_wait_ms(const struct timers *ts, int64_t now_ms, int max_ms)
{
	if (ts->count == 0)
		return max_ms;

	int64_t wait = ts->heap[0]->due_ms - now_ms;
	if (wait <= 0)
		return 0;
	return max_ms >= 0 && wait > max_ms ? max_ms : (int)wait;
}

void timers_release(struct timers *ts)
{
	free(ts->heap);
	ts->heap = NULL;
	ts->count = ts->alloc = 0;
}

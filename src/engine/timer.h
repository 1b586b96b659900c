/*
 * timer.h - many deadlines, one owner: a heap of intrusive timers.
 *
 *	timer_set(&timers, &poll->timer, clock_mono_ms() + 1000);	(re)arms
 *	timers_run(&timers, now);	calls fire() of what is due, each disarmed before
 *
 * All calls from the owning thread; fire() may arm and cancel any timer.
 */
#ifndef ENGINE_TIMER_H
#define ENGINE_TIMER_H

#include "base/util.h"

struct timer {
	int64_t due_ms; /* monotonic */
	size_t at;	/* place in the heap + 1; 0: not armed */
	void (*fire)(struct timer *timer);
};

struct timers {
	struct timer **heap;
	size_t count, alloc;
};

void timer_set(struct timers *timers, struct timer *timer, int64_t due_ms);
void timer_cancel(struct timers *timers, struct timer *timer);
static inline bool timer_armed(const struct timer *timer)
{
	return timer->at != 0;
}
void timers_run(struct timers *timers, int64_t now_ms);
/* Milliseconds until the next is due (0: now), -1 without one; at most max_ms. */
int timers_wait_ms(const struct timers *timers, int64_t now_ms, int max_ms);
void timers_release(struct timers *timers);

#endif

/*
 * clock.h - the two clocks, and the two ways times are written.
 *
 * Wall time (ms since 1970, UTC) is for what is stored and shown. Monotonic time (ms since some
 * start) is for deadlines. A test may replace both: clock_fake_set(&fake) makes every later call
 * answer from the struct until clock_fake_set(NULL). Thread-safe apart from setting the fake.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/util.h"
#include <time.h>

struct clock_fake {
	int64_t wall_ms;
	int64_t mono_ms;
};

int64_t clock_wall_ms(void);
int64_t clock_mono_ms(void);
void clock_fake_set(const struct clock_fake *fake); /* borrowed until reset */

struct timespec clock_timespec(int64_t ms);	/* ms since 1970 → timespec */
int64_t clock_from_timespec(struct timespec t); /* timespec → ms, rounded down */

enum { CLOCK_TEXT_SIZE = 32 };
/* "2026-04-30T08:00:00.000Z" into text; returns text. */
char *clock_format_iso(int64_t wall_ms, char text[CLOCK_TEXT_SIZE]);
/* Parses that form (fraction optional, `Z` or `±hh:mm`, or a bare date = midnight UTC) into *ms.
 * -EINVAL when it is no such time. */
int clock_parse_iso(const char *text, int64_t *ms);
/* The wall time of the last midnight in the local time zone (a budget's day starts there). */
int64_t clock_day_start_ms(int64_t wall_ms);

#endif

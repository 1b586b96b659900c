#include "base/clock.h"
#include <errno.h>
#include <stdio.h>

static const struct clock_fake *fake;

static int64_t now_ms(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return clock_from_timespec(t);
}

int64_t clock_wall_ms(void)
{
	return fake ? fake->wall_ms : now_ms(CLOCK_REALTIME);
}

int64_t clock_mono_ms(void)
{
	return fake ? fake->mono_ms : now_ms(CLOCK_MONOTONIC);
}

void clock_fake_set(const struct clock_fake *f)
{
	fake = f;
}

struct timespec clock_timespec(int64_t ms)
{
	int64_t sec = ms / 1000, rest = ms % 1000;

	if (rest < 0) {
		sec--;
		rest += 1000;
	}
	return (struct timespec){.tv_sec = sec, .tv_nsec = rest * 1000000};
}

int64_t clock_from_timespec(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

char *clock_format_iso(int64_t wall_ms, char text[CLOCK_TEXT_SIZE])
{
	const struct timespec t = clock_timespec(wall_ms);
	struct tm tm;

	if (!gmtime_r(&t.tv_sec, &tm))
		tm = (struct tm){.tm_year = 70, .tm_mday = 1};
	/* strftime() would write the year 1 as "1". */
	size_t n = (size_t)snprintf(text, CLOCK_TEXT_SIZE, "%04d", tm.tm_year + 1900);
	n += strftime(text + n, CLOCK_TEXT_SIZE - n, "-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, CLOCK_TEXT_SIZE - n, ".%03dZ", (int)(t.tv_nsec / 1000000));
	return text;
}

/* Reads exactly n digits; -1 if there are fewer. */
static int digits(const char **p, int n)
{
	int value = 0;

	for (int i = 0; i < n; i++, (*p)++) {
		if (**p < '0' || **p > '9')
			return -1;
		value = value * 10 + (**p - '0');
	}
	return value;
}

static bool skip(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

static bool parse_date(const char **p, struct tm *tm)
{
	tm->tm_year = digits(p, 4) - 1900;
	if (!skip(p, '-'))
		return false;
	tm->tm_mon = digits(p, 2) - 1;
	if (!skip(p, '-'))
		return false;
	tm->tm_mday = digits(p, 2);
	return tm->tm_year >= -1900 && tm->tm_mon >= 0 && tm->tm_mon < 12 && tm->tm_mday >= 1;
}

/* Whether the calendar has that day: timegm() would take 31 April for 1 May. */
static bool is_day(const struct tm *tm)
{
	struct tm day = {.tm_year = tm->tm_year, .tm_mon = tm->tm_mon, .tm_mday = tm->tm_mday};

	timegm(&day);
	return day.tm_mday == tm->tm_mday && day.tm_mon == tm->tm_mon;
}

static bool parse_time(const char **p, struct tm *tm, int *ms)
{
	tm->tm_hour = digits(p, 2);
	if (!skip(p, ':'))
		return false;
	tm->tm_min = digits(p, 2);
	if (!skip(p, ':'))
		return false;
	tm->tm_sec = digits(p, 2);
	*ms = 0;
	if (skip(p, '.')) {
		int scale = 100;

		if (**p < '0' || **p > '9')
			return false;
		for (; **p >= '0' && **p <= '9'; (*p)++, scale /= 10)
			*ms += (**p - '0') * scale;
	}
	return tm->tm_hour >= 0 && tm->tm_hour < 24 && tm->tm_min >= 0 && tm->tm_min < 60 &&
		tm->tm_sec >= 0 && tm->tm_sec <= 60;
}

/* `Z` or `±hh:mm`, in seconds east of UTC. */
static bool parse_zone(const char **p, int *offset)
{
	const int sign = **p == '-' ? -1 : 1;

	*offset = 0;
	if (skip(p, 'Z'))
		return true;
	if (!skip(p, '+') && !skip(p, '-'))
		return false;
	const int hours = digits(p, 2);
	const bool colon = skip(p, ':');
	const int minutes = digits(p, 2);
	*offset = sign * (hours * 3600 + minutes * 60);
	return colon && hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60;
}

int clock_parse_iso(const char *text, int64_t *ms)
{
	struct tm tm = {0};
	int fraction = 0, offset = 0;
	const char *p = text;

	if (!parse_date(&p, &tm) || !is_day(&tm))
		return -EINVAL;
	if (*p && !(skip(&p, 'T') && parse_time(&p, &tm, &fraction) && parse_zone(&p, &offset)))
		return -EINVAL;
	if (*p)
		return -EINVAL;
	*ms = ((int64_t)timegm(&tm) - offset) * 1000 + fraction;
	return 0;
}

int64_t clock_day_start_ms(int64_t wall_ms)
{
	const time_t now = clock_timespec(wall_ms).tv_sec;
	struct tm tm;

	if (!localtime_r(&now, &tm))
		return wall_ms;
	tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
	tm.tm_isdst = -1;
	return (int64_t)mktime(&tm) * 1000;
}

/*
 * log.h - what the programs say while they run.
 *
 * log_init() once at start; log_printf() from any thread. Lines go to stderr as
 * `imagehubfs: warning: …`, or to syslog once log_to_syslog() was called (in the background).
 * Control characters become spaces, lines end after 2 KB, errno is kept. program is borrowed.
 * Callers never pass a key, an Authorization header, or an image URL with its query: pass URLs
 * through log_url().
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_init(const char *program, enum log_level most);
void log_to_syslog(void);
void log_printf(enum log_level level, const char *format, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_printf(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_printf(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_printf(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_printf(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* An owned copy of url that is safe to show: no user info, query or fragment. */
char *log_url(const char *url) __attribute__((returns_nonnull));

#endif

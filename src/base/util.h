/*
 * util.h - the handful of macros that every file may use, and what no file may use.
 *
 * Errors inside the project are 0 or a negative errno. Where a person will read the reason, a
 * function takes `char **error` as its last parameter: on failure it receives an owned text,
 * complete enough to print (free() it); on success it is left untouched. NULL is accepted.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Scope-bound clean-up: `CLEANUP_FREE char *text = NULL;`, `CLEANUP_CLOSE int fd = -1;` */
#define CLEANUP_FREE __attribute__((cleanup(util_cleanup_free)))
#define CLEANUP_CLOSE __attribute__((cleanup(util_cleanup_close)))

static inline void util_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void util_cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Allocation that cannot fail: prints and aborts when memory is exhausted, which a mount survives
 * as it survives kill -9. Sizes that come from outside are capped before they get here. */
void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *ptr, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *text) __attribute__((malloc, returns_nonnull));
/* Copies at most len bytes and ends them with NUL. */
char *xstrndup(const char *text, size_t len) __attribute__((malloc, returns_nonnull));
/* A copy of text, or NULL for NULL. */
char *xstrdup_or_null(const char *text);
/* An owned, formatted string. */
char *xasprintf(const char *format, ...) PRINTF_LIKE(1, 2) __attribute__((returns_nonnull));
char *xvasprintf(const char *format, va_list args) PRINTF_LIKE(1, 0)
	__attribute__((returns_nonnull));

/*
 * Fills *error (when error is not NULL and *error is still NULL) with the formatted text and
 * returns code, so that a failing function can end with `return fail(error, -EINVAL, "…")`.
 */
int fail(char **error, int code, const char *format, ...) PRINTF_LIKE(3, 4);
#ifdef __clang_analyzer__ /* it does not look into functions of a variable number of arguments */
#define fail(error, code, ...) (fail(error, code, __VA_ARGS__), (code))
#endif

/* Calls that have cost others dearly do not compile. */
#pragma GCC poison strcpy strcat sprintf vsprintf strtok gets tmpnam mktemp

#endif

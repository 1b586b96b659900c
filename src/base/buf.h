/*
 * buf.h - a growing byte buffer with a cap.
 *
 *	struct buf b;
 *	buf_init(&b, 64 * 1024);
 *	buf_printf(&b, "%d\n", n);
 *	if (b.overflow)		... something did not fit; what fitted is still there
 *	char *text = buf_take(&b);	or buf_release(&b)
 *
 * Every buffer has a cap, as what fills it often comes from outside. Appending beyond the cap
 * leaves the contents as they were, sets `overflow` and returns -EMSGSIZE; callers may check once
 * at the end. data is always NUL-terminated (NUL bytes inside are allowed). Not thread-safe.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/util.h"
#include <stdarg.h>

struct buf {
	char *data;	/* NUL-terminated; NULL only after buf_take */
	size_t len;	/* bytes held, without the NUL */
	size_t cap;	/* most bytes it may hold */
	size_t alloc;	/* private */
	bool overflow;	/* an append was refused */
};

void buf_init(struct buf *b, size_t cap);
void buf_release(struct buf *b);	/* accepts a zeroed struct */
void buf_reset(struct buf *b);		/* empties it, keeps the memory */

int buf_add(struct buf *b, const void *bytes, size_t len);
int buf_addstr(struct buf *b, const char *text);
int buf_addch(struct buf *b, char c);
int buf_printf(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);
int buf_vprintf(struct buf *b, const char *format, va_list args) PRINTF_LIKE(2, 0);

/* Hands the contents over as an owned string and leaves the buffer empty and reusable, holding no
 * memory (data is NULL until the next append). */
char *buf_take(struct buf *b) __attribute__((returns_nonnull));

#endif

#include "base/buf.h"
#include <errno.h>
#include <stdio.h>

enum { FIRST_ALLOC = 256 };

void buf_init(struct buf *b, size_t cap)
{
	*b = (struct buf){.cap = cap};
	b->alloc = cap < FIRST_ALLOC ? cap + 1 : FIRST_ALLOC;
	b->data = xmalloc(b->alloc);
	b->data[0] = '\0';
}

void buf_release(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
	b->len = 0;
	b->overflow = false;
	if (b->data)
		b->data[0] = '\0';
}

/* Room for len more bytes and the NUL. */
static int reserve(struct buf *b, size_t len)
{
	if (len > b->cap - b->len) {
		b->overflow = true;
		return -EMSGSIZE;
	}
	const size_t need = b->len + len + 1;
	if (need > b->alloc) {
		size_t size = b->alloc ? b->alloc * 2 : FIRST_ALLOC;

		if (size < need)
			size = need;
		if (size - 1 > b->cap)
			size = b->cap + 1;
		b->data = xrealloc(b->data, size);
		b->alloc = size;
	}
	return 0;
}

int buf_add(struct buf *b, const void *bytes, size_t len)
{
	const int rc = reserve(b, len);

	if (rc < 0)
		return rc;
	if (len > 0)
		memcpy(b->data + b->len, bytes, len);
	b->len += len;
	b->data[b->len] = '\0';
	return 0;
}

int buf_addstr(struct buf *b, const char *text)
{
	return buf_add(b, text, strlen(text));
}

int buf_addch(struct buf *b, char c)
{
	return buf_add(b, &c, 1);
}

int buf_vprintf(struct buf *b, const char *format, va_list args)
{
	va_list again;

	va_copy(again, args);
	const int n = vsnprintf(NULL, 0, format, again);
	va_end(again);
	if (n < 0) {
		b->overflow = true;
		return -EMSGSIZE;
	}
	const int rc = reserve(b, (size_t)n);
	if (rc < 0)
		return rc;
	vsnprintf(b->data + b->len, (size_t)n + 1, format, args);
	b->len += (size_t)n;
	return 0;
}

int buf_printf(struct buf *b, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	const int rc = buf_vprintf(b, format, args);
	va_end(args);
	return rc;
}

char *buf_take(struct buf *b)
{
	char *text = b->data ? b->data : xstrdup("");

	*b = (struct buf){.cap = b->cap};
	return text;
}

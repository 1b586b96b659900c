#include "base/util.h"
#include <stdio.h>

#undef fail /* the analyzer's */

static void *checked(void *ptr)
{
	if (!ptr) {
		fputs("out of memory\n", stderr);
		abort();
	}
	return ptr;
}

void *xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *xcalloc(size_t count, size_t size)
{
	return checked(calloc(count ? count : 1, size ? size : 1));
}

void *xrealloc(void *ptr, size_t size)
{
	return checked(realloc(ptr, size ? size : 1));
}

char *xstrdup(const char *text)
{
	return checked(strdup(text));
}

char *xstrndup(const char *text, size_t len)
{
	return checked(strndup(text, len));
}

char *xstrdup_or_null(const char *text)
{
	return text ? xstrdup(text) : NULL;
}

char *xvasprintf(const char *format, va_list args)
{
	char *text = NULL;
	const int n = vasprintf(&text, format, args);

	return checked(n < 0 ? NULL : text);
}

char *xasprintf(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	char *text = xvasprintf(format, args);
	va_end(args);
	return text;
}

int fail(char **error, int code, const char *format, ...)
{
	va_list args;

	if (!error || *error)
		return code;
	va_start(args, format);
	*error = xvasprintf(format, args);
	va_end(args);
	return code;
}

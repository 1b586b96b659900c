/*
 * fuzz.h - what the fuzz targets share.
 *
 * A target is one file, FOLDER_what.c, as with the unit tests: LLVMFuzzerTestOneInput() takes any
 * bytes and ends the program when something that must hold of them does not. `make fuzz` links it
 * with libFuzzer, which looks for inputs that take new ways through the code; `make check` links it
 * with replay.c, which gives it its corpus and the same mistakes in it each time.
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include "base/names.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How many inputs were not refused, for replay.c: a corpus of refusals alone shows little. */
__attribute__((weak)) unsigned long fuzz_accepted;

#define HOLDS(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,          \
				#condition);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Cuts the next line off the input: an owned text, in a block of its own so that reading past its
 * end is seen. NULL when there is none left. */
static inline char *fuzz_line(const uint8_t **data, size_t *size)
{
	if (*size == 0)
		return NULL;
	const uint8_t *newline = memchr(*data, '\n', *size);
	const size_t len = newline ? (size_t)(newline - *data) : *size;
	char *line = xstrndup((const char *)*data, len);
	const size_t gone = newline ? len + 1 : len;

	*data += gone;
	*size -= gone;
	return line;
}

static inline bool fuzz_same(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

/* What a refusal must have: words that can be shown. */
static inline void fuzz_words(const char *error)
{
	HOLDS(error && *error);
	HOLDS(names_is_utf8(error, strlen(error)));
}

#endif

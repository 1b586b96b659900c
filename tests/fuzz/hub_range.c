/*
 * A picture's size in bytes (the first line) and the Range headers of those who ask for it.
 */
#include "fuzz.h"
#include "hub/request.h"

/* RFC 9110: bytes=FIRST-[LAST] or bytes=-LENGTH, of digits. */
static bool is_range(const char *text)
{
	if (strncmp(text, "bytes=", 6) != 0)
		return false;
	text += 6;
	const size_t first = strspn(text, "0123456789");
	if (text[first] != '-')
		return false;
	const size_t last = strspn(text + first + 1, "0123456789");
	return first + last > 0 && text[first + 1 + last] == '\0';
}

static void as_range(const char *text, int64_t size)
{
	int64_t first = -7, last = -7, again_first, again_last;
	const int rc = range_parse(text, size, &first, &last);

	HOLDS(rc == 1 || rc == 0 || rc == -1);
	HOLDS(rc == 0 || is_range(text));
	if (rc != 1)
		return;
	HOLDS(0 <= first && first <= last && last < size);
	CLEANUP_FREE char *written =
		xasprintf("bytes=%lld-%lld", (long long)first, (long long)last);
	HOLDS(range_parse(written, size, &again_first, &again_last) == 1);
	HOLDS(again_first == first && again_last == last);
	fuzz_accepted++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line = fuzz_line(&data, &size);
	const int64_t bytes = line ? strtoll(line, NULL, 10) : 0;

	free(line);
	while ((line = fuzz_line(&data, &size)) != NULL) {
		as_range(line, bytes > 0 ? bytes : 0);
		free(line);
	}
	return 0;
}

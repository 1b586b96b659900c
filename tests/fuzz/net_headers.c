/*
 * Lines of an answer's head, as libcurl hands them over: not ended by a NUL.
 */
#include "fuzz.h"
#include "net/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_call c = {.retry_after_ms = -1, .total = -1};

	while (size > 0) {
		const uint8_t *newline = memchr(data, '\n', size);
		const size_t len = newline ? (size_t)(newline - data) + 1 : size;
		char *line = xmalloc(len);

		memcpy(line, data, len);
		HOLDS(header_seen(line, 1, len, &c) == len);
		HOLDS(c.retry_after_ms >= -1 && c.retry_after_ms <= 3600 * 1000);
		HOLDS(c.total >= -1);
		fuzz_accepted += c.retry_after_ms >= 0 || c.total >= 0;
		free(line);
		data += len;
		size -= len;
	}
	char next[] = "HTTP/1.1 200 OK\r\n";
	header_seen(next, 1, strlen(next), &c);
	HOLDS(c.retry_after_ms == -1 && c.total == -1 && !c.idempotent);
	return 0;
}

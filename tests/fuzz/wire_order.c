/*
 * An order as imagehubd is sent it: as a JSON body, and as a multipart's fields (a line NAME=VALUE
 * each). Then each line as a size.
 */
#include "orders.h"
#include <errno.h>

static void as_json(const char *json, size_t len)
{
	struct order o;
	char *error = NULL;

	const int rc = order_decode(json, len, &o, &error);
	if (rc == 0) {
		HOLDS(!error);
		order_survives(&o);
		fuzz_accepted++;
	} else {
		HOLDS(rc == -EINVAL && memcmp(&o, &(struct order){0}, sizeof o) == 0);
		fuzz_words(error);
		refusal_survives(error);
	}
	order_release(&o);
	free(error);
}

static void as_size(const char *size)
{
	int width, height;
	char *error = NULL;
	const bool pixels = order_pixels(size, &width, &height);
	const char *tier = wire_tier(size);

	if (pixels) {
		CLEANUP_FREE char *written = xasprintf("%dx%d", width, height);

		HOLDS(strcmp(written, size) == 0);
	}
	HOLDS(pixels || strcmp(tier, "1K") == 0);
	HOLDS(order_check_size_upstream(size, &error) == (error ? -EINVAL : 0));
	HOLDS(!error || pixels);
	free(error);
}

/* Field by field; what was refused leaves the order as it was. */
static void as_fields(const uint8_t *data, size_t size)
{
	struct order o = {0};
	char *line;

	while ((line = fuzz_line(&data, &size)) != NULL) {
		char *value = strchr(line, '=');
		char *error = NULL;
		struct order before;

		as_size(value ? value + 1 : line);
		if (value)
			*value++ = '\0';
		order_copy(&before, &o);
		if (value && order_set_field(&o, line, value, &error) < 0) {
			HOLDS(order_equal(&before, &o));
			HOLDS(error && *error);
			refusal_survives(error);
		} else {
			HOLDS(!error);
		}
		order_release(&before);
		free(error);
		free(line);
	}
	if (o.prompt) {
		order_survives(&o);
		fuzz_accepted++;
	}
	order_release(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_json((const char *)data, size);
	as_fields(data, size);
	return 0;
}

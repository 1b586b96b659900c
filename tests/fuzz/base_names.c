/*
 * Names, ids and times, a line each.
 */
#include "base/clock.h"
#include "base/picture.h"
#include "fuzz.h"

static void as_name(const char *name)
{
	static const char *const words[] = {"model", "size", "quality", "again", "retry", NULL};
	const char *near = names_nearest(name, words);
	bool among = !near;

	if (names_is_hub_id(name)) {
		HOLDS(*name && strlen(name) <= 128);
		HOLDS(!strchr(name, '/') && !strchr(name, '.') && !strchr(name, '%'));
		fuzz_accepted++;
	}
	HOLDS(!names_is_lookup_id(name) || (names_is_hub_id(name) && strlen(name) >= 8));
	HOLDS(!names_is_prompt(name) || (name[0] != '.' && strlen(name) > 7));
	for (size_t i = 0; words[i]; i++) {
		among |= near == words[i];
		HOLDS(strcmp(words[i], name) != 0 || near == words[i]);
	}
	HOLDS(among);
	HOLDS(picture_from_extension(name) == PICTURE_UNKNOWN || strlen(name) < 11);
}

static void as_text(const char *text)
{
	const size_t len = strlen(text);
	const bool good = names_is_utf8(text, len);

	HOLDS(names_utf8_length(text, len) <= len);
	for (size_t most = 0; most <= len + 1 && most < 80; most++) {
		const size_t cut = names_utf8_cut(text, most);

		HOLDS(cut <= most && cut <= len);
		HOLDS(!good || (names_is_utf8(text, cut) && cut + 4 > (most < len ? most : len)));
	}
}

static void as_time(const char *text)
{
	char written[CLOCK_TEXT_SIZE];
	int64_t ms, again;

	if (clock_parse_iso(text, &ms) < 0)
		return;
	fuzz_accepted++;
	clock_format_iso(ms, written);
	/* A zone or a leap second may lead out of the years that can be written. */
	if (strncmp(text, "0000", 4) == 0 || strncmp(text, "9999", 4) == 0)
		return;
	HOLDS(clock_parse_iso(written, &again) == 0 && again == ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line;

	while ((line = fuzz_line(&data, &size)) != NULL) {
		as_name(line);
		as_text(line);
		as_time(line);
		free(line);
	}
	return 0;
}

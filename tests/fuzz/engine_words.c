/*
 * What is said of a request: a byte each for its state, why it is held, its reason and its sums; then,
 * a line each, the hub's words, its word for the state, why it waits, and the prompt's path.
 */
#include "engine/words.h"
#include "fuzz.h"
#include <errno.h>

static void no_control_characters(const char *text)
{
	for (; *text; text++)
		HOLDS((unsigned char)*text >= ' ' || *text == '\n');
}

/* One line, that can be shown when what it speaks of could be. */
static void line_holds(char *text, bool utf8)
{
	HOLDS(text && strchr(text, '\n') == text + strlen(text) - 1);
	no_control_characters(text);
	HOLDS(!utf8 || names_is_utf8(text, strlen(text)));
	free(text);
}

static void error_holds(char *text, bool utf8)
{
	static const char *const labels[] = {
		"what:    ", "\nwhy:     ", "\ncharged: ", "\nnext:    "};
	const char *at = text;

	for (size_t i = 0; i < ARRAY_SIZE(labels); i++) {
		at = strstr(at, labels[i]);
		HOLDS(at && (i > 0 || at == text));
		at += strlen(labels[i]);
		HOLDS(*at && *at != '\n');
	}
	HOLDS(text[strlen(text) - 1] == '\n');
	HOLDS(!utf8 || names_is_utf8(text, strlen(text)));
	free(text);
}

static char *take(const uint8_t **data, size_t *size)
{
	char *line = fuzz_line(data, size);

	if (line && *line)
		return line;
	free(line);
	return NULL;
}

/* A path as it is in /requests: no control character, as those are not what this is about. */
static char *path_of(char *line)
{
	for (char *p = line; p && *p; p++)
		if ((unsigned char)*p < ' ')
			*p = '/';
	char *path = xasprintf("requests/%s.prompt", line ? line : "cat");
	free(line);
	return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 5)
		return 0;
	struct request r = {.state = (enum request_state)(data[0] % REQUEST_STATES),
		.hold = (enum hold)(1 + data[1] % HOLD_PAUSED),
		.reason = (enum outcome)(data[2] % OUTCOME_COUNT),
		.price_low = data[3] % 5 - 1, .price_high = data[3] / 5 % 5 + 3,
		.charged = data[3] % 4 - 1, .sent_ms = data[3] / 20 % 2 * 1000,
		.balance_before = data[4] % 4 - 1, .balance_after = data[4] / 4 % 4 - 1};
	const bool utf8 = names_is_utf8(data + 5, size - 5);
	data += 5;
	size -= 5;
	r.text = take(&data, &size);
	CLEANUP_FREE char *hub_word = take(&data, &size), *waiting = take(&data, &size);
	CLEANUP_FREE char *path = r.path = path_of(take(&data, &size));
	const struct words_context c = {.now_ms = 5000, .waiting = waiting, .hub_word = hub_word,
		.control = "/mnt/hub/control"};

	const char *why = r.text ? r.text : "why";
	char *error = words_error(&r, c.control);

	if (error)
		error_holds(error, utf8);
	line_holds(words_status(&r, &c), utf8);
	line_holds(words_progress(&r, &c), utf8);
	line_holds(words_draft_status(why), utf8);
	error_holds(words_draft_error(path, r.hold == HOLD_PAUSED ? EINVAL : EIO, why,
			    r.reason % 2, c.control),
		utf8);
	HOLDS((words_errno(&r) == 0) == (r.state == REQUEST_SUCCEEDED));
	fuzz_accepted++;
	free(r.text);
	return 0;
}

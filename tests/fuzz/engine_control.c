/*
 * Lines for /control. No network: the engine is never started, so what a verb leaves for its thread is
 * not carried out.
 */
#include "engine/engine.h"
#include "state.h"

enum { RUNS_OF_ENGINE = 200 }; /* what is left for its thread takes memory */

static struct engine *engine;

static void changed(void *arg, const struct engine_event *event)
{
	(void)arg;
	(void)event;
}

static void engine_open(void)
{
	static int runs;
	CLEANUP_FREE char *cache = xasprintf("%s/cache", state_dir);
	const struct engine_config config = {.hub = "http://127.0.0.1:9", .cache_dir = cache,
		.mountpoint = "/mnt/hub", .max_spend = -1};

	if (engine && ++runs % RUNS_OF_ENGINE != 0)
		return;
	engine_destroy(engine);
	engine = engine_create(&config, state_cat, &(struct engine_events){changed, NULL}, NULL);
	HOLDS(engine);
}

/* What is refused is refused with words, which /control shows until the next line. */
static void is_told(bool refused)
{
	static const char words[] = "the last line was not carried out: ";
	char *text;
	size_t len;

	HOLDS(engine_text(engine, TEXT_CONTROL, 0, &text, &len) == 0 && strlen(text) == len);
	const char *told = strstr(text, words);
	HOLDS((told != NULL) == refused && (!told || told[strlen(words)] > ' '));
	free(text);
}

static bool is_among(const char *verb, const char *const *verbs)
{
	while (*verbs && strcmp(*verbs, verb) != 0)
		verbs++;
	return *verbs;
}

static void as_line(const char *line)
{
	static const char *const on_all[] = {"pause", "resume", "refresh", NULL};
	static const char *const on_path[] = {"again", "retry", "cancel", "approve", NULL};
	const size_t begin = strspn(line, " \t\r");
	CLEANUP_FREE char *verb = xstrndup(line + begin, strcspn(line + begin, " \t\r"));

	if (line[strspn(line, " \t\r\n")] == '\0') {
		HOLDS(engine_control(engine, line) == 0);
		return; /* what was told of the line before stands */
	}
	const int rc = engine_control(engine, line);
	HOLDS(rc <= 0);
	is_told(rc < 0);
	HOLDS(rc < 0 || is_among(verb, on_all) || is_among(verb, on_path));
	/* What has succeeded cannot be retried, cancelled or approved, and what is blank not sent. */
	if (is_among(verb, on_path))
		HOLDS(rc < 0 || strcmp(verb, "again") == 0);
	fuzz_accepted += rc == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line;

	if (!state_cat)
		state_open();
	engine_open();
	while ((line = fuzz_line(&data, &size)) != NULL) {
		as_line(line);
		free(line);
	}
	return 0;
}

/*
 * A prompt file and the defaults.yaml of its folder and of the one above, with a line "====" between
 * them.
 */
#include "orders.h"
#include "prompt/prompt.h"
#include <ctype.h>
#include <errno.h>

static const char separator[] = "====\n";
static const char *const labels[] = {"cat.prompt", "defaults.yaml", "../defaults.yaml"};
enum { SOURCES = 3 };

static size_t split(const char *text, size_t len, struct prompt_source s[SOURCES])
{
	size_t n = 0;

	while (n < SOURCES - 1) {
		const char *end = memmem(text, len, separator, strlen(separator));

		if (!end)
			break;
		s[n] = (struct prompt_source){labels[n], text, (size_t)(end - text)};
		n++;
		len -= (size_t)(end - text) + strlen(separator);
		text = end + strlen(separator);
	}
	s[n] = (struct prompt_source){labels[n], text, len};
	return n + 1;
}

/* Whether the place is in the text, or at most behind the last character of a line. */
static bool is_place(const struct prompt_source *s, int line, int column)
{
	const char *p = s->text, *end = p + s->len;

	if (line < 1 || column < 1)
		return false;
	for (; line > 1; line--) {
		p = memchr(p, '\n', (size_t)(end - p));
		if (!p)
			return false;
		p++;
	}
	const char *newline = memchr(p, '\n', (size_t)(end - p));
	const size_t len = (size_t)((newline ? newline : end) - p);
	return (size_t)column <= names_utf8_length(p, len) + 1;
}

static const struct prompt_source *source_of(
	const struct prompt_source *s, size_t n, const char *label, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(s[i].label) == len && strncmp(s[i].label, label, len) == 0)
			return &s[i];
	return NULL;
}

static void mark_holds(const struct prompt_mark *m, const struct prompt_source *s, size_t n)
{
	const struct prompt_source *from =
		m->label ? source_of(s, n, m->label, strlen(m->label)) : NULL;

	HOLDS(m->label ? from && is_place(from, m->line, m->column) : m->line == 0);
}

/* "LABEL:LINE:COLUMN: what", or "LABEL: what". */
static void refusal_holds(const char *error, const struct prompt_source *s, size_t n)
{
	const size_t len = strcspn(error, ":");
	const struct prompt_source *from = source_of(s, n, error, len);
	int line, column;

	fuzz_words(error);
	HOLDS(from);
	if (isdigit((unsigned char)error[len + 1])) {
		HOLDS(sscanf(error + len, ":%d:%d: ", &line, &column) == 2);
		HOLDS(is_place(from, line, column));
	}
}

static void check_against_models(const struct prompt *p)
{
	static const char list[] =
		"[{\"id\":\"gpt-image-2\",\"supported_qualities\":[\"auto\",\"low\"],"
		"\"reference_image_limit\":2},{\"id\":\"m2\"}]";
	struct wire_models models;
	char *error = NULL;

	HOLDS(wire_models_decode(list, strlen(list), &models, NULL) == 0);
	const int rc = prompt_check(p, &models, p->n_references, &error);
	if (rc < 0)
		fuzz_words(error);
	HOLDS(rc == 0 ? !error : rc == -EINVAL);
	free(error);
	wire_models_release(&models);
}

static void prompt_holds(const struct prompt *p, const struct prompt_source *s, size_t n)
{
	const struct prompt_mark *const marks[] = {
		&p->model_at, &p->size_at, &p->quality_at, &p->n_at, &p->references_at};

	order_survives(&p->order);
	HOLDS(p->order.async && !prompt_is_blank(s->text, s->len));
	HOLDS(!p->json || (p->n_references == 0 && !p->model_at.label));
	HOLDS(p->n_references <= PROMPT_REFERENCES_MAX);
	HOLDS(p->reference_level >= 0 && (size_t)p->reference_level < n);
	for (size_t i = 0; i < p->n_references; i++)
		fuzz_words(p->references[i]);
	for (size_t i = 0; i < ARRAY_SIZE(marks); i++)
		mark_holds(marks[i], s, n);
	check_against_models(p);
}

/* The same file as an editor of another system would have saved it: with CRLF, or behind a BOM. */
static void means_the_same(const char *text, size_t len, const struct prompt_source *s, size_t n,
	int rc, const struct prompt *p)
{
	const struct prompt_source file = {s->label, text, len};
	struct prompt other;

	HOLDS(prompt_parse(&file, s + 1, n - 1, &other, NULL) == rc);
	HOLDS(rc < 0 || order_equal(&p->order, &other.order));
	prompt_release(&other);
}

static void saved_by_others(const struct prompt_source *s, size_t n, int rc, const struct prompt *p)
{
	char *text = xmalloc(2 * s->len + 3);
	size_t len = 0;

	if (s->len == 0 || memchr(s->text, '\r', s->len) ||
		memmem(s->text, s->len, "\xEF\xBB\xBF", 3))
		return free(text);
	for (size_t i = 0; i < s->len; i++) {
		if (s->text[i] == '\n')
			text[len++] = '\r';
		text[len++] = s->text[i];
	}
	means_the_same(text, len, s, n, rc, p);
	memcpy(text, "\xEF\xBB\xBF", 3);
	memcpy(text + 3, s->text, s->len);
	means_the_same(text, s->len + 3, s, n, rc, p);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct prompt_source s[SOURCES];
	const size_t n = split((const char *)data, size, s);
	char *error = NULL, *same = NULL;
	struct prompt p, again;

	const int rc = prompt_parse(&s[0], s + 1, n - 1, &p, &error);
	HOLDS(prompt_parse(&s[0], s + 1, n - 1, &again, &same) == rc && fuzz_same(error, same));
	if (rc == 0) {
		HOLDS(!error && order_equal(&p.order, &again.order));
		prompt_holds(&p, s, n);
		fuzz_accepted++;
	} else {
		HOLDS(rc == (s[0].len > PROMPT_FILE_MAX ? -EFBIG : -EINVAL));
		HOLDS(memcmp(&p, &(struct prompt){0}, sizeof p) == 0);
		refusal_holds(error, s, n);
	}
	saved_by_others(s, n, rc, &p);
	prompt_release(&p);
	prompt_release(&again);
	free(error);
	free(same);
	return 0;
}

#include "prompt/prompt.h"
#include "base/buf.h"
#include "base/names.h"
#include "prompt/front.h"
#include <errno.h>

/* The parts of a file: where the front matter and the text stand. */
struct parts {
	const char *front; /* NULL: none */
	size_t front_len;
	int front_line; /* 1-based line on which it begins */
	const char *text;
	size_t text_len;
	bool unterminated; /* a first `---` without a second; front_line is behind it */
};

static void skip_bom(const char **text, size_t *len)
{
	if (*len >= 3 && memcmp(*text, "\xEF\xBB\xBF", 3) == 0) {
		*text += 3;
		*len -= 3;
	}
}

/* The end of the line at p, behind its '\n' if there is one. */
static const char *line_end(const char *p, const char *end)
{
	const char *newline = memchr(p, '\n', (size_t)(end - p));

	return newline ? newline + 1 : end;
}

/* `---`, then nothing but white space. */
static bool is_fence(const char *p, const char *end)
{
	if (end - p < 3 || memcmp(p, "---", 3) != 0)
		return false;
	for (p += 3; p < end; p++)
		if (!strchr(" \t\r\n", *p) || !*p)
			return false;
	return true;
}

static bool is_white(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!text[i] || !strchr(" \t\r\n\v\f", text[i]))
			return false;
	return true;
}

/* Empty lines before the front matter are no text: with them, it would be sent as a prompt. */
static struct parts split(const char *text, size_t len)
{
	const char *start = text, *end = text + len;
	const char *p = line_end(start, end);
	int line = 1;

	for (; start < end && is_white(start, (size_t)(p - start)); p = line_end(start, end)) {
		start = p;
		line++;
	}
	if (!is_fence(start, p))
		return (struct parts){.text = text, .text_len = len};

	struct parts parts = {.front = p, .front_line = line + 1};
	while (p < end) {
		const char *next = line_end(p, end);

		if (is_fence(p, next)) {
			parts.front_len = (size_t)(p - parts.front);
			parts.text = next;
			parts.text_len = (size_t)(end - next);
			return parts;
		}
		p = next;
	}
	parts.unterminated = true;
	parts.text = end;
	return parts;
}

bool prompt_is_blank(const char *text, size_t len)
{
	skip_bom(&text, &len);

	const struct parts parts = split(text, len);
	return !parts.unterminated && is_white(parts.text, parts.text_len);
}

static void mark_release(struct prompt_mark *m)
{
	free(m->label);
	*m = (struct prompt_mark){0};
}

void prompt_release(struct prompt *p)
{
	order_release(&p->order);
	for (size_t i = 0; i < p->n_references; i++)
		free(p->references[i]);
	free(p->references);
	mark_release(&p->model_at);
	mark_release(&p->size_at);
	mark_release(&p->quality_at);
	mark_release(&p->n_at);
	mark_release(&p->references_at);
	*p = (struct prompt){0};
}

/* ---- the text ---- */

/* CRLF as LF, no newlines at the end. */
static char *clean(const char *text, size_t len)
{
	struct buf b;

	buf_init(&b, PROMPT_FILE_MAX);
	for (size_t i = 0; i < len; i++)
		if (text[i] != '\r' || i + 1 == len || text[i + 1] != '\n')
			buf_addch(&b, text[i]);
	while (b.len > 0 && strchr("\r\n", b.data[b.len - 1]))
		b.data[--b.len] = '\0';
	return buf_take(&b);
}

/* Where a text stops being UTF-8 without NUL; len if it does not. */
static size_t first_bad_byte(const char *text, size_t len)
{
	size_t good = 0;

	while (good < len) {
		size_t n = 1;

		if (text[good] == '\0')
			return good;
		while (n <= 4 && good + n <= len && !names_is_utf8(text + good, n))
			n++;
		if (n > 4 || good + n > len)
			return good;
		good += n;
	}
	return len;
}

static int check_bytes(const char *label, const char *text, size_t len, char **error)
{
	int line, column;

	if (names_is_utf8(text, len) && !memchr(text, '\0', len))
		return 0;
	const size_t bad = first_bad_byte(text, len);
	front_place(text, bad, &line, &column);
	return fail(error, -EINVAL,
		text[bad] == '\0' ? "%s:%d:%d: a NUL byte; prompts are text"
				  : "%s:%d:%d: the text is not UTF-8; save it as UTF-8",
		label, line, column);
}

/* ---- front matter and defaults, merged ---- */

static int apply_field(struct prompt *p, const struct front *f, enum front_field field,
	struct prompt_mark *mark, char **error)
{
	CLEANUP_FREE char *why = NULL;

	if (!f->values[field] || mark->label)
		return 0;
	const int rc = order_set_field(&p->order, front_name(field), f->values[field], &why);
	if (rc < 0)
		return fail(error, rc, "%s:%d:%d: %s", f->at[field].label, f->at[field].line,
			f->at[field].column, why);
	*mark = f->at[field];
	mark->label = xstrdup(f->at[field].label);
	return 0;
}

/* Takes what is not given yet. level: 0 for the prompt's own front matter. */
static int apply(struct prompt *p, struct front *f, int level, char **error)
{
	struct prompt_mark *const marks[FRONT_FIELDS] = {
		&p->model_at, &p->size_at, &p->quality_at, &p->n_at};
	int rc = 0;

	for (int i = 0; rc == 0 && i < FRONT_FIELDS; i++)
		rc = apply_field(p, f, (enum front_field)i, marks[i], error);
	if (rc == 0 && f->has_references && !p->references_at.label) {
		p->references = f->references;
		p->n_references = f->n_references;
		p->references_at = f->references_at;
		p->reference_level = level;
		f->references = NULL;
		f->n_references = 0;
		f->references_at.label = NULL;
	}
	return rc;
}

static int text_in_defaults(const char *label, const char *text, size_t at, char **error)
{
	int line, column;

	front_place(text, at, &line, &column);
	return fail(error, -EINVAL,
		"%s:%d:%d: only settings stand in this file; take out what is behind the second "
		"\"---\"",
		label, line, column);
}

/* Settings, with or without `---` around them. */
static int apply_defaults(struct prompt *p, const struct prompt_source *s, int level, char **error)
{
	const char *text = s->text;
	size_t len = s->len;
	struct front f;

	skip_bom(&text, &len);
	int rc = check_bytes(s->label, text, len, error);
	if (rc < 0)
		return rc;

	const struct parts parts = split(text, len);
	if (!parts.front || parts.unterminated)
		rc = front_parse(s->label, text, len, 1, &f, error);
	else if (is_white(parts.text, parts.text_len))
		rc = front_parse(
			s->label, parts.front, parts.front_len, parts.front_line, &f, error);
	else
		return text_in_defaults(s->label, text, (size_t)(parts.text - text), error);
	if (rc == 0)
		rc = apply(p, &f, level, error);
	front_release(&f);
	return rc;
}

static int parse_text(const struct prompt_source *s, const struct parts *parts,
	const struct prompt_source *defaults, size_t n_defaults, struct prompt *out, char **error)
{
	CLEANUP_FREE char *text = clean(parts->text, parts->text_len);
	CLEANUP_FREE char *why = NULL;
	struct front f = {0};
	int rc = 0;

	if (parts->front)
		rc = front_parse(
			s->label, parts->front, parts->front_len, parts->front_line, &f, error);
	if (rc == 0)
		rc = apply(out, &f, 0, error);
	front_release(&f);
	for (size_t i = 0; rc == 0 && i < n_defaults; i++)
		rc = apply_defaults(out, &defaults[i], (int)i + 1, error);
	if (rc == 0 && order_set_field(&out->order, "prompt", text, &why) < 0)
		rc = fail(error, -EINVAL, "%s: %s", s->label, why);
	return rc;
}

static int parse_json(const struct prompt_source *s, const char *text, size_t len,
	struct prompt *out, char **error)
{
	CLEANUP_FREE char *why = NULL;

	out->json = true;
	const int rc = order_decode(text, len, &out->order, &why);
	return rc < 0 ? fail(error, -EINVAL,
				"%s: %s (what begins with { is a JSON body of the API)", s->label,
				why)
		      : 0;
}

int prompt_parse(const struct prompt_source *file, const struct prompt_source *defaults,
	size_t n_defaults, struct prompt *out, char **error)
{
	const char *text = file->text;
	size_t len = file->len;
	struct parts parts;

	*out = (struct prompt){0};
	if (len > PROMPT_FILE_MAX)
		return fail(error, -EFBIG, "%s: a prompt file may have at most 1 MiB", file->label);
	skip_bom(&text, &len);
	int rc = check_bytes(file->label, text, len, error);
	if (rc < 0)
		return rc;
	parts = split(text, len);
	if (len > 0 && text[0] == '{')
		rc = parse_json(file, text, len, out, error);
	else if (parts.unterminated)
		rc = fail(error, -EINVAL,
			"%s:%d:1: the front matter that begins here has no end; put a line \"---\" "
			"behind it",
			file->label, parts.front_line - 1);
	else if (is_white(parts.text, parts.text_len))
		rc = fail(error, -EINVAL, "%s: there is no prompt text in it", file->label);
	else
		rc = parse_text(file, &parts, defaults, n_defaults, out, error);
	if (rc < 0)
		prompt_release(out);
	else
		out->order.async = true;
	return rc;
}

/* ---- against the hub's models ---- */

/* "cat.prompt:3:5: " for what was given in a file, "" otherwise. */
static char *where(const struct prompt_mark *m)
{
	return m->label ? xasprintf("%s:%d:%d: ", m->label, m->line, m->column) : xstrdup("");
}

static int unknown_model(const struct prompt *p, const struct wire_models *models, char **error)
{
	CLEANUP_FREE char *at = where(&p->model_at);
	const char **ids = xcalloc(models->count + 1, sizeof *ids);

	for (size_t i = 0; i < models->count; i++)
		ids[i] = models->items[i].id;
	const char *near = names_nearest(p->order.model, ids);
	const int rc =
		near ? fail(error, -EINVAL, "%sthe hub has no model \"%s\"; did you mean \"%s\"?",
			       at, p->order.model, near)
		     : fail(error, -EINVAL,
			       "%sthe hub has no model \"%s\"; the folder models lists them", at,
			       p->order.model);
	free(ids);
	return rc;
}

static int check_quality(const struct prompt *p, const struct wire_model *m, char **error)
{
	CLEANUP_FREE char *at = where(&p->quality_at);

	if (!p->order.quality || !m->qualities || !m->qualities[0])
		return 0;
	for (size_t i = 0; m->qualities[i]; i++)
		if (strcmp(m->qualities[i], p->order.quality) == 0)
			return 0;
	return fail(error, -EINVAL, "%s%s does not offer the quality \"%s\"; see models/%s.json",
		at, m->id, p->order.quality, m->id);
}

int prompt_check(
	const struct prompt *p, const struct wire_models *models, size_t n_references, char **error)
{
	const struct wire_model *m;

	if (models->count == 0)
		return 0;
	m = p->order.model ? wire_models_find(models, p->order.model) : models->items;
	if (p->order.model && !m)
		return unknown_model(p, models, error);
	if (m->reference_limit >= 0 && n_references > (size_t)m->reference_limit) {
		CLEANUP_FREE char *at = where(&p->references_at);

		return fail(error, -EINVAL,
			"%s%s takes at most %d reference images, and there are %zu", at, m->id,
			m->reference_limit, n_references);
	}
	return check_quality(p, m, error);
}

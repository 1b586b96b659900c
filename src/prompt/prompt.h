/*
 * prompt.h - a .prompt file → what is to be ordered, or an error with its line and column.
 * The only folder that sees libyaml.
 *
 *	struct prompt p;
 *	int rc = prompt_parse(&file, defaults, n_defaults, &p, &error);
 *	if (rc == 0) rc = prompt_check(&p, models, &error);
 *	prompt_release(&p);
 *
 * Three forms: plain text; front matter between two `---` lines (behind empty lines, if any) and
 * then text; a JSON body of the API itself (first byte `{`, after a BOM if there is one). Front
 * matter is a subset of google/dotprompt's: `model`, `config: {size, quality, n}`,
 * `reference_image` (one name or a list); size, quality and n also at top level. Every scalar is
 * text, so 16:9 stays 16:9. BOM, CRLF and a missing final newline are accepted. defaults.yaml files
 * have the same keys and no text, with or without the `---` lines; they are merged key by key,
 * nearest folder first, the prompt's own front matter before all. A JSON body is complete in
 * itself: defaults do not apply to it; its unknown members are passed on.
 *
 * The prompt text is sent without the front matter, without a trailing newline, CRLF as LF.
 *
 * Error texts name the file, the line and the column, what is wrong and, for a misspelt key or
 * value, the nearest right one:
 *	cat.prompt:3:5: unknown key "qualty"; did you mean "quality"?
 * YAML anchors, aliases, tags, several documents and nesting other than the above are errors.
 *
 * Pure functions; any thread.
 */
#ifndef PROMPT_PROMPT_H
#define PROMPT_PROMPT_H

#include "base/util.h"
#include "wire/wire.h"

enum {
	PROMPT_FILE_MAX = 1024 * 1024,	/* bytes of a .prompt file */
	PROMPT_REFERENCES_MAX = 64,	/* names in one prompt; the model's own limit comes later */
};

/* A text and the name that errors call it by ("cat.prompt", "defaults.yaml"). Borrowed. */
struct prompt_source {
	const char *label;
	const char *text;
	size_t len;
};

struct prompt_mark {
	int line, column; /* 1-based; 0: not given in a file */
	char *label;	  /* which file it was given in; NULL when not given */
};

struct prompt {
	struct order order; /* model NULL when none was given; async true */
	char **references;  /* as written, relative to the prompt's folder (for one that came from a
			     * defaults.yaml: relative to that file's folder, see reference_level) */
	size_t n_references;
	int reference_level; /* 0: the prompt itself; k: defaults[k-1] gave them */
	bool json;	     /* it was a JSON body */
	struct prompt_mark model_at, size_at, quality_at, n_at, references_at;
};

void prompt_release(struct prompt *p);

/* Whether the text holds nothing to send: white space only, or front matter and white space. */
bool prompt_is_blank(const char *text, size_t len);

/*
 * 0; -EINVAL with *error (bad front matter, unknown key, bad value, not UTF-8, a NUL, text over
 * WIRE_PROMPT_MAX characters, blank); -EFBIG with *error over PROMPT_FILE_MAX bytes.
 */
int prompt_parse(const struct prompt_source *file, const struct prompt_source *defaults,
	size_t n_defaults, struct prompt *out, char **error);

/*
 * Holds a parsed prompt against the hub's models (order.model, or the first of the list): the model
 * exists, has that quality when it lists qualities, takes n_references (the count after references/
 * were added). -EINVAL with *error. An empty list accepts everything: nothing is known yet.
 */
int prompt_check(const struct prompt *p, const struct wire_models *models, size_t n_references,
	char **error);

#endif

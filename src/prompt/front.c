#include "prompt/front.h"
#include "base/names.h"
#include <errno.h>
#include <yaml.h>

enum { KEY_SHOWN = 60 }; /* bytes of an unknown key in an error */

static const char *const field_names[] = {
	[FRONT_MODEL] = "model",
	[FRONT_SIZE] = "size",
	[FRONT_QUALITY] = "quality",
	[FRONT_N] = "n",
	[FRONT_FIELDS] = NULL,
};

/* What may stand at top level and inside of config, for suggestions. */
static const char *const top_keys[] = {
	"model", "config", "reference_image", "size", "quality", "n", NULL};
static const char *const config_keys[] = {"size", "quality", "n", NULL};
/* Keys of dotprompt that say nothing here. */
static const char *const foreign_keys[] = {"input", "output", "tools", "variant", "name", "version",
	"metadata", "toolDefs", "maxTurns", "returnToolRequests", "ext", "default", NULL};

/* What people call things elsewhere. */
static const struct {
	const char *key, *meant;
} synonyms[] = {
	{"aspect_ratio", "size"},
	{"ratio", "size"},
	{"resolution", "size"},
	{"count", "n"},
	{"images", "n"},
	{"number", "n"},
	{"reference", "reference_image"},
	{"references", "reference_image"},
};

struct reader {
	yaml_parser_t parser;
	yaml_event_t event; /* the present one */
	bool has_event;
	const char *label;
	const char *text;
	size_t len;
	int first_line;
	struct front *out;
	char **error;
};

const char *front_name(enum front_field field)
{
	return field_names[field];
}

void front_release(struct front *f)
{
	for (int i = 0; i < FRONT_FIELDS; i++) {
		free(f->values[i]);
		free(f->at[i].label);
	}
	for (size_t i = 0; i < f->n_references; i++)
		free(f->references[i]);
	free(f->references);
	free(f->references_at.label);
	*f = (struct front){0};
}

/* ---- events ---- */

void front_place(const char *text, size_t at, int *line, int *column)
{
	const char *start = text;

	*line = 1;
	for (size_t i = 0; i < at; i++)
		if (text[i] == '\n') {
			(*line)++;
			start = text + i + 1;
		}
	*column = (int)names_utf8_length(start, (size_t)(text + at - start)) + 1;
}

/* The first byte of the character with that number. */
static size_t byte_of(const struct reader *r, size_t number)
{
	size_t at = 0;

	for (; at < r->len; at++)
		if ((r->text[at] & 0xC0) != 0x80 && number-- == 0)
			break;
	return at;
}

static struct prompt_mark place_of(const struct reader *r, size_t byte)
{
	struct prompt_mark at = {0};

	front_place(r->text, byte, &at.line, &at.column);
	at.line += r->first_line - 1;
	return at;
}

static int complain_at(struct reader *r, size_t byte, const char *what)
{
	const struct prompt_mark at = place_of(r, byte);

	return fail(r->error, -EINVAL, "%s:%d:%d: %s", r->label, at.line, at.column, what);
}

static int complain(struct reader *r, const char *what)
{
	return complain_at(r, byte_of(r, r->event.start_mark.index), what);
}

/* What libyaml says of a text that is no YAML. Its reader, which comes before its scanner, tells a
 * place in bytes. */
static int complain_of_yaml(struct reader *r)
{
	const char *problem = r->parser.problem ? r->parser.problem : "it is not YAML";
	const bool by_reader = r->parser.error == YAML_READER_ERROR;
	size_t at = by_reader ? r->parser.problem_offset : byte_of(r, r->parser.problem_mark.index);

	if (at > r->len)
		at = r->len;
	if (r->parser.error == YAML_SCANNER_ERROR && at < r->len && r->text[at] == '\t')
		problem = "a tab cannot stand here; indent with spaces";
	else if (strstr(problem, "<document start>"))
		problem = "front matter is lines of \"key: value\", without directives or a second "
			  "document";
	return complain_at(r, at, problem);
}

static int next(struct reader *r)
{
	if (r->has_event)
		yaml_event_delete(&r->event);
	r->has_event = false;
	if (!yaml_parser_parse(&r->parser, &r->event))
		return complain_of_yaml(r);
	r->has_event = true;
	if (r->event.type == YAML_ALIAS_EVENT)
		return complain(r, "YAML aliases (*name) are not supported here");
	return 0;
}

static int expect(struct reader *r, yaml_event_type_t type, const char *what)
{
	const int rc = next(r);

	return rc < 0 || r->event.type == type ? rc : complain(r, what);
}

/* An event without anchor or tag of its own. */
static int check_plain(struct reader *r, const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor)
		return complain(r, "YAML anchors (&name) are not supported here");
	return tag ? complain(r, "YAML tags (!name) are not supported here") : 0;
}

static int check_scalar(struct reader *r)
{
	const int rc = check_plain(r, r->event.data.scalar.anchor, r->event.data.scalar.tag);

	if (rc < 0)
		return rc;
	if (memchr(r->event.data.scalar.value, '\0', r->event.data.scalar.length))
		return complain(r, "a NUL character is not possible here");
	return 0;
}

static const char *scalar(struct reader *r)
{
	return (const char *)r->event.data.scalar.value;
}

static bool is_null(struct reader *r)
{
	const char *text = scalar(r);

	return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static void mark(struct reader *r, struct prompt_mark *at)
{
	*at = place_of(r, byte_of(r, r->event.start_mark.index));
	at->label = xstrdup(r->label);
}

/* ---- keys ---- */

static bool is_among(const char *key, const char *const *keys)
{
	while (*keys && strcmp(*keys, key) != 0)
		keys++;
	return *keys;
}

static const char *nearest_key(const char *key, const char *const *possible)
{
	for (size_t i = 0; i < ARRAY_SIZE(synonyms); i++)
		if (strcmp(synonyms[i].key, key) == 0)
			return is_among(synonyms[i].meant, possible) ? synonyms[i].meant : NULL;
	return names_nearest(key, possible);
}

static int unknown_key(struct reader *r, const char *key, bool top)
{
	CLEANUP_FREE char *what = NULL;
	CLEANUP_FREE char *shown = xstrndup(key, names_utf8_cut(key, KEY_SHOWN));
	const char *near = nearest_key(key, top ? top_keys : config_keys);

	if (is_among(key, foreign_keys))
		what = xasprintf("\"%s\" is a key of dotprompt that has no meaning here; take it "
				 "out",
			key);
	else if (!top && is_among(key, top_keys))
		what = xasprintf(
			"\"%s\" does not belong into config; write it without indenting", key);
	else if (top && strcmp(key, "prompt") == 0)
		what = xstrdup(
			"the prompt is the text behind the second \"---\"; no key is needed");
	else if (near)
		what = xasprintf("unknown key \"%s\"; did you mean \"%s\"?", shown, near);
	else
		what = xasprintf("unknown key \"%s\"; %s possible", shown,
			top ? "model, size, quality, n and reference_image are"
			    : "in config, size, quality and n are");
	return complain(r, what);
}

static int read_field(struct reader *r, enum front_field field)
{
	CLEANUP_FREE char *what = NULL;

	if (r->out->values[field]) {
		what = xasprintf("\"%s\" is given twice", field_names[field]);
		return complain(r, what);
	}
	int rc = next(r);
	if (rc < 0)
		return rc;
	what = xasprintf("\"%s\" needs one value", field_names[field]);
	if (r->event.type != YAML_SCALAR_EVENT || is_null(r))
		return complain(r, what);
	rc = check_scalar(r);
	if (rc < 0)
		return rc;
	r->out->values[field] = xstrdup(scalar(r));
	mark(r, &r->out->at[field]);
	return 0;
}

static int add_reference(struct reader *r)
{
	const int rc = check_scalar(r);

	if (rc < 0)
		return rc;
	if (is_null(r) || !*scalar(r))
		return complain(r, "a reference image needs a file name");
	if (r->out->n_references >= PROMPT_REFERENCES_MAX)
		return complain(r, "too many reference images");
	r->out->references = xrealloc(
		r->out->references, (r->out->n_references + 1) * sizeof *r->out->references);
	r->out->references[r->out->n_references++] = xstrdup(scalar(r));
	return 0;
}

static int read_references(struct reader *r)
{
	if (r->out->has_references)
		return complain(r, "\"reference_image\" is given twice");
	int rc = next(r);
	if (rc < 0)
		return rc;
	r->out->has_references = true;
	mark(r, &r->out->references_at);
	if (r->event.type == YAML_SCALAR_EVENT)
		return add_reference(r);
	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return complain(r, "\"reference_image\" is one file name or a list of them");
	rc = check_plain(r, r->event.data.sequence_start.anchor, r->event.data.sequence_start.tag);
	while (rc == 0) {
		rc = next(r);
		if (rc < 0 || r->event.type == YAML_SEQUENCE_END_EVENT)
			return rc;
		rc = r->event.type == YAML_SCALAR_EVENT
			     ? add_reference(r)
			     : complain(r, "a reference image is a file name");
	}
	return rc;
}

static int field_of(const char *key)
{
	for (int i = 0; i < FRONT_FIELDS; i++)
		if (strcmp(field_names[i], key) == 0)
			return i;
	return -1;
}

static int read_mapping(struct reader *r, bool top);

static int read_config(struct reader *r)
{
	int rc = next(r);

	if (rc < 0)
		return rc;
	if (r->event.type == YAML_SCALAR_EVENT && is_null(r))
		return 0;
	return r->event.type == YAML_MAPPING_START_EVENT
		       ? read_mapping(r, false)
		       : complain(r,
				 "\"config\" holds size, quality and n, each on a line of its own, "
				 "indented");
}

/* After the mapping's start, up to its end. */
static int read_mapping(struct reader *r, bool top)
{
	bool config_seen = false;
	int rc =
		check_plain(r, r->event.data.mapping_start.anchor, r->event.data.mapping_start.tag);

	while (rc == 0) {
		rc = next(r);
		if (rc < 0 || r->event.type == YAML_MAPPING_END_EVENT)
			return rc;
		if (r->event.type != YAML_SCALAR_EVENT)
			return complain(r, "a key must be a plain word");
		rc = check_scalar(r);
		if (rc < 0)
			return rc;

		CLEANUP_FREE char *key = xstrdup(scalar(r));
		const int field = field_of(key);

		if (field >= 0 && (top || field != FRONT_MODEL))
			rc = read_field(r, (enum front_field)field);
		else if (top && strcmp(key, "reference_image") == 0)
			rc = read_references(r);
		else if (top && strcmp(key, "config") == 0 && !config_seen)
			rc = read_config(r);
		else if (top && strcmp(key, "config") == 0)
			rc = complain(r, "\"config\" is given twice");
		else
			rc = unknown_key(r, key, top);
		config_seen |= strcmp(key, "config") == 0;
	}
	return rc;
}

static int read_document(struct reader *r)
{
	int rc = expect(r, YAML_STREAM_START_EVENT, "it is not YAML");

	if (rc == 0)
		rc = next(r);
	if (rc < 0 || r->event.type == YAML_STREAM_END_EVENT)
		return rc;
	if (r->event.data.document_start.version_directive ||
		r->event.data.document_start.tag_directives.start !=
			r->event.data.document_start.tag_directives.end)
		return complain(r, "YAML directives are not supported here");
	rc = next(r);
	if (rc < 0)
		return rc;
	if (r->event.type == YAML_MAPPING_START_EVENT) {
		rc = read_mapping(r, true);
	} else if (r->event.type != YAML_SCALAR_EVENT || !is_null(r)) {
		return complain(r, "front matter is lines of \"key: value\"");
	}
	if (rc == 0)
		rc = expect(r, YAML_DOCUMENT_END_EVENT, "it is not YAML");
	return rc < 0 ? rc
		      : expect(r, YAML_STREAM_END_EVENT, "only one YAML document is possible here");
}

int front_parse(const char *label, const char *text, size_t len, int first_line, struct front *out,
	char **error)
{
	struct reader r = {.label = label,
		.text = text,
		.len = len,
		.first_line = first_line,
		.out = out,
		.error = error};

	*out = (struct front){0};
	if (!yaml_parser_initialize(&r.parser))
		return fail(error, -ENOMEM, "%s: no memory", label);
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
	const int rc = read_document(&r);
	if (r.has_event)
		yaml_event_delete(&r.event);
	yaml_parser_delete(&r.parser);
	if (rc < 0)
		front_release(out);
	return rc;
}

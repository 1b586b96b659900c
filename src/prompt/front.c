#include "prompt/front.h"
#include "base/names.h"
#include <errno.h>
#include <yaml.h>

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
static const char *const foreign_keys[] = {"input", "output", "tools", "variant", "name",
	"version", "metadata", "toolDefs", "maxTurns", "returnToolRequests", "ext", "default",
	NULL};

struct reader {
	yaml_parser_t parser;
	yaml_event_t event; /* the present one */
	bool has_event;
	const char *label;
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

static int complain_at(struct reader *r, yaml_mark_t at, const char *what)
{
	return fail(r->error, -EINVAL, "%s:%d:%zu: %s", r->label, r->first_line + (int)at.line,
		at.column + 1, what);
}

static int complain(struct reader *r, const char *what)
{
	return complain_at(r, r->event.start_mark, what);
}

static int next(struct reader *r)
{
	if (r->has_event)
		yaml_event_delete(&r->event);
	r->has_event = false;
	if (!yaml_parser_parse(&r->parser, &r->event)) {
		const char *problem = r->parser.problem ? r->parser.problem : "it is not YAML";

		return complain_at(r, r->parser.problem_mark, problem);
	}
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

/* A scalar without anchor or tag of its own. */
static int check_scalar(struct reader *r)
{
	if (r->event.data.scalar.anchor)
		return complain(r, "YAML anchors (&name) are not supported here");
	if (r->event.data.scalar.tag)
		return complain(r, "YAML tags (!name) are not supported here");
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
	*at = (struct prompt_mark){.line = r->first_line + (int)r->event.start_mark.line,
		.column = (int)r->event.start_mark.column + 1,
		.label = xstrdup(r->label)};
}

/* ---- keys ---- */

static int unknown_key(struct reader *r, const char *key, const char *const *possible)
{
	CLEANUP_FREE char *what = NULL;
	const char *near = names_nearest(key, possible);

	for (int i = 0; foreign_keys[i]; i++)
		if (strcmp(foreign_keys[i], key) == 0) {
			what = xasprintf("\"%s\" is a key of dotprompt that has no meaning here; "
					 "take it out",
				key);
			return complain(r, what);
		}
	if (near)
		what = xasprintf("unknown key \"%.60s\"; did you mean \"%s\"?", key, near);
	else
		what = xasprintf("unknown key \"%.60s\"; model, size, quality, n and "
				 "reference_image are possible",
			key);
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
	for (;;) {
		rc = next(r);
		if (rc < 0 || r->event.type == YAML_SEQUENCE_END_EVENT)
			return rc;
		rc = r->event.type == YAML_SCALAR_EVENT
			? add_reference(r)
			: complain(r, "a reference image is a file name");
		if (rc < 0)
			return rc;
	}
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
		: complain(r, "\"config\" holds size, quality and n, each on a line of its own, "
			      "indented");
}

/* After the mapping's start, up to its end. */
static int read_mapping(struct reader *r, bool top)
{
	bool config_seen = false;

	for (;;) {
		int rc = next(r);

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
			rc = unknown_key(r, key, top ? top_keys : config_keys);
		config_seen |= strcmp(key, "config") == 0;
		if (rc < 0)
			return rc;
	}
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
		if (r->event.data.mapping_start.anchor || r->event.data.mapping_start.tag)
			return complain(r, "YAML anchors and tags are not supported here");
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
	struct reader r = {
		.label = label, .first_line = first_line, .out = out, .error = error};

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

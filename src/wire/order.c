#include "base/names.h"
#include "wire/json.h"
#include "wire/wire.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

enum {
	EDGE_MAX = 16384,
	MODEL_MAX = 128,
	SHOWN_MAX = 40,		/* bytes of a value in an error */
	EXTRA_MAX = 768 * 1024, /* leaves room for WIRE_PROMPT_MAX characters below WIRE_BODY_MAX */
};

static const char *const qualities[] = {"auto", "low", "medium", "high", NULL};
static const char *const known[] = {"model", "prompt", "size", "quality", "n", "async", NULL};

void order_release(struct order *o)
{
	free(o->model);
	free(o->prompt);
	free(o->size);
	free(o->quality);
	free(o->extra);
	*o = (struct order){0};
}

void order_copy(struct order *to, const struct order *from)
{
	*to = (struct order){
		.model = xstrdup_or_null(from->model),
		.prompt = xstrdup_or_null(from->prompt),
		.size = xstrdup_or_null(from->size),
		.quality = xstrdup_or_null(from->quality),
		.n = from->n,
		.async = from->async,
		.extra = xstrdup_or_null(from->extra),
	};
}

int order_images(const struct order *o)
{
	return o->n > 0 ? o->n : 1;
}

/* A plain decimal number from 1 to EDGE_MAX without leading zeros, up to `end`. */
static bool edge(const char *text, const char *end, int *value)
{
	*value = 0;
	if (text == end || end - text > 5 || *text == '0')
		return false;
	for (; text < end; text++) {
		if (!isdigit((unsigned char)*text))
			return false;
		*value = *value * 10 + (*text - '0');
	}
	return *value >= 1 && *value <= EDGE_MAX;
}

bool order_pixels(const char *size, int *width, int *height)
{
	const char *x = size ? strchr(size, 'x') : NULL;

	return x && edge(size, x, width) && edge(x + 1, size + strlen(size), height);
}

/* ---- checks ---- */

static bool is_blank(const char *text)
{
	return text[strspn(text, " \t\r\n\v\f")] == '\0';
}

static int check_model(const char *model, char **error)
{
	const size_t len = strlen(model);

	if (len == 0 || len > MODEL_MAX)
		return fail(error, -EINVAL, "model must have 1 to %d characters", MODEL_MAX);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)model[i] <= ' ' || (unsigned char)model[i] >= 127)
			return fail(error, -EINVAL, "model has a character that no model's id has");
	return 0;
}

static int check_prompt(const char *prompt, char **error)
{
	const size_t len = strlen(prompt);

	if (!names_is_utf8(prompt, len))
		return fail(error, -EINVAL, "prompt is not UTF-8");
	if (is_blank(prompt))
		return fail(error, -EINVAL, "prompt is blank");
	const size_t characters = names_utf8_length(prompt, len);
	if (characters > WIRE_PROMPT_MAX)
		return fail(error, -EINVAL,
			"prompt has %zu characters; at most %d are possible", characters,
			WIRE_PROMPT_MAX);
	return 0;
}

/* "1024 X 1024" or "1024×1024" as it should have been written. Owned. */
static char *plain_size(const char *size)
{
	char *plain = xmalloc(strlen(size) + 1), *to = plain;

	for (; *size; size++) {
		if (strncmp(size, "×", 2) == 0) {
			*to++ = 'x';
			size++;
		} else if (*size != ' ') {
			*to++ = *size == '*' ? 'x' : (char)tolower((unsigned char)*size);
		}
	}
	*to = '\0';
	return plain;
}

static int check_size(const char *size, char **error)
{
	int width, height;

	if (strcmp(size, "auto") == 0 || order_pixels(size, &width, &height))
		return 0;

	CLEANUP_FREE char *shown = xstrndup(size, names_utf8_cut(size, SHOWN_MAX));
	CLEANUP_FREE char *meant = plain_size(shown);
	if (strcmp(meant, "auto") == 0 || order_pixels(meant, &width, &height))
		return fail(error, -EINVAL, "size \"%s\" is not possible; did you mean \"%s\"?",
			shown, meant);
	return fail(error, -EINVAL,
		"size \"%s\" is not possible; write auto or WIDTHxHEIGHT, as in 1536x1024", shown);
}

static int check_quality(const char *quality, char **error)
{
	for (int i = 0; qualities[i]; i++)
		if (strcmp(qualities[i], quality) == 0)
			return 0;
	const char *near = names_nearest(quality, qualities);
	return fail(error, -EINVAL,
		"quality \"%.*s\" is not possible%s%s%s; it is auto, low, medium or high",
		(int)names_utf8_cut(quality, SHOWN_MAX), quality,
		near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static int check_n(int64_t n, char **error)
{
	if (n >= 1 && n <= WIRE_IMAGES_MAX)
		return 0;
	return fail(error, -EINVAL, "n must be 1 to %d", WIRE_IMAGES_MAX);
}

int order_check(const struct order *o, char **error)
{
	int rc = o->model ? check_model(o->model, error) : 0;

	if (rc == 0)
		rc = o->prompt ? check_prompt(o->prompt, error)
			       : fail(error, -EINVAL, "prompt is missing");
	if (rc == 0 && o->size)
		rc = check_size(o->size, error);
	if (rc == 0 && o->quality)
		rc = check_quality(o->quality, error);
	if (rc == 0 && o->n != 0)
		rc = check_n(o->n, error);
	return rc;
}

int order_check_size_upstream(const char *size, char **error)
{
	int width, height;

	if (!order_pixels(size, &width, &height))
		return 0;
	const int64_t pixels = (int64_t)width * height;
	const int longest = width > height ? width : height;
	const int shortest = width > height ? height : width;

	if (width % 16 || height % 16)
		return fail(error, -EINVAL, "size %s: both edges must be divisible by 16", size);
	if (longest > 3 * shortest)
		return fail(error, -EINVAL, "size %s: the ratio must be between 1:3 and 3:1", size);
	if (longest > 3840)
		return fail(error, -EINVAL, "size %s: the longest edge may have 3840 pixels", size);
	if (pixels < 655360 || pixels > 8294400)
		return fail(error, -EINVAL,
			"size %s: 655,360 to 8,294,400 pixels in all are possible", size);
	return 0;
}

/* ---- setting and decoding ---- */

static int parse_n(const char *value, int *n, char **error)
{
	char *end;

	errno = 0;
	const long number = strtol(value, &end, 10);
	if (!isdigit((unsigned char)value[0]) || *end || errno)
		return fail(error, -EINVAL, "n must be 1 to %d", WIRE_IMAGES_MAX);
	const int rc = check_n(number, error);
	if (rc == 0)
		*n = (int)number;
	return rc;
}

static int parse_async(const char *value, bool *async, char **error)
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return fail(error, -EINVAL, "async must be true or false");
	*async = value[0] == 't';
	return 0;
}

static int replace(char **field, const char *value, int (*check)(const char *, char **),
	char **error)
{
	const int rc = check(value, error);

	if (rc < 0)
		return rc;
	free(*field);
	*field = xstrdup(value);
	return 0;
}

int order_set_field(struct order *o, const char *name, const char *value, char **error)
{
	if (strcmp(name, "model") == 0)
		return replace(&o->model, value, check_model, error);
	if (strcmp(name, "prompt") == 0)
		return replace(&o->prompt, value, check_prompt, error);
	if (strcmp(name, "size") == 0)
		return replace(&o->size, value, check_size, error);
	if (strcmp(name, "quality") == 0)
		return replace(&o->quality, value, check_quality, error);
	if (strcmp(name, "n") == 0)
		return parse_n(value, &o->n, error);
	if (strcmp(name, "async") == 0)
		return parse_async(value, &o->async, error);
	return 0;
}

static int decode_text(struct order *o, const json_t *object, const char *name, char **error)
{
	const json_t *value = json_object_get(object, name);

	if (!value || json_is_null(value))
		return 0;
	if (!json_is_string(value))
		return fail(error, -EINVAL, "%s must be a string", name);
	return order_set_field(o, name, json_string_value(value), error);
}

static int decode_rest(struct order *o, const json_t *object, char **error)
{
	const json_t *n = json_object_get(object, "n");
	const json_t *async = json_object_get(object, "async");

	if (async && !json_is_boolean(async) && !json_is_null(async))
		return fail(error, -EINVAL, "async must be true or false");
	o->async = json_is_true(async);
	if (!n || json_is_null(n))
		return 0;
	if (!json_is_integer(n))
		return fail(error, -EINVAL, "n must be a whole number, 1 to %d", WIRE_IMAGES_MAX);
	const int rc = check_n(json_integer_value(n), error);
	o->n = rc == 0 ? (int)json_integer_value(n) : 0;
	return rc;
}

/* What this client does not know, to be passed on. */
static char *unknown_members(json_t *object)
{
	for (int i = 0; known[i]; i++)
		json_object_del(object, known[i]);
	return json_object_size(object) > 0 ? json_dumps(object, JSON_COMPACT) : NULL;
}

/* Written out, a number may be longer than it was: 1e99 has 22 digits then. What is sent must be
 * short enough to be read again. */
static int take_unknown(struct order *o, json_t *object, char **error)
{
	o->extra = unknown_members(object);
	if (!o->extra || strlen(o->extra) <= EXTRA_MAX)
		return 0;
	return fail(error, -EINVAL, "what is in it besides the order itself is over %d KiB",
		EXTRA_MAX / 1024);
}

int order_decode(const char *json, size_t len, struct order *out, char **error)
{
	static const char *const texts[] = {"model", "prompt", "size", "quality"};
	CLEANUP_JSON json_t *object = json_parse(json, len, error);
	int rc = 0;

	*out = (struct order){0};
	if (!object)
		return -EINVAL;
	if (!json_is_object(object))
		return fail(error, -EINVAL, "the body must be a JSON object");
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(texts); i++)
		rc = decode_text(out, object, texts[i], error);
	if (rc == 0)
		rc = decode_rest(out, object, error);
	if (rc == 0 && !out->prompt)
		rc = fail(error, -EINVAL, "prompt is missing");
	if (rc == 0)
		rc = take_unknown(out, object, error);
	if (rc < 0)
		order_release(out);
	return rc;
}

/* ---- encoding ---- */

static void put_text(json_t *object, const char *name, const char *value)
{
	if (value)
		json_object_set_new(object, name, json_string(value));
}

char *order_encode(const struct order *o)
{
	json_t *object = json_object();

	put_text(object, "model", o->model);
	put_text(object, "prompt", o->prompt);
	put_text(object, "size", o->size);
	put_text(object, "quality", o->quality);
	if (o->n > 0)
		json_object_set_new(object, "n", json_integer(o->n));
	json_object_set_new(object, "async", json_boolean(o->async));
	if (o->extra) {
		CLEANUP_JSON json_t *extra = json_parse(o->extra, strlen(o->extra), NULL);

		json_object_update_missing(object, extra);
	}
	return json_dump_free(object, JSON_COMPACT);
}

static void add_field(struct wire_field **fields, size_t *count, const char *name, char *value)
{
	if (!value)
		return;
	*fields = xrealloc(*fields, (*count + 1) * sizeof **fields);
	(*fields)[(*count)++] = (struct wire_field){xstrdup(name), value};
}

static void add_extra(struct wire_field **fields, size_t *count, const char *extra)
{
	CLEANUP_JSON json_t *object = extra ? json_parse(extra, strlen(extra), NULL) : NULL;
	const char *name;
	json_t *value;

	json_object_foreach (object, name, value) {
		if (json_is_string(value))
			add_field(fields, count, name, xstrdup(json_string_value(value)));
		else if (!json_is_null(value) && !json_is_object(value) && !json_is_array(value))
			add_field(fields, count, name, json_dumps(value, JSON_ENCODE_ANY));
	}
}

struct wire_field *order_fields(const struct order *o, size_t *count)
{
	struct wire_field *fields = NULL;

	*count = 0;
	add_field(&fields, count, "model", xstrdup_or_null(o->model));
	add_field(&fields, count, "prompt", xstrdup_or_null(o->prompt));
	add_field(&fields, count, "size", xstrdup_or_null(o->size));
	add_field(&fields, count, "quality", xstrdup_or_null(o->quality));
	if (o->n > 0)
		add_field(&fields, count, "n", xasprintf("%d", o->n));
	add_field(&fields, count, "async", xstrdup(o->async ? "true" : "false"));
	add_extra(&fields, count, o->extra);
	return fields;
}

void wire_fields_free(struct wire_field *fields, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(fields[i].name);
		free(fields[i].value);
	}
	free(fields);
}

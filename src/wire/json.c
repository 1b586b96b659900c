#include "wire/json.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/names.h"
#include "wire/wire.h"
#include <errno.h>

json_t *json_parse(const char *text, size_t len, char **error)
{
	json_error_t why;

	if (len > WIRE_BODY_MAX) {
		fail(error, -EINVAL, "the JSON text is over 1 MiB");
		return NULL;
	}
	json_t *value = json_loadb(text, len, 0, &why);
	if (!value) {
		/* It quotes the text up to the byte in question, which may cut a character. */
		names_make_utf8(why.text);
		fail(error, -EINVAL, "not valid JSON (line %d, column %d: %s)", why.line,
			why.column, why.text);
	}
	return value;
}

char *json_text(const json_t *object, const char *name)
{
	return xstrdup_or_null(json_string_value(json_object_get(object, name)));
}

int64_t json_count(const json_t *object, const char *name, int64_t fallback)
{
	const json_t *value = json_object_get(object, name);
	const double most = 1e15;

	if (!json_is_number(value) || !(json_number_value(value) >= 0) ||
		json_number_value(value) > most)
		return fallback;
	return json_is_integer(value) ? json_integer_value(value)
				      : (int64_t)json_number_value(value);
}

int64_t json_cost(const json_t *object, const char *name, int64_t fallback)
{
	const int64_t whole = json_count(object, name, -1);
	const double exact = json_number_value(json_object_get(object, name));

	return whole < 0 ? fallback : whole + (exact > (double)whole);
}

int64_t json_time(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));
	int64_t ms = 0;

	return text && clock_parse_iso(text, &ms) == 0 ? ms : 0;
}

char *json_dump_free(json_t *value, size_t flags)
{
	char *text = json_dumps(value, flags);

	json_decref(value);
	return text ? text : xstrdup("null");
}

/* 1 MiB of numbers, nested 2,000 deep, would be 2 GB when indented. */
enum { PRETTY_TIMES = 8, PRETTY_MORE = 1024 };

static int add_piece(const char *bytes, size_t len, void *b)
{
	return buf_add(b, bytes, len);
}

char *json_pretty(const json_t *value)
{
	char *line = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	struct buf b;

	if (!line)
		return NULL;
	buf_init(&b, PRETTY_TIMES * strlen(line) + PRETTY_MORE);
	if (json_dump_callback(value, add_piece, &b, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0 ||
		buf_addch(&b, '\n') < 0) {
		buf_reset(&b);
		buf_printf(&b, "%s\n", line);
	}
	free(line);
	return buf_take(&b);
}

char *wire_pretty(const char *json, size_t len)
{
	CLEANUP_JSON json_t *value = json_parse(json, len, NULL);

	return json_pretty(value);
}

#include "base/clock.h"
#include "base/names.h"
#include "wire/json.h"
#include "wire/wire.h"
#include <errno.h>

void wire_balance_release(struct wire_balance *b)
{
	free(b->account_type);
	free(b->next_expiration);
	*b = (struct wire_balance){0};
}

static char *expiration(const json_t *value)
{
	if (json_is_string(value))
		return xstrdup(json_string_value(value));
	return json_is_object(value) ? json_dumps(value, JSON_COMPACT) : NULL;
}

int wire_balance_decode(const char *json, size_t len, struct wire_balance *out, char **error)
{
	CLEANUP_FREE char *why = NULL;
	CLEANUP_JSON json_t *top = json_parse(json, len, &why);
	const json_t *object = top;

	*out = (struct wire_balance){0};
	if (!top)
		return fail(error, -EPROTO, "the hub's balance is %s", why);
	if (json_is_object(json_object_get(top, "balance")))
		object = json_object_get(top, "balance");
	const int64_t credits = json_count(object, "credits", -1);
	if (credits < 0)
		return fail(error, -EPROTO, "the hub's balance has no number of credits");
	*out = (struct wire_balance){
		.credits = credits,
		.account_type = json_text(object, "account_type"),
		.next_expiration = expiration(json_object_get(object, "next_expiration")),
	};
	return 0;
}

char *wire_balance_encode(const struct wire_balance *b)
{
	return json_dump_free(json_pack("{s:s, s:I, s:s?, s:s?}", "object", "credit_balance",
				      "credits", (json_int_t)b->credits, "account_type",
				      b->account_type, "next_expiration", b->next_expiration),
		JSON_COMPACT);
}

char *wire_account_encode(const struct wire_balance *b, int64_t as_of_ms)
{
	char as_of[CLOCK_TEXT_SIZE];
	json_t *expires = NULL;

	if (b->next_expiration && b->next_expiration[0] == '{')
		expires = json_loads(b->next_expiration, 0, NULL);
	if (!expires)
		expires = b->next_expiration ? json_string(b->next_expiration) : json_null();
	CLEANUP_FREE char *text = json_dump_free(
		json_pack("{s:I, s:s?, s:o, s:s}", "credits", (json_int_t)b->credits,
			"account_type", b->account_type, "next_expiration", expires, "as_of",
			clock_format_iso(as_of_ms, as_of)),
		JSON_INDENT(2));
	return xasprintf("%s\n", text);
}

void wire_error_release(struct wire_error *e)
{
	free(e->message);
	free(e->code);
	*e = (struct wire_error){0};
}

bool wire_error_decode(const char *json, size_t len, struct wire_error *out)
{
	CLEANUP_JSON json_t *top = json_parse(json, len, NULL);
	const json_t *error = json_object_get(top, "error");

	*out = (struct wire_error){0};
	if (json_is_object(error)) {
		out->message = json_text(error, "message");
		out->code = json_text(error, "code");
	} else if (json_is_string(error)) {
		out->message = xstrdup(json_string_value(error));
	} else {
		out->message = json_text(top, "message");
	}
	return out->message || out->code;
}

char *wire_error_encode(const char *message, const char *code)
{
	CLEANUP_FREE char *words = xstrdup(message); /* may quote what a client sent */

	names_make_utf8(words);
	return json_dump_free(json_pack("{s:{s:s, s:s?}}", "error", "message", words, "code", code),
		JSON_COMPACT);
}

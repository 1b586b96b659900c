#include "wire/outcome.h"
#include <errno.h>

static const struct row {
	const char *name;
	struct outcome_fact fact;
} table[OUTCOME_COUNT] = {
	[OUTCOME_OK] = {"ok", {200, NULL, 0, "ok", NULL}},
	[OUTCOME_INVALID_REQUEST] = {"invalid_request",
		{400, "invalid_request", EINVAL, "the hub does not accept the request",
			"Mend what it names and save the file."}},
	[OUTCOME_MISSING_KEY] = {"missing_key",
		{401, "missingApiKey", ENOKEY, "the hub wants an API key",
			"Put a key where README.txt says and mount again."}},
	[OUTCOME_INVALID_KEY] = {"invalid_key",
		{401, "invalidApiKey", EKEYREJECTED, "the hub does not know this API key",
			"Make a new key at the hub, put it in its place and mount again."}},
	[OUTCOME_EXPIRED_KEY] = {"expired_key",
		{401, "expiredApiKey", EKEYEXPIRED, "the API key has expired",
			"Make a new key at the hub, put it in its place and mount again."}},
	[OUTCOME_NO_CREDITS] = {"no_credits",
		{402, "insufficientCredits", EDQUOT, "not enough credits",
			"Buy credits at the hub."}},
	[OUTCOME_NOT_FOUND] = {"not_found",
		{404, "notFound", ENOENT, "the hub does not know it",
			"Check the id and that it belongs to this key's account."}},
	[OUTCOME_GENERATION_FAILED] = {"generation_failed",
		{500, "generationFailed", EIO, "the generation failed",
			"The hub refunds what it charged; another wording often helps."}},
	[OUTCOME_FORBIDDEN] = {"forbidden",
		{403, "forbidden", EACCES, "the hub forbids it",
			"Check what this key's account may do."}},
	[OUTCOME_TOO_LARGE] = {"too_large",
		{413, "requestTooLarge", EFBIG, "the hub finds the request too large",
			"Send fewer or smaller reference pictures."}},
	[OUTCOME_IDEMPOTENCY_MISMATCH] = {"idempotency_mismatch",
		{422, "idempotencyMismatch", EINVAL, "the hub has seen this key with another request",
			"Save the prompt under a new name."}},
	[OUTCOME_RATE_LIMITED] = {"rate_limited",
		{429, "rateLimited", EAGAIN, "the hub asks for patience",
			"It is tried again by itself."}},
	[OUTCOME_REFUSED] = {"refused",
		{0, NULL, EINVAL, "the hub refuses it", "Mend what it names and save the file."}},
	[OUTCOME_SERVER_ERROR] = {"server_error",
		{500, "internalError", EIO, "the hub has an error of its own",
			"Try again later."}},
	[OUTCOME_UNREADABLE] = {"unreadable",
		{0, NULL, EPROTO, "the answer is not one of this API",
			"Check the hub's address (--hub)."}},
	[OUTCOME_HOSTILE] = {"hostile",
		{0, NULL, EPROTO, "the answer breaks a rule of safety",
			"Check the hub's address (--hub)."}},
	[OUTCOME_NO_HOST] = {"no_host",
		{0, NULL, EHOSTUNREACH, "the hub's name does not resolve",
			"Check the network; it is tried again by itself."}},
	[OUTCOME_NO_CONNECTION] = {"no_connection",
		{0, NULL, ECONNREFUSED, "no connection to the hub",
			"Check the network; it is tried again by itself."}},
	[OUTCOME_TLS] = {"tls",
		{0, NULL, ECONNABORTED, "no secure connection to the hub",
			"Check the clock and the network (a captive portal?); an authority of one's own "
			"is told by $SSL_CERT_FILE."}},
	[OUTCOME_TIMEOUT] = {"timeout",
		{0, NULL, ETIMEDOUT, "no answer in time",
			"Check the network; the hub may be slow."}},
	[OUTCOME_CUT] = {"cut",
		{0, NULL, ECONNRESET, "the connection ended early", "Check the network."}},
	[OUTCOME_LOCAL] = {"local",
		{0, NULL, EIO, "this machine has trouble of its own", "See the program's log."}},
};

const struct outcome_fact *outcome_fact(enum outcome outcome)
{
	return &table[(unsigned)outcome < OUTCOME_COUNT ? outcome : OUTCOME_LOCAL].fact;
}

const char *outcome_name(enum outcome outcome)
{
	return table[(unsigned)outcome < OUTCOME_COUNT ? outcome : OUTCOME_LOCAL].name;
}

enum outcome outcome_from_name(const char *name)
{
	for (int i = 0; name && i < OUTCOME_COUNT; i++)
		if (strcmp(table[i].name, name) == 0)
			return (enum outcome)i;
	return OUTCOME_LOCAL;
}

/* The documented status of each documented code; another status with that code is still it. */
static enum outcome from_code(const char *code)
{
	for (int i = OUTCOME_INVALID_REQUEST; i <= OUTCOME_RATE_LIMITED; i++)
		if (strcmp(table[i].fact.code, code) == 0)
			return (enum outcome)i;
	return OUTCOME_COUNT;
}

enum outcome outcome_from_http(int status, const char *code)
{
	const enum outcome known = code ? from_code(code) : OUTCOME_COUNT;

	if (known != OUTCOME_COUNT)
		return known;
	switch (status) {
	case 400:
		return OUTCOME_INVALID_REQUEST;
	case 401:
		return OUTCOME_INVALID_KEY;
	case 402:
		return OUTCOME_NO_CREDITS;
	case 403:
		return OUTCOME_FORBIDDEN;
	case 404:
		return OUTCOME_NOT_FOUND;
	case 413:
		return OUTCOME_TOO_LARGE;
	case 429:
		return OUTCOME_RATE_LIMITED;
	default:
		break;
	}
	if (status >= 400 && status < 500)
		return OUTCOME_REFUSED;
	if (status >= 500)
		return OUTCOME_SERVER_ERROR;
	return OUTCOME_UNREADABLE;
}

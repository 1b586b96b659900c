/*
 * Calls of the API: the GETs, and how every call ends. The paid POST is post.c's.
 */
#include "net/internal.h"
#include "base/clock.h"
#include "base/names.h"
#include <errno.h>
#include <stdio.h>

enum { MESSAGE_MAX = 500 };

static size_t body_seen(char *bytes, size_t size, size_t count, void *arg)
{
	struct net_call *c = arg;

	if (buf_add(&c->body, bytes, size * count) < 0) {
		c->too_large = true;
		return 0;
	}
	return size * count;
}

struct net_call *api_call(struct net *net, enum call_kind kind, const char *path,
	net_done_fn *done, void *arg)
{
	CLEANUP_FREE char *url = xasprintf("%s%s", net->origin, path);
	struct net_call *c = call_create(net, kind, url, arg);

	c->done = done;
	c->asked_ms = clock_mono_ms();
	curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, body_seen);
	curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, c);
	c->headers = curl_slist_append(c->headers, "Accept: application/json");
	return c;
}

void api_add_key(struct net_call *c)
{
	if (c->net->bearer)
		c->headers = curl_slist_append(c->headers, c->net->bearer->data);
}

static struct net_call *get(struct net *net, const char *path, bool with_key, net_done_fn *done,
	void *arg)
{
	struct net_call *c = api_call(net, CALL_API, path, done, arg);

	curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)net->config.api_total_ms);
	curl_easy_setopt(c->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	if (with_key)
		api_add_key(c);
	call_start(c);
	return c;
}

struct net_call *net_get_models(struct net *net, net_done_fn *done, void *arg)
{
	return get(net, "/api/v1/models", false, done, arg);
}

struct net_call *net_get_credits(struct net *net, net_done_fn *done, void *arg)
{
	return get(net, "/api/v1/credits", true, done, arg);
}

struct net_call *net_get_generation(struct net *net, const char *id, const char *poll_url,
	net_done_fn *done, void *arg)
{
	CLEANUP_FREE char *path = xasprintf("/api/v1/generations/%s", id);
	struct net_call *c;

	if (!poll_url || !net_same_origin(net, poll_url))
		return get(net, path, true, done, arg);
	c = api_call(net, CALL_API, path, done, arg);
	curl_easy_setopt(c->easy, CURLOPT_URL, poll_url);
	curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)net->config.api_total_ms);
	curl_easy_setopt(c->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(c->easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	api_add_key(c);
	call_start(c);
	return c;
}

/* ---- the end ---- */

enum outcome outcome_of(const struct net_call *c, CURLcode code)
{
	if (c->too_large)
		return OUTCOME_UNREADABLE;
	switch (code) {
	case CURLE_OK:
		return OUTCOME_OK;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return OUTCOME_NO_HOST;
	case CURLE_COULDNT_CONNECT:
	case CURLE_PROXY:
		return c->forbidden_address ? OUTCOME_HOSTILE : OUTCOME_NO_CONNECTION;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_ISSUER_ERROR:
		return OUTCOME_TLS;
	case CURLE_OPERATION_TIMEDOUT:
		return OUTCOME_TIMEOUT;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_TOO_MANY_REDIRECTS:
	case CURLE_URL_MALFORMAT:
		return OUTCOME_HOSTILE;
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_BAD_CONTENT_ENCODING:
	case CURLE_HTTP2:
	case CURLE_HTTP2_STREAM:
		return OUTCOME_UNREADABLE;
	case CURLE_OUT_OF_MEMORY:
	case CURLE_READ_ERROR:
	case CURLE_ABORTED_BY_CALLBACK:
		return c->second_try ? OUTCOME_CUT : OUTCOME_LOCAL;
	default:
		return OUTCOME_CUT;
	}
}

char *message_of(const struct net_call *c, CURLcode code)
{
	if (c->too_large)
		return xstrdup("the hub's answer is over 1 MiB and was not read");
	if (c->forbidden_address)
		return xstrdup("the picture's address leads into a private network");
	if (c->second_try)
		return xstrdup("the connection ended without an answer");
	return xstrdup(c->error[0] ? c->error : curl_easy_strerror(code));
}

/* The words of an HTTP answer that is no success: the hub's own where it gives some. */
static char *refusal(const struct net_call *c, int status, enum outcome *outcome)
{
	struct wire_error e;
	char *message = NULL;

	if (wire_error_decode(c->body.data, c->body.len, &e)) {
		*outcome = outcome_from_http(status, e.code);
		if (e.message) /* UTF-8, as JSON is */
			message = xstrndup(e.message, names_utf8_cut(e.message, MESSAGE_MAX));
		wire_error_release(&e);
	} else {
		*outcome = outcome_from_http(status, NULL);
	}
	return message ? message
		       : xasprintf("%s (HTTP %d)", outcome_fact(*outcome)->word, status);
}

void api_finished(struct net_call *c, CURLcode code)
{
	CLEANUP_FREE char *message = NULL;
	long status = 0;
	struct net_reply reply = {.retry_after_ms = c->retry_after_ms, .idempotent = c->idempotent,
		.asked_ms = c->asked_ms};

	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	reply.outcome = outcome_of(c, code);
	reply.sent = c->kind != CALL_POST || c->connections > 0;
	if (reply.outcome == OUTCOME_OK) {
		reply.http = (int)status;
		if (status / 100 != 2)
			message = refusal(c, reply.http, &reply.outcome);
	} else {
		message = message_of(c, code);
	}
	reply.body_len = c->body.len;
	reply.message = message;

	net_done_fn *done = c->done;
	void *arg = c->arg;
	char *body = buf_take(&c->body);

	/* The call is over before its owner hears of it: the owner may start and end others. */
	reply.body = body;
	call_free(c);
	done(arg, &reply);
	free(body);
}

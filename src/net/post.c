/*
 * The paid POST and its guard (net.h, "The rules of money"). It is made ready first, which may fail,
 * and then let out, which cannot: nothing stands between the caller's intent and the sending.
 */
#include "base/clock.h"
#include "net/internal.h"
#include <errno.h>

/* Called when a connection is ready and the request is about to be written: the second time it is
 * libcurl's own re-sending, which is never let out. */
int post_before_request(void *arg, char *ip, char *local_ip, int port, int local_port)
{
	struct net_call *c = arg;

	(void)ip;
	(void)local_ip;
	(void)port;
	(void)local_port;
	if (c->connections++ == 0)
		return CURL_PREREQFUNC_OK;
	c->second_try = true;
	return CURL_PREREQFUNC_ABORT;
}

/* libcurl would send a part that is empty where a file cannot be read. */
static int add_reference(struct net_call *c, const struct net_reference *ref, char **error)
{
	curl_mimepart *part = curl_mime_addpart(c->mime);

	curl_mime_name(part, "reference_image");
	if (curl_mime_filedata(part, ref->path) != CURLE_OK)
		return fail(error, -EIO, "the reference picture %s cannot be read", ref->name);
	curl_mime_filename(part, ref->name);
	curl_mime_type(part, ref->mime);
	return 0;
}

static int set_multipart(struct net_call *c, const struct order *order,
	const struct net_reference *refs, size_t n, char **error)
{
	size_t count;
	int rc = 0;
	struct wire_field *fields = order_fields(order, &count);

	c->mime = curl_mime_init(c->easy);
	for (size_t i = 0; i < count; i++) {
		curl_mimepart *part = curl_mime_addpart(c->mime);

		curl_mime_name(part, fields[i].name);
		curl_mime_data(part, fields[i].value, CURL_ZERO_TERMINATED);
	}
	wire_fields_free(fields, count);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = add_reference(c, &refs[i], error);
	curl_easy_setopt(c->easy, CURLOPT_MIMEPOST, c->mime);
	return rc;
}

static int set_json(struct net_call *c, const struct order *order)
{
	c->json = order_encode(order);
	c->headers = curl_slist_append(c->headers, "Content-Type: application/json");
	curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, c->json);
	curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(c->json));
	return 0;
}

struct net_call *net_post_order(struct net *net, const struct order *order,
	const struct net_reference *references, size_t n_references, const char *idempotency_key,
	net_done_fn *done, void *arg, char **error)
{
	CLEANUP_FREE char *key = xasprintf("Idempotency-Key: %s", idempotency_key);
	struct net_call *c = api_call(net, CALL_POST, "/api/v1/images/generations", done, arg);
	CURL *easy = c->easy;

	const int rc = n_references > 0 ? set_multipart(c, order, references, n_references, error)
					: set_json(c, order);
	if (rc < 0) {
		call_free(c);
		return NULL;
	}
	api_add_key(c);
	c->headers = curl_slist_append(c->headers, key);
	/* No 100-continue: it would be a round trip more, and one more way to be left unsure. */
	c->headers = curl_slist_append(c->headers, "Expect:");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
	curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, post_before_request);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, c);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)net->config.post_total_ms);
	/* A hub that works before it answers is silent for up to 800 s: only the total counts. */
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 0L);
	return c;
}

void net_post_send(struct net_call *call)
{
	call->asked_ms = clock_mono_ms();
	call_start(call);
}

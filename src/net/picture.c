/*
 * Picture downloads: hostile until checked, counted byte by byte.
 */
#include "net/internal.h"
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REDIRECTS_MAX = 3 };

/* Sees each address that is about to be connected to, after redirects as well. A proxy's is the user's
 * choice, often a private one, and where it goes is its own concern. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct net_call *c = arg;
	char *url = NULL;

	(void)purpose;
	curl_easy_getinfo(c->easy, CURLINFO_EFFECTIVE_URL, &url);
	if (!c->net->hub_is_local && address_is_private(&address->addr) && !url_goes_by_proxy(url)) {
		c->forbidden_address = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* The whole picture's size as announced, once its first bytes come. */
static void learn_total(struct net_call *c, long status)
{
	curl_off_t length = -1;

	if (status == 206 || c->total >= 0)
		return; /* from Content-Range */
	curl_easy_getinfo(c->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	c->total = length;
}

static size_t picture_seen(char *bytes, size_t size, size_t count, void *arg)
{
	struct net_call *c = arg;
	size_t len = size * count;
	long status = 0;

	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200 && status != 206)
		return len; /* the body of a refusal is of no use */
	if (c->received == 0)
		learn_total(c, status);
	if (c->limit > 0 && c->received + (int64_t)len >= c->limit) {
		len = (size_t)(c->limit - c->received);
		c->enough = true;
	}
	if (c->first + c->received + (int64_t)len > c->net->config.picture_max ||
		c->total > c->net->config.picture_max) {
		c->too_large = true;
		return 0;
	}
	c->received += (int64_t)len;
	if (len > 0 && !c->data(c->arg, bytes, len, c->total)) {
		c->ended = true;
		return 0;
	}
	return c->enough && len < size * count ? 0 : size * count;
}

struct net_call *net_get_picture(struct net *net, enum net_urgency urgency, const char *url,
	int64_t first, int64_t limit, net_data_fn *data, net_picture_done_fn *done, void *arg)
{
	const enum call_kind kind = limit > 0 ? CALL_PROBE
		: urgency == NET_AHEAD	      ? CALL_AHEAD
					      : CALL_PICTURE;
	struct net_call *c = call_create(net, kind, url, arg);
	CURL *easy = c->easy;
	char range[64];

	c->data = data;
	c->picture_done = done;
	c->first = first;
	c->limit = limit;
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(easy, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
	curl_easy_setopt(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, c);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, picture_seen);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 256 * 1024L);
	/* Its lane is narrow, and a request's success waits for it: a byte a second must not hold it. */
	if (kind == CALL_PROBE)
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)net->config.api_total_ms);
	if (first > 0 || limit > 0) {
		if (limit > 0)
			snprintf(range, sizeof range, "%lld-%lld", (long long)first,
				(long long)(first + limit - 1));
		else
			snprintf(range, sizeof range, "%lld-", (long long)first);
		curl_easy_setopt(easy, CURLOPT_RANGE, range);
	}
	call_start(c);
	return c;
}

void net_hurry(struct net_call *c)
{
	if (c->kind != CALL_AHEAD || c->started)
		return;
	list_remove(&c->queued);
	c->kind = CALL_PICTURE;
	call_queue(c);
}

static char *picture_message(const struct net_call *c, CURLcode code, long status,
	enum outcome *outcome)
{
	if (c->too_large) {
		*outcome = OUTCOME_HOSTILE;
		return xasprintf("the picture is over %lld bytes",
			(long long)c->net->config.picture_max);
	}
	if (c->ended) {
		*outcome = OUTCOME_LOCAL;
		return xstrdup("the download was ended here");
	}
	if (c->enough && (status == 200 || status == 206))
		return NULL;
	*outcome = outcome_of(c, code);
	if (*outcome != OUTCOME_OK)
		return message_of(c, code);
	if (status == 200 || status == 206)
		return NULL;
	*outcome = outcome_from_http((int)status, NULL);
	return xasprintf("the pictures' server answers HTTP %ld", status);
}

void picture_finished(struct net_call *c, CURLcode code)
{
	long status = 0;
	enum outcome outcome = OUTCOME_OK;

	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	CLEANUP_FREE char *message = picture_message(c, code, status, &outcome);
	const struct net_picture_reply reply = {
		.outcome = outcome,
		.http = (int)status,
		.expired = outcome != OUTCOME_OK &&
			(status == 401 || status == 403 || status == 404 || status == 410 ||
				outcome == OUTCOME_NO_HOST || outcome == OUTCOME_NO_CONNECTION),
		.total = c->total,
		.received = c->received,
		.ranged = status == 206,
		.message = message,
		.retry_after_ms = c->retry_after_ms,
	};
	net_picture_done_fn *done = c->picture_done;
	void *arg = c->arg;

	call_free(c);
	done(arg, &reply);
}

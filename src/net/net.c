#include "net/internal.h"
#include "base/log.h"
#include <errno.h>
#include <strings.h>
#include <time.h>

enum {
	CONNECT_MS = 10 * 1000,
	STALL_MS = 30 * 1000,
	API_TOTAL_MS = 30 * 1000,
	POST_TOTAL_MS = 820 * 1000,
	API_CONNECTIONS = 32,
	PICTURE_CONNECTIONS = 32,
	AHEAD_CONNECTIONS = 8, /* and as many for measuring pictures */
	KEEP_CONNECTIONS = 24,
};

static const int64_t picture_max = 256 * 1024 * 1024;

/* ---- life ---- */

static void set_defaults(struct net_config *c)
{
	if (c->picture_max <= 0)
		c->picture_max = picture_max;
	if (c->stall_ms <= 0)
		c->stall_ms = STALL_MS;
	if (c->api_total_ms <= 0)
		c->api_total_ms = API_TOTAL_MS;
	if (c->post_total_ms <= 0)
		c->post_total_ms = POST_TOTAL_MS;
	if (c->picture_connections <= 0)
		c->picture_connections = PICTURE_CONNECTIONS;
}

static CURLM *multi_create(void)
{
	CURLM *multi = curl_multi_init();

	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)KEEP_CONNECTIONS);
	return multi;
}

struct net *net_create(const struct net_config *config, char **error)
{
	char *origin = net_origin(config->hub, error);

	if (!origin)
		return NULL;
	if (config->key && url_has_scheme(origin, "http") && !url_is_loopback_origin(origin)) {
		fail(error, -EPERM,
			"%s: a key is sent over https:// only (or http:// on this machine)", origin);
		free(origin);
		return NULL;
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);

	struct net *net = xcalloc(1, sizeof *net);
	net->config = *config;
	set_defaults(&net->config);
	net->origin = origin;
	net->hub_is_local = url_is_private_origin(origin);
	net->multi = multi_create();
	for (int i = 0; i < CALL_KINDS; i++)
		list_init(&net->lanes[i].waiting);
	net->lanes[CALL_API].max = API_CONNECTIONS;
	net->lanes[CALL_PICTURE].max = net->config.picture_connections;
	net->lanes[CALL_PROBE].max = AHEAD_CONNECTIONS;
	net->lanes[CALL_AHEAD].max = AHEAD_CONNECTIONS;
	list_init(&net->calls);
	if (config->key) {
		CLEANUP_FREE char *header = xasprintf("Authorization: Bearer %s", config->key);

		net->bearer = curl_slist_append(NULL, header);
	}
	return net;
}

void net_destroy(struct net *net)
{
	if (!net)
		return;
	/* Those that wait first, so that none of them is started by the end of another. */
	for (int i = 0; i < CALL_KINDS; i++)
		list_for_each_safe (pos, next, &net->lanes[i].waiting)
			list_remove(pos);
	list_for_each_safe (pos, next, &net->calls)
		call_free(CONTAINER_OF(pos, struct net_call, link));
	while (net->n_spare > 0)
		curl_easy_cleanup(net->spare[--net->n_spare]);
	curl_multi_cleanup(net->multi);
	curl_slist_free_all(net->bearer);
	free(net->origin);
	free(net);
}

int net_running(const struct net *net)
{
	return net->running;
}

/* ---- a call ---- */

/* What every transfer has in common. */
static void set_common(struct net_call *c, const char *url)
{
	const struct net_config *config = &c->net->config;
	CURL *easy = c->easy;

	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, c);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "imagehubfs/" VERSION);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, NO_PROXY_HOSTS);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)((config->stall_ms + 999) / 1000));
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, header_seen);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(easy, CURLOPT_HTTP09_ALLOWED, 0L);
	/* Nobody waits for a resolver's thread that nobody answers: not the end of a call, nor of all. */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
}

/* Only API calls share handles: the paid POST has one of its own. */
static CURL *handle_get(struct net *net, enum call_kind kind)
{
	return kind == CALL_API && net->n_spare > 0 ? net->spare[--net->n_spare] : curl_easy_init();
}

static void handle_put(struct net *net, enum call_kind kind, CURL *easy)
{
	if (kind != CALL_API || net->n_spare == SPARE_HANDLES) {
		curl_easy_cleanup(easy);
		return;
	}
	curl_easy_reset(easy);
	net->spare[net->n_spare++] = easy;
}

struct net_call *call_create(struct net *net, enum call_kind kind, const char *url, void *arg)
{
	struct net_call *c = xcalloc(1, sizeof *c);

	*c = (struct net_call){.net = net,
		.kind = kind,
		.easy = handle_get(net, kind),
		.retry_after_ms = -1,
		.total = -1,
		.arg = arg};
	if (kind == CALL_API || kind == CALL_POST)
		buf_init(&c->body, WIRE_BODY_MAX);
	set_common(c, url);
	list_append(&net->calls, &c->link);
	list_init(&c->queued);
	net->running++;
	return c;
}

static void start(struct net_call *c)
{
	c->started = true;
	c->net->lanes[c->kind].running++;
	curl_multi_add_handle(c->net->multi, c->easy);
}

void call_start(struct net_call *c)
{
	if (c->headers)
		curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
	call_queue(c);
}

void call_queue(struct net_call *c)
{
	struct lane *lane = &c->net->lanes[c->kind];

	if (lane->max == 0 || lane->running < lane->max)
		start(c);
	else
		list_append(&lane->waiting, &c->queued);
}

/* Makes room in the call's lane for the next. */
static void stop(struct net_call *c)
{
	struct lane *lane = &c->net->lanes[c->kind];

	list_remove(&c->queued);
	if (!c->started)
		return;
	c->started = false;
	curl_multi_remove_handle(c->net->multi, c->easy);
	lane->running--;
	if (!list_empty(&lane->waiting)) {
		struct net_call *next = CONTAINER_OF(lane->waiting.next, struct net_call, queued);

		list_remove(&next->queued);
		start(next);
	}
}

void call_free(struct net_call *c)
{
	stop(c);
	handle_put(c->net, c->kind, c->easy);
	curl_mime_free(c->mime);
	curl_slist_free_all(c->headers);
	buf_release(&c->body);
	free(c->json);
	list_remove(&c->link);
	c->net->running--;
	free(c);
}

void net_cancel(struct net_call *call)
{
	if (call->kind == CALL_POST && call->started) {
		log_error("a POST that may have left cannot be cancelled");
		return;
	}
	call_free(call);
}

void net_pause(struct net_call *call, bool paused)
{
	curl_easy_pause(call->easy, paused ? CURLPAUSE_RECV : CURLPAUSE_CONT);
}

/* ---- headers that matter ---- */

static bool header_is(const char *line, size_t len, const char *name, const char **value)
{
	const size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
		return false;
	*value = line + n + 1;
	return true;
}

static int64_t parse_retry_after(const char *value, size_t len)
{
	CLEANUP_FREE char *text = xstrndup(value, len);
	char *p = text + strspn(text, " \t"), *end;
	int64_t seconds = strtoll(p, &end, 10);

	if (end == p) {
		const time_t at = curl_getdate(p, NULL);

		if (at < 0)
			return -1;
		seconds = (int64_t)at - (int64_t)time(NULL);
	}
	if (seconds < 0)
		seconds = 0;
	return (seconds > 3600 ? 3600 : seconds) * 1000;
}

/* Content-Range: bytes 0-65535/1234567 */
static int64_t parse_range_total(const char *value, size_t len)
{
	const char *slash = memchr(value, '/', len);
	CLEANUP_FREE char *text = slash ? xstrndup(slash + 1, (size_t)(value + len - slash - 1)) : NULL;
	char *end;

	if (!text || text[0] < '0' || text[0] > '9')
		return -1;
	const int64_t total = strtoll(text, &end, 10);
	return *end == '\0' || *end == '\r' || *end == '\n' || *end == ' ' ? total : -1;
}

size_t header_seen(char *line, size_t size, size_t count, void *arg)
{
	struct net_call *c = arg;
	const size_t len = size * count;
	const char *value;

	if (len > 5 && strncmp(line, "HTTP/", 5) == 0) {
		/* A new answer begins (after a redirect, or an interim one). */
		c->retry_after_ms = -1;
		c->total = -1;
		c->idempotent = false;
	} else if (header_is(line, len, "retry-after", &value)) {
		c->retry_after_ms = parse_retry_after(value, len - (size_t)(value - line));
	} else if (header_is(line, len, "content-range", &value)) {
		c->total = parse_range_total(value, len - (size_t)(value - line));
	} else if (header_is(line, len, "idempotency", &value)) {
		CLEANUP_FREE char *text = xstrndup(value, len - (size_t)(value - line));

		c->idempotent = strncasecmp(text + strspn(text, " \t"), "supported", 9) == 0;
	}
	return len;
}

/* ---- the loop ---- */

static void collect(struct net *net)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(net->multi, &left)) != NULL) {
		struct net_call *c;
		const CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		if (c->kind != CALL_API && c->kind != CALL_POST)
			picture_finished(c, code);
		else
			api_finished(c, code);
	}
}

void net_run(struct net *net, int timeout_ms)
{
	enum { FOR_EVER_MS = 1000 * 1000 };
	int running;

	curl_multi_poll(net->multi, NULL, 0, timeout_ms < 0 ? FOR_EVER_MS : timeout_ms, NULL);
	curl_multi_perform(net->multi, &running);
	collect(net);
}

/* Whoever waits for what was posted would wait for long if it failed and nobody tried again. */
void net_wake(struct net *net)
{
	enum { TRIES = 5 };

	for (int i = 0; i < TRIES && curl_multi_wakeup(net->multi) != CURLM_OK; i++)
		;
}

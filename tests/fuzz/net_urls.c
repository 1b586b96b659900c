/*
 * Addresses: of a hub (from the user) and of what the hub says is its own (from anybody). The key goes
 * where net_same_origin() allows it, so it must see in an address what libcurl will see in it.
 */
#include "fuzz.h"
#include "net/internal.h"
#include <arpa/inet.h>

static char *url_part(CURLU *url, CURLUPart what)
{
	char *text = NULL;

	curl_url_get(url, what, &text, CURLU_DEFAULT_PORT);
	return text;
}

/* Where libcurl would connect to, read as its transfers read an address. */
static bool leads_to(const char *text, const char *scheme, const char *host, const char *port)
{
	CURLU *url = curl_url();
	bool same = false;

	if (curl_url_set(url, CURLUPART_URL, text, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) ==
		CURLUE_OK) {
		char *s = url_part(url, CURLUPART_SCHEME), *h = url_part(url, CURLUPART_HOST),
		     *p = url_part(url, CURLUPART_PORT);

		same = fuzz_same(s, scheme) && h && strcasecmp(h, host) == 0 && fuzz_same(p, port);
		curl_free(s);
		curl_free(h);
		curl_free(p);
	}
	curl_url_cleanup(url);
	return same;
}

static bool is_loopback(const char *origin)
{
	struct in_addr v4;
	struct in6_addr v6;
	const char *begin = strstr(origin, "://") + 3;
	const bool brackets = *begin == '[';
	const char *end = brackets ? strchr(begin, ']') : begin + strcspn(begin, ":");
	CLEANUP_FREE char *host = xstrndup(begin + brackets, (size_t)(end - begin) - brackets);

	if (strcmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static void as_hub(const char *text)
{
	char *error = NULL;
	CLEANUP_FREE char *origin = net_origin(text, &error);

	if (!origin) {
		HOLDS(error && *error);
		return free(error);
	}
	HOLDS(!error);
	HOLDS(strncmp(origin, "https://", 8) == 0 || strncmp(origin, "http://", 7) == 0);
	CLEANUP_FREE char *again = net_origin(origin, NULL);
	HOLDS(fuzz_same(origin, again));
	HOLDS(url_is_loopback_origin(origin) == is_loopback(origin));
	fuzz_accepted++;
}

static void as_poll_url(const char *text)
{
	static struct net *hub, *local;

	if (!hub) {
		hub = net_create(&(struct net_config){.hub = "https://hub.example.com"}, NULL);
		local = net_create(&(struct net_config){.hub = "http://127.0.0.1:8787"}, NULL);
	}
	if (net_same_origin(hub, text))
		HOLDS(leads_to(text, "https", "hub.example.com", "443"));
	if (net_same_origin(local, text))
		HOLDS(leads_to(text, "http", "127.0.0.1", "8787"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line;

	while ((line = fuzz_line(&data, &size)) != NULL) {
		as_hub(line);
		as_poll_url(line);
		free(line);
	}
	return 0;
}

#include "net/internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <strings.h>

static char *part(CURLU *url, CURLUPart what, unsigned flags)
{
	char *text = NULL;

	if (curl_url_get(url, what, &text, flags) != CURLUE_OK)
		return NULL;
	char *copy = xstrdup(text);
	curl_free(text);
	return copy;
}

bool url_has_scheme(const char *url, const char *scheme)
{
	const size_t len = strlen(scheme);

	return strncasecmp(url, scheme, len) == 0 && strncmp(url + len, "://", 3) == 0;
}

static char *build_origin(CURLU *url)
{
	CLEANUP_FREE char *scheme = part(url, CURLUPART_SCHEME, 0);
	CLEANUP_FREE char *host = part(url, CURLUPART_HOST, 0);
	CLEANUP_FREE char *port = part(url, CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);

	if (!scheme || !host)
		return NULL;
	for (char *p = host; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	return xasprintf("%s://%s%s%s", scheme, host, port ? ":" : "", port ? port : "");
}

static char *read_origin(const char *text, CURLUcode *code)
{
	CURLU *url = curl_url();
	char *origin = NULL;

	*code = curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME);
	if (*code == CURLUE_OK)
		origin = build_origin(url);
	curl_url_cleanup(url);
	return origin;
}

char *url_origin(const char *text, char **error)
{
	CURLUcode code;
	char *origin = read_origin(text, &code);

	if (code != CURLUE_OK) {
		fail(error, -EINVAL, "\"%s\" is no URL (%s)", text, curl_url_strerror(code));
	} else if (!url_has_scheme(text, "https") && !url_has_scheme(text, "http")) {
		fail(error, -EINVAL, "a hub's URL begins with https:// (or http:// on this machine)");
	} else {
		/* Requests go to the origin as it is written, which must be the same place: a host
		 * that is given in codes, which are decoded once more then, may be another. */
		CLEANUP_FREE char *again = origin ? read_origin(origin, &code) : NULL;

		if (again && strcmp(again, origin) == 0)
			return origin;
		fail(error, -EINVAL, "\"%s\" is no URL (its host has no name)", text);
	}
	free(origin);
	return NULL;
}

static bool has_part(CURLU *url, CURLUPart what)
{
	CLEANUP_FREE char *text = part(url, what, 0);

	return text && *text;
}

char *net_origin(const char *text, char **error)
{
	char *origin = url_origin(text, error);
	CURLU *url = curl_url();

	if (origin && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK) {
		CLEANUP_FREE char *path = part(url, CURLUPART_PATH, 0);

		if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD) ||
			has_part(url, CURLUPART_QUERY) || has_part(url, CURLUPART_FRAGMENT) ||
			(path && *path && strcmp(path, "/") != 0)) {
			fail(error, -EINVAL,
				"a hub's URL is only scheme, host and port, as in %s", origin);
			free(origin);
			origin = NULL;
		}
	}
	curl_url_cleanup(url);
	return origin;
}

bool net_same_origin(const struct net *net, const char *url)
{
	CLEANUP_FREE char *origin = url_origin(url, NULL);

	return origin && strcmp(origin, net->origin) == 0;
}

/* ---- proxies ---- */

static bool is_set(const char *variable)
{
	const char *value = getenv(variable);

	return value && *value;
}

/* The variables that libcurl takes a proxy from (its manual, "ENVIRONMENT"). */
static bool has_proxy(const char *scheme)
{
	if (strcmp(scheme, "https") == 0 ? is_set("https_proxy") || is_set("HTTPS_PROXY")
					 : is_set("http_proxy"))
		return true;
	return is_set("all_proxy") || is_set("ALL_PROXY");
}

/* In any spelling of those in NO_PROXY_HOSTS, of which a name stands for all below it as well. */
static bool is_local_host(const char *text)
{
	static const char local[] = "localhost";
	const size_t n = sizeof local - 1;
	CLEANUP_FREE char *host = xstrdup(text[0] == '[' ? text + 1 : text);
	size_t len = strcspn(host, "]");
	struct in_addr v4;
	struct in6_addr v6;

	while (len > 0 && host[len - 1] == '.')
		len--;
	host[len] = '\0';
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6);
	return len >= n && strcasecmp(host + len - n, local) == 0 &&
		(len == n || host[len - n - 1] == '.');
}

bool url_goes_by_proxy(const char *text)
{
	CURLU *url = curl_url();
	bool by_proxy = false;

	if (text && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK) {
		CLEANUP_FREE char *scheme = part(url, CURLUPART_SCHEME, 0);
		CLEANUP_FREE char *host = part(url, CURLUPART_HOST, 0);

		by_proxy = scheme && host && has_proxy(scheme) && !is_local_host(host);
	}
	curl_url_cleanup(url);
	return by_proxy;
}

/* ---- addresses ---- */

static bool is_private_4(uint32_t a)
{
	return a >> 24 == 0 || a >> 24 == 10 || a >> 24 == 127 || a >> 20 == (172 << 4 | 1) ||
		a >> 16 == (192 << 8 | 168) || a >> 16 == (169 << 8 | 254) ||
		a >> 22 == (100 << 2 | 1) || a >> 28 >= 14;
}

static bool is_private_6(const struct in6_addr *a)
{
	const unsigned char *b = a->s6_addr;

	if (IN6_IS_ADDR_V4MAPPED(a) || IN6_IS_ADDR_V4COMPAT(a))
		return is_private_4((uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 |
			(uint32_t)b[14] << 8 | b[15]);
	return IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_LINKLOCAL(a) ||
		IN6_IS_ADDR_MULTICAST(a) || (b[0] & 0xfe) == 0xfc;
}

bool address_is_private(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return is_private_4(ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr));
	if (address->sa_family == AF_INET6)
		return is_private_6(&((const struct sockaddr_in6 *)address)->sin6_addr);
	return true;
}

/* The address that an origin's host is written as. A name is none, even if it begins like one: what
 * 127.0.0.1.example.com leads to is for its owner to say. */
static bool written_address(const char *origin, struct sockaddr_storage *out)
{
	const char *begin = strstr(origin, "://") + 3;
	const bool brackets = *begin == '[';

	begin += brackets;
	CLEANUP_FREE char *host = xstrndup(begin, strcspn(begin, brackets ? "]" : ":"));
	*out = (struct sockaddr_storage){.ss_family = brackets ? AF_INET6 : AF_INET};
	return inet_pton(out->ss_family, host,
		       brackets ? (void *)&((struct sockaddr_in6 *)out)->sin6_addr
				: (void *)&((struct sockaddr_in *)out)->sin_addr) == 1;
}

bool url_is_loopback_origin(const char *origin)
{
	const char *host = strstr(origin, "://") + 3;
	struct sockaddr_storage a;

	if (strcmp(host, "localhost") == 0 || strncmp(host, "localhost:", 10) == 0)
		return true;
	if (!written_address(origin, &a))
		return false;
	return a.ss_family == AF_INET
		? ntohl(((struct sockaddr_in *)&a)->sin_addr.s_addr) >> 24 == 127
		: IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&a)->sin6_addr);
}

bool url_is_private_origin(const char *origin)
{
	struct sockaddr_storage a;

	return url_is_loopback_origin(origin) ||
		(written_address(origin, &a) && address_is_private((struct sockaddr *)&a));
}

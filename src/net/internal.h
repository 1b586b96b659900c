/*
 * internal.h - what the files of net share. Not for other folders.
 */
#ifndef NET_INTERNAL_H
#define NET_INTERNAL_H

#include "base/buf.h"
#include "base/list.h"
#include "net/net.h"
#include <curl/curl.h>

/* Calls of one kind that may run at once; the others wait, without a connection. Lanes of their own
 * keep downloads from starving polls, and pictures fetched ahead from starving those that are read. */
struct lane {
	int running, max; /* max 0: no limit */
	struct list waiting; /* net_call.queued */
};

enum { SPARE_HANDLES = 4 };

/* CALL_AHEAD: a picture before anybody asks for it. CALL_PROBE: the small question for a picture's
 * size, on which its request's success depends. */
enum call_kind { CALL_API, CALL_POST, CALL_PICTURE, CALL_AHEAD, CALL_PROBE, CALL_KINDS };

struct net {
	CURLM *multi;
	struct lane lanes[CALL_KINDS];
	struct net_config config; /* strings owned */
	char *origin;
	bool hub_is_local;	/* on a loopback, link-local or private address */
	struct curl_slist *bearer; /* the Authorization header, or NULL */
	struct list calls;
	int running;
	CURL *spare[SPARE_HANDLES]; /* of API calls that are over: polls make hundreds a second */
	int n_spare;
};

/* One transfer. */
struct net_call {
	struct list link;
	struct net *net;
	enum call_kind kind;
	CURL *easy;
	struct list queued; /* in its lane, while it waits */
	bool started;
	char error[CURL_ERROR_SIZE];
	struct buf body;
	struct curl_slist *headers;
	int64_t retry_after_ms;
	bool idempotent;

	/* POST */
	curl_mime *mime;
	char *json;
	int connections; /* how often the request was about to be written: libcurl calls the guard
			  * before every request, so 0 means that no byte of it has left */
	bool second_try; /* the guard ended a second one */

	/* API */
	net_done_fn *done;
	int64_t asked_ms;

	/* pictures */
	net_data_fn *data;
	net_picture_done_fn *picture_done;
	int64_t first, limit, total, received;
	bool too_large, ended, enough, forbidden_address;

	void *arg;
};

/* url.c */
char *url_origin(const char *url, char **error); /* "https://host[:port]" */
bool url_is_loopback_origin(const char *origin);
/* By its spelling: a name that resolves to a private address counts as public, the safe side. */
bool url_is_private_origin(const char *origin);
bool url_has_scheme(const char *url, const char *scheme);
/* Whether libcurl asks a proxy of the environment for it, all but NO_PROXY_HOSTS going by one. */
bool url_goes_by_proxy(const char *url);
#define NO_PROXY_HOSTS "localhost,127.0.0.1,::1"

/* net.c */
struct net_call *call_create(struct net *net, enum call_kind kind, const char *url, void *arg);
/* Hands it to the multi handle; done comes later, an immediate failure too. */
void call_start(struct net_call *call);
/* Starts it when its lane has room, else leaves it there. */
void call_queue(struct net_call *call);
void call_free(struct net_call *call);
/* CURLOPT_HEADERFUNCTION: a line of an answer's head, not ended by a NUL. */
size_t header_seen(char *line, size_t size, size_t count, void *call);

/* api.c: a call of the API, not started. */
struct net_call *api_call(struct net *net, enum call_kind kind, const char *path, net_done_fn *done,
	void *arg);
void api_add_key(struct net_call *call);

/* post.c: the guard, CURLOPT_PREREQFUNCTION. */
int post_before_request(void *call, char *ip, char *local_ip, int port, int local_port);

/* api.c, picture.c: the end of a transfer; they call the caller's done and free the call. */
void api_finished(struct net_call *call, CURLcode code);
void picture_finished(struct net_call *call, CURLcode code);

/* What a failed transfer was, and its words. Owned. */
enum outcome outcome_of(const struct net_call *call, CURLcode code);
char *message_of(const struct net_call *call, CURLcode code);

/* url.c: whether a hub that is out on the internet may make us connect there. */
struct sockaddr;
bool address_is_private(const struct sockaddr *address);

#endif

/*
 * net.h - the hub client: API calls and picture downloads. The only folder that sees libcurl.
 *
 *	struct net *net = net_create(&config, &error);
 *	struct net_call *call = net_post_order(net, &order, refs, n, key, done, arg, &error);
 *	net_post_send(call);
 *	for (;;) net_run(net, timeout_ms);	calls `done` and `data` from here
 *	net_destroy(net);
 *
 * One struct net owns one CURLM and belongs to one thread (the engine's): every function but
 * net_wake() is called from that thread. A call's callbacks run inside net_run(); they may start
 * and cancel calls, this one included. `done` comes exactly once for every call that was started
 * and not cancelled; after it the call's pointer is dead.
 *
 * The rules of money and of secrets, held here and nowhere else:
 *  - The paid POST goes over HTTP/1.1 on a fresh connection that is not reused afterwards, follows
 *    no redirect, and a PREREQFUNCTION aborts a second try: libcurl re-sends a POST by itself when
 *    a reused connection dies unanswered (measured on 7.88.1). reply.sent says whether any byte of
 *    the request may have left; it is false only when that is certain.
 *  - The key goes to the hub's own origin, over https (or http to loopback) and nowhere else: never
 *    to picture URLs, never over a redirect. API calls follow no redirects at all.
 *  - Picture URLs: http and https only, at most 3 redirects (each of those schemes), no credentials,
 *    no cookies, no netrc, no Referer. A hub on a public address gives no picture on loopback,
 *    link-local or private addresses unless the hub itself is on such an address (a hub must not
 *    make this machine fetch from its own network).
 *  - API answers are cut off at WIRE_BODY_MAX; pictures at config.picture_max. Bytes are counted, as
 *    CURLOPT_MAXFILESIZE does not stop a server that lies.
 *  - Every call has a connect limit (10 s), a low-speed limit and, for API calls, a total limit, so
 *    that every call ends.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/util.h"
#include "wire/wire.h"
#include <sys/types.h>

struct net;
struct net_call;

struct net_config {
	const char *hub;	/* base URL, "https://www.gptimagehub.com"; no path, query or user */
	const char *key;	/* NULL: none */
	int64_t picture_max;	/* bytes of one picture; 0: 256 MiB */
	int64_t stall_ms;	/* no byte for so long ends a call; 0: 30 s */
	int64_t api_total_ms;	/* an API call but the POST ends by then; 0: 60 s */
	int64_t post_total_ms;	/* the POST's limit; 0: 820 s, as a hub may answer after 800 s */
	int picture_connections; /* most connections at once for pictures that somebody waits for;
				  * 0: 32, as a few that stall must not keep the others waiting */
};

/* NULL with *error: bad URL, plain http to a host that is not loopback while there is a key. */
struct net *net_create(const struct net_config *config, char **error);
void net_destroy(struct net *net); /* ends running calls without calling done; accepts NULL */

/* Checks a hub URL without creating anything and returns its canonical origin, owned
 * ("https://host", port only when not the scheme's own), or NULL with *error. */
char *net_origin(const char *url, char **error);
/* Whether url's origin is the hub's own. */
bool net_same_origin(const struct net *net, const char *url);

/* Waits up to timeout_ms (-1: for ever) for network events or net_wake(), then does what is due. */
void net_run(struct net *net, int timeout_ms);
void net_wake(struct net *net); /* any thread: makes net_run return soon */

/* ---- API calls ---- */

struct net_reply {
	enum outcome outcome;
	int http;		/* status; 0 without one */
	bool sent;		/* a byte of the request may have left this machine */
	char *body;		/* the answer as received, NUL-terminated; "" if none. Borrowed. */
	size_t body_len;
	const char *message;	/* for people, without secrets: the hub's own error message or the
				 * network's ("could not connect to 127.0.0.1 port 9: refused").
				 * Never NULL when outcome is not OUTCOME_OK. Borrowed. */
	int64_t retry_after_ms;	/* from Retry-After (seconds or a date), capped at 1 h; -1: none */
	bool idempotent;	/* the hub announced `Idempotency: supported` in this answer */
	int64_t asked_ms;	/* monotonic: when the call began */
};

typedef void net_done_fn(void *arg, const struct net_reply *reply);

/* A reference picture to send: a file of ours, whose type was decided by its content. */
struct net_reference {
	const char *path; /* read while the call runs; must stay */
	const char *name; /* file name told to the hub, ASCII */
	const char *mime; /* "image/png" … */
};

/* The paid POST, made ready: nothing leaves before net_post_send(), and net_cancel() lets it drop
 * until then. async decided by order->async. idempotency_key goes out as Idempotency-Key. Everything
 * given is copied; the files of references are read during the call. NULL with *error when one of
 * them is not there. */
struct net_call *net_post_order(struct net *net, const struct order *order,
	const struct net_reference *references, size_t n_references, const char *idempotency_key,
	net_done_fn *done, void *arg, char **error);
void net_post_send(struct net_call *call);
/* GET /api/v1/generations/:id. poll_url is used when its origin is the hub's own, else ignored. */
struct net_call *net_get_generation(struct net *net, const char *id, const char *poll_url,
	net_done_fn *done, void *arg);
struct net_call *net_get_models(struct net *net, net_done_fn *done, void *arg);
struct net_call *net_get_credits(struct net *net, net_done_fn *done, void *arg);

/* ---- pictures ---- */

struct net_picture_reply {
	enum outcome outcome;	/* OK for 200 and 206 whose announced length was received in full */
	int http;
	bool expired;		/* 401, 403, 404 or 410, or nobody is there (a hub that has moved, as
				 * that of --local does at each mount): ask it for a fresh URL */
	int64_t total;		/* the whole picture's bytes (Content-Range or Content-Length of a
				 * 200); -1 when the server did not say */
	int64_t received;	/* bytes handed to `data` */
	bool ranged;		/* the answer was 206 */
	const char *message;	/* as above */
	int64_t retry_after_ms;
};

/* Gets bytes as they arrive; total as above, known from the first call on. Return false to end the
 * download (done then gets OUTCOME_LOCAL). Never more than total or picture_max bytes in all. */
typedef bool net_data_fn(void *arg, const void *bytes, size_t len, int64_t total);
typedef void net_picture_done_fn(void *arg, const struct net_picture_reply *reply);

/* Downloads a picture. first > 0 asks for the range from there on (a resumed download);
 * limit > 0 asks for at most so many bytes (a probe: `Range: bytes=0-(limit-1)`; when the server
 * ignores the range and answers 200, the transfer is ended after limit bytes, with OUTCOME_OK,
 * total from Content-Length). Nobody waits for one fetched ahead: it does not take the place of
 * another. */
enum net_urgency { NET_WANTED, NET_AHEAD };
struct net_call *net_get_picture(struct net *net, enum net_urgency urgency, const char *url,
	int64_t first, int64_t limit, net_data_fn *data, net_picture_done_fn *done, void *arg);
/* Somebody waits for it now. */
void net_hurry(struct net_call *call);

/* Pauses or continues a picture's transfer (readers too slow, the disk is full). */
void net_pause(struct net_call *call, bool paused);
/* Ends a call; its callbacks are not called any more. Not for a POST that was sent: once it may have
 * left, only its answer settles it. */
void net_cancel(struct net_call *call);

/* Calls under way, for tests and /control. */
int net_running(const struct net *net);

#endif

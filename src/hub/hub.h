/*
 * hub.h - imagehubd as a whole: a store, workers with a provider, an HTTP server.
 *
 *	struct hub *h = hub_create(&config, store, &error);	binds the address
 *	hub_url(h)						where it listens
 *	hub_run(h, stop_fd);					until stop_fd is readable
 *	hub_destroy(h);
 *
 * Threads: MHD's own (http.c), the workers (workers.c), the store's writer, a sweeper that holds
 * connections to their deadlines (conns.c); hub_run()'s own ends waits that are too long. A request
 * that waits (for a commit, for a generation's end) is suspended and holds no thread.
 */
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include "hub/provider.h"
#include "hub/store.h"

struct hub;

/* What the tests tell the workers, by options and never by a prompt's text. */
struct hub_trouble {
	int delay_ms;	/* each picture takes so long at least */
	int fail_every; /* every so many generations fail; 1: all; 0: none */
	bool fewer;	/* one picture fewer than ordered (an order of one gets none) */
	bool hold;	/* nothing leaves the queue */
};

struct hub_config {
	const char *listen;	/* "127.0.0.1:8787"; port 0: any free one */
	const char *public_url; /* begins the URLs in answers; NULL: http:// and the Host header */
	int workers;
	int wait_max_ms; /* a call without `async` waits so long at most, then is answered 202 */
	struct hub_trouble trouble;
};

struct hub *hub_create(const struct hub_config *config, struct store *store,
	struct provider *provider, char **error);
const char *hub_url(const struct hub *h);
/* Serves until stop_fd is readable (or at its end), then finishes what is being answered. */
void hub_run(struct hub *h, int stop_fd);
void hub_destroy(struct hub *h);

#endif

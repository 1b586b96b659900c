/*
 * workers.h - the threads that take queued generations and have the provider make them.
 *
 * The queue is the database. A picture is a durable file before the transaction that makes its
 * generation a success.
 */
#ifndef HUB_WORKERS_H
#define HUB_WORKERS_H

#include "hub/hub.h"

struct workers;

/* ended(arg, id): a generation has got its final state; called on a worker's thread. */
struct workers *workers_start(struct store *store, struct provider *provider, int count,
	const struct hub_trouble *trouble, void (*ended)(void *arg, const char *id), void *arg);
void workers_wake(struct workers *w); /* the queue has one more; any thread */
/* Lets them finish what they have in hand; the rest stays queued for the next start. */
void workers_stop(struct workers *w);

#endif

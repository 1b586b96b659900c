/*
 * embedded.h - the hub inside of `imagehubfs --local`: a private imagehubd on a loopback port of its
 * own, its data in the profile's state.
 *
 *	status = embedded_start(state, options, n, &e, &error)	before any thread: forks
 *	… e.url, e.key …
 *	embedded_watch(&e)					a thread
 *	embedded_stop(&e)
 *
 * It ends with this process however that ends: its standard input is a pipe that only we hold. What it
 * has to say stands in STATE/hub.log, which each start begins anew.
 */
#ifndef LOCAL_EMBEDDED_H
#define LOCAL_EMBEDDED_H

#include "base/util.h"
#include "local/options.h"
#include <pthread.h>
#include <sys/types.h>

enum { EMBEDDED_ARGS = LOCAL_OPTIONS_MAX + 8 };

struct embedded {
	char *url, *key;
	char *program, *data;
	const char *argv[EMBEDDED_ARGS];
	pid_t pid;	/* the watcher's while it runs; 0: it has ended, as is input then */
	int input;	/* our end of its standard input */
	int log;
	int stop;	/* tells the watcher to end */
	bool watched;
	pthread_t watcher;
};

/* Provisions it at the first start (an account `local` with 1,000 credits, a key kept in
 * STATE/local-key). options go before `serve`. STATUS_OK or STATUS_NO_LOCAL_HUB with *error. */
int embedded_start(const char *state, const char *const *options, int n, struct embedded *e,
	char **error);
/* Starts it again, on the same port, when it ends before embedded_stop(). */
void embedded_watch(struct embedded *e); /* accepts one that was not started */
void embedded_stop(struct embedded *e); /* accepts one that was not started */

#endif

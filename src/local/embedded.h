/*
 * embedded.h - the hub inside of `imagehubfs --local`: a private imagehubd on a loopback port of its
 * own, its data in the profile's state.
 *
 *	status = embedded_start(state, options, n, &e, &error)	before any thread: forks
 *	… e.url, e.key …
 *	embedded_stop(&e)
 *
 * It ends with this process however that ends: its standard input is a pipe that only we hold.
 */
#ifndef LOCAL_EMBEDDED_H
#define LOCAL_EMBEDDED_H

#include "base/util.h"
#include <sys/types.h>

struct embedded {
	char *url, *key;
	pid_t pid;
	int input; /* our end of its standard input */
};

/* Provisions it at the first start (an account `local` with 1,000 credits, a key kept in
 * STATE/local-key). options go before `serve`. foreground: it may go on writing to our stderr, which
 * otherwise ends with the start. STATUS_OK or STATUS_NO_LOCAL_HUB with *error. */
int embedded_start(const char *state, const char *const *options, int n, bool foreground,
	struct embedded *e, char **error);
void embedded_stop(struct embedded *e); /* accepts one that was not started */

#endif

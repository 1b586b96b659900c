/*
 * background.h - going to the background without losing what start-up has to say.
 *
 *	status = background_begin(&b)	>= 0: this is the parent, and that is its exit status
 *	… start up, saying errors to stderr …
 *	background_ready(&b)		the parent exits 0; this process leaves the terminal
 *	(ending without that: the parent exits with this process' status)
 *
 * Before any thread.
 */
#ifndef LOCAL_BACKGROUND_H
#define LOCAL_BACKGROUND_H

#include "base/util.h"

struct background {
	int pipe; /* -1: staying in the foreground, or done */
};

int background_begin(struct background *b);
void background_ready(struct background *b);

#endif

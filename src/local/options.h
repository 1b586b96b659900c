/*
 * options.h - the command line of imagehubfs.
 */
#ifndef LOCAL_OPTIONS_H
#define LOCAL_OPTIONS_H

#include "base/util.h"

enum { LOCAL_OPTIONS_MAX = 32, OPTIONS_READ_AHEAD = 8, OPTIONS_READ_AHEAD_MAX = 64 };

struct options {
	const char *mountpoint;
	const char *hub;	 /* NULL: the hosted hub, or the embedded one with local */
	const char *key_file, *profile, *state, *cache;
	char *fuse_options;	 /* what followed each -o, with commas between; owned */
	int64_t cache_max;	 /* bytes; 0: no limit */
	int64_t max_spend;	 /* -1: no limit */
	int64_t settle_ms;
	int64_t read_ahead; /* pictures; 0: none */
	bool local, eager, foreground, debug, verify_cache;
	const char *local_options[LOCAL_OPTIONS_MAX]; /* for the embedded hub */
	int n_local_options;
};

#define OPTIONS_HOSTED_HUB "https://www.gptimagehub.com"

/* -1: go on; otherwise the exit status, everything being said. Strings are borrowed from argv,
 * but for the one that is the caller's to free. */
int options_parse(int argc, char **argv, struct options *o);

#endif

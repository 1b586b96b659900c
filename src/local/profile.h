/*
 * profile.h - where a profile keeps its things, and its key.
 */
#ifndef LOCAL_PROFILE_H
#define LOCAL_PROFILE_H

#include "local/options.h"

struct profile {
	char *name;
	char *state; /* directory, 0700, absolute */
	char *cache;
};

/* The profile's directories (XDG base directories, --state, --cache), made when missing. An exit
 * status with *error on failure, STATUS_OK otherwise. */
int profile_find(const struct options *o, struct profile *p, char **error);
void profile_release(struct profile *p);

/* The key: --key-file, $CREDENTIALS_DIRECTORY/imagehub-key, $IMAGEHUB_API_KEY,
 * $XDG_CONFIG_HOME/imagehubfs/key. STATUS_NO_KEY with three lines in *error when there is none,
 * STATUS_KEY_EXPOSED when others can read the file. */
int profile_key(const struct options *o, char **key, char **error);

#endif

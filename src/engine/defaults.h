/*
 * defaults.h - the defaults.yaml files that a prompt draws in: of its folder and of those above it,
 * nearest first.
 *
 *	struct defaults *d = xcalloc(1, sizeof *d);
 *	rc = defaults_read(cat, folder, d, &error);
 *	… prompt_parse(&file, d->sources, d->count, …) …
 *	defaults_release(d); free(d);
 *
 * Errors call them as they are seen from the prompt: "../defaults.yaml:2:1: …". Any thread.
 */
#ifndef ENGINE_DEFAULTS_H
#define ENGINE_DEFAULTS_H

#include "base/buf.h"
#include "catalogue/tree.h"
#include "prompt/prompt.h"

enum { DEFAULTS_LEVELS = 32, DEFAULTS_MAX = 64 * 1024 };

struct defaults {
	struct prompt_source sources[DEFAULTS_LEVELS];
	int64_t folders[DEFAULTS_LEVELS]; /* what their reference names are relative to */
	char *labels[DEFAULTS_LEVELS];
	struct buf texts[DEFAULTS_LEVELS];
	size_t count;
};

/* A symlink inside /requests is followed. -EINVAL with *error for one that leads nowhere or out of
 * /requests, and for more than DEFAULTS_MAX bytes: a prompt that goes without settings that are
 * there is another prompt. -EINPROGRESS while one is being written. */
int defaults_read(struct catalogue *cat, int64_t folder, struct defaults *d, char **error);
void defaults_release(struct defaults *d);

#endif

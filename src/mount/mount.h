/*
 * mount.h - the file system: FUSE on one side, catalogue and engine on the other. The only folder
 * that sees libfuse.
 *
 *	struct mount *m = mount_create(&config, &error);	before any thread: forks the notifier's
 *								helper, then mounts
 *	struct engine_events events = mount_events(m);
 *	… engine_create(…, &events), engine_start …
 *	mount_run(m, cat, engine);	FUSE workers until unmount or a signal
 *	… engine_stop …
 *	mount_destroy(m);
 *
 * Threads: FUSE workers (mount_run), the notifier's thread (deadlines of parked requests, messages
 * to the helper process). Every operation resolves its node, calls one function of the catalogue or
 * the engine, and replies exactly once. What must wait is parked (park.h) without holding a worker.
 */
#ifndef MOUNT_MOUNT_H
#define MOUNT_MOUNT_H

#include "base/util.h"
#include "catalogue/catalogue.h"
#include "engine/engine.h"

struct mount;

struct mount_config {
	const char *mountpoint;
	const char *program;	/* argv[0] */
	const char *options;	/* what followed -o, comma-separated; may be NULL */
	const char *hub;	/* shown in README.txt and as the mount's source (origin only) */
	const char *profile;	/* shown in README.txt */
	bool local;		/* the hub is the embedded one */
	bool debug;		/* libfuse's own trace */
};

/* Distinct failures, each with one clear line in *error and *status (an exit status, sysexits-like:
 * see doc/imagehubfs.1): no /dev/fuse, fusermount3 missing, mount point missing, not a directory, not
 * this user's, not empty, busy (mounted already). A stale mount of our own type is cleaned first. */
struct mount *mount_create(const struct mount_config *config, int *status, char **error);
/* The mount point as an absolute path, borrowed. */
const char *mount_path(const struct mount *m);
struct engine_events mount_events(struct mount *m);
/* Returns 0 after an unmount or SIGINT/SIGTERM/SIGHUP. ready (may be NULL) is called once when the
 * kernel's INIT was answered and the mount can be used. */
int mount_run(struct mount *m, struct catalogue *cat, struct engine *e, void (*ready)(void *),
	void *arg);
void mount_destroy(struct mount *m); /* unmounts when still mounted; accepts NULL */

#endif

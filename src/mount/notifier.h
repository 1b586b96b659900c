/*
 * notifier.h - tells the world about names that appear without a call of its own, and keeps time.
 *
 * The kernel makes no inotify event for what a FUSE daemon changes by itself. So a helper process
 * makes real calls on the mount: it creates the name that has just become real (IN_CREATE,
 * IN_CLOSE_WRITE), makes the folder of a new generation, opens a status that has changed for writing
 * and closes it (IN_CLOSE_WRITE). First of all it looks at the two large folders, so that the kernel
 * knows the way to them. The file system knows it by its pid and answers at once. The helper
 * is forked before the mount and before any thread, has no /dev/fuse descriptor, and is expendable:
 * nothing waits for it, and without it names become visible all the same. What it is told waits in
 * order while it is busy.
 *
 * Until its announcement a new name is not there for anybody else, for NOTIFIER_OVERDUE_MS at most. On
 * a slow disk a name can be older than that when its transaction is over: it is announced all the same,
 * as for the helper it is not there before.
 * The names by which a close that failed is explained are there at once.
 *
 *	n = notifier_create(path)		forks: before the mount, before any thread
 *	notifier_start(n, m)			its thread; notifier_changed() from any thread
 *	notifier_stop(n); notifier_destroy(n)
 *
 * The thread also answers parked requests whose node has changed or whose deadline has come.
 */
#ifndef MOUNT_NOTIFIER_H
#define MOUNT_NOTIFIER_H

#include "base/util.h"
#include "engine/engine.h"
#include <sys/types.h>

enum {
	NOTIFIER_OVERDUE_MS = 1000,
	NOTIFIER_NEW_MS = 10 * 1000, /* so old, a name is no longer announced as new */
};

struct notifier;
struct mount;

struct notifier *notifier_create(const char *mountpoint, char **error);
int notifier_start(struct notifier *n, struct mount *m);
void notifier_stop(struct notifier *n);	   /* ends the helper and the thread */
void notifier_destroy(struct notifier *n); /* accepts NULL */

/* Something changed: any thread, never waits. */
void notifier_changed(struct notifier *n, const struct engine_event *event);
/* A deadline was added to the park: look at it. Any thread. */
void notifier_poke(struct notifier *n);

bool notifier_is_helper(const struct notifier *n, pid_t pid);
/* The helper has made its call for a name; or it must be visible now for another reason. */
void notifier_announced(struct notifier *n, uint64_t parent, uint64_t ino);
bool notifier_is_announced(struct notifier *n, uint64_t parent, uint64_t ino);
/* The helper was told to make the call, and has not yet. */
bool notifier_is_to_come(struct notifier *n, uint64_t parent, uint64_t ino);
/* Whether names wait for the helper at all. */
bool notifier_works(const struct notifier *n);

#endif

/*
 * catalogue.h - the state directory: what is known here, durably. All SQL of imagehubfs is in this
 * folder.
 *
 *	struct catalogue *cat = catalogue_open(state_dir, &error);
 *	… tree.h, file.h, request.h, generation.h, derived.h …
 *	catalogue_close(cat);
 *
 * The state directory (0700) holds
 *	catalogue.db	SQLite: the tree of /requests, requests, generations, images, log, settings
 *	spool/ID	the content of the regular file with node id ID
 *	refs/KEY/K.EXT	the reference pictures of a request as they were at its commit
 *	lock		held exclusively while a process has it open
 *
 * The catalogue *is* the file system: /requests is a tree of rows, so a rename that makes a prompt
 * due for its commit is one transaction, and nothing can drift apart. A file's size and times are
 * its spool file's own (fstat), so they cannot drift from the content either.
 *
 * A close(2) of a small prompt is durable by the database alone, which keeps its content until the
 * spool is on the disk (promise.c); after a power loss catalogue_open() holds the spool against it.
 *
 * What a crash leaves: a row without its spool file (an empty file; mended at the next open), a
 * spool file or refs folder without its row (removed by catalogue_open and catalogue_tidy), nodes
 * that were unlinked while open (removed by catalogue_open). Never a half-made transition.
 *
 * Threads: every function of this folder may be called from any thread; each takes the database's
 * lock for its duration. Several calls become one transaction between catalogue_begin() and
 * catalogue_end(), which hold that lock. Lock order: file.c's own lock is taken inside it, never
 * around it.
 *
 * Errors: 0 (or a count, as told) or a negative errno: -ENOENT not there, -EEXIST, -ENOTDIR,
 * -EISDIR, -ENOTEMPTY, -ENAMETOOLONG, -ENOSPC, -EIO (logged).
 */
#ifndef CATALOGUE_CATALOGUE_H
#define CATALOGUE_CATALOGUE_H

#include "base/util.h"
#include "db/db.h"
#include "wire/wire.h"

struct catalogue;

/* Creates the directory when it is missing, locks it, opens and migrates the database, removes
 * what a crash left. A copy with something unsent in it is paused. NULL with *error; when another process holds the lock for longer than it
 * takes to end after an unmount, *error names its pid and *busy (may be NULL) is set. */
struct catalogue *catalogue_open(const char *dir, bool *busy, char **error);
/* Closing is near: who wants to open it waits for that instead of being told that it is in use. */
void catalogue_ending(struct catalogue *cat);
void catalogue_close(struct catalogue *cat); /* accepts NULL */
/* Goes on for so long with what catalogue_open() had no time for: files of a large spool that have no row,
 * after a close that was not clean. True when nothing is left. One thread at a time. */
bool catalogue_tidy(struct catalogue *cat, int64_t most_ms);

void catalogue_begin(struct catalogue *cat, enum db_durability durability);
/* Commits when rc is 0, else rolls back. Returns rc, or the commit's own error. */
int catalogue_end(struct catalogue *cat, int rc);

/* Makes durable what was committed so far. Not in a transaction. */
int catalogue_sync(struct catalogue *cat);

/* Settings: small texts by name ("hub", "paused", "idempotent", "models", …). */
#define CATALOGUE_COPIED "copied" /* a value of "paused": the state is a copy with something unsent */
char *catalogue_setting(struct catalogue *cat, const char *name); /* owned, NULL when not set */
int catalogue_set(struct catalogue *cat, const char *name, const char *value); /* NULL unsets */

/* The hub's models as last read: the raw body is kept as the setting "models". */
int catalogue_models_save(struct catalogue *cat, const char *raw_json, int64_t as_of_ms);
/* *out is empty (count 0) and *as_of_ms 0 when none are known. */
int catalogue_models_load(struct catalogue *cat, struct wire_models *out, int64_t *as_of_ms);
int catalogue_balance_save(struct catalogue *cat, const struct wire_balance *b, int64_t as_of_ms);
int catalogue_balance_load(struct catalogue *cat, struct wire_balance *out, int64_t *as_of_ms);

/* Bytes and inodes of the file system that holds the state, for statfs. */
struct statvfs;
int catalogue_statvfs(struct catalogue *cat, struct statvfs *out);
/* Rows changed since opening, for tests that show that nothing is written while nothing changes. */
int64_t catalogue_changes(struct catalogue *cat);
/* Steps of full table scans since opening, for tests that show that cost does not grow with what is
 * long done. */
int64_t catalogue_scanned(struct catalogue *cat);
/* The state directory's descriptor, borrowed; for refs/. */
int catalogue_dirfd(struct catalogue *cat);

#endif

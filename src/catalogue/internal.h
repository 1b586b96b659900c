/*
 * internal.h - what the files of the catalogue share. Not for other folders.
 */
#ifndef CATALOGUE_INTERNAL_H
#define CATALOGUE_INTERNAL_H

#include "catalogue/catalogue.h"
#include "catalogue/tree.h"
#include <dirent.h>
#include <pthread.h>

struct catalogue {
	struct db *db;
	int dir;   /* the state directory */
	int spool; /* spool/ */
	int refs;  /* refs/ */
	int lock;  /* the directory's lock */
	DIR *untidy; /* spool/, while it is swept: see catalogue_tidy() */

	pthread_mutex_t files_lock; /* file.c's; a leaf, taken inside the database's lock */
	void *open_files;	    /* tsearch(3): struct open_file by node, under files_lock */
};

extern const char *const schema_migrations[];
extern const int schema_count;

/* Nanoseconds since 1970, for the times of rows. */
int64_t now_ns(void);
struct timespec ns_to_timespec(int64_t ns);
int64_t timespec_to_ns(struct timespec t);

enum { SPOOL_NAME_SIZE = 24 };
char *spool_name(int64_t id, char name[SPOOL_NAME_SIZE]); /* returns name */

/* file.c: whether a node has handles: its row has to stay until the last of them is closed. */
bool file_is_open(struct catalogue *cat, int64_t id);
/* file.c: a file has lost its name, for good: the spool file goes now or with the last handle. Behind
 * the commit, with the database's lock still held. */
void file_unlinked(struct catalogue *cat, int64_t id);
/* file.c: durable content and name of a spool file. */
int file_make_durable(struct catalogue *cat, int64_t id);
/* file.c: a file gets a prompt's name: its content is made durable, and it is due unless a writer has
 * it open, whose close makes it due then. In the transaction that renames it. */
int file_renamed(struct catalogue *cat, int64_t id, bool *due);
/* file.c: a size is about to change without a handle of ours: counts as written. In a transaction. */
int file_changed(struct catalogue *cat, int64_t id, off_t size);
/* file.c: forgets what is open, with a last try to note what is owed; true when handles were still
 * open. At catalogue_close(). */
bool files_release(struct catalogue *cat);

/*
 * promise.c: what a close(2) promised. A small prompt's content goes into the database, in the
 * transaction that the close makes durable anyway: one sync instead of three. The spool file stays what
 * everybody reads; only after a power loss is the promise held against it.
 */
enum { PROMISE_MAX = 16 * 1024 };
/* Keeps the content of a spool file as it is now; -EFBIG when it is too large for that. */
int promise_keep(struct catalogue *cat, int64_t id, int fd);
/* The spool file changes, or is durable by itself. */
int promise_drop(struct catalogue *cat, int64_t id);
/* At a start, before anybody reads the spool: writes what a power loss has taken from it. clean: the
 * end before it was. */
int promises_check(struct catalogue *cat, bool clean);
/* At the end: many promises are kept at once, by making the spool durable. */
void promises_settle(struct catalogue *cat);

/* tree.c: touches a directory's mtime and ctime. */
int tree_touch_dir(struct catalogue *cat, int64_t dir);
/* tree.c: deletes a row that has no name any more, with its xattrs. */
int tree_delete_row(struct catalogue *cat, int64_t id);
int tree_check_name(const char *name);
/* path.c: 1 when a node is `ancestor` or somewhere below it, else 0. */
int tree_is_below(struct catalogue *cat, int64_t id, int64_t ancestor);

#endif

/*
 * internal.h - what the files of the catalogue share. Not for other folders.
 */
#ifndef CATALOGUE_INTERNAL_H
#define CATALOGUE_INTERNAL_H

#include "catalogue/catalogue.h"
#include "catalogue/tree.h"
#include <pthread.h>

struct catalogue {
	struct db *db;
	int dir;   /* the state directory */
	int spool; /* spool/ */
	int refs;  /* refs/ */
	int lock;  /* the directory's lock */

	pthread_mutex_t files_lock; /* file.c's; a leaf, taken inside the database's lock */
	void *open_files;	    /* tsearch(3): struct open_file by node, under files_lock */
};

extern const char *const schema_migrations[];
extern const int schema_count;

/* Nanoseconds since 1970, for the times of rows. */
int64_t now_ns(void);
struct timespec ns_to_timespec(int64_t ns);

enum { SPOOL_NAME_SIZE = 24 };
char *spool_name(int64_t id, char name[SPOOL_NAME_SIZE]); /* returns name */

/* file.c: forgets the spool file of a removed node unless it is open; true if the row may go. */
bool file_drop(struct catalogue *cat, int64_t id);
/* file.c: durable content and name of a spool file. */
int file_make_durable(struct catalogue *cat, int64_t id);
/* file.c: a size changed without a handle of ours: counts as written. Under the database's lock. */
void file_changed(struct catalogue *cat, int64_t id);

/* tree.c: touches a directory's mtime and ctime. */
int tree_touch_dir(struct catalogue *cat, int64_t dir);
/* tree.c: deletes a row that has no name any more, with its xattrs. */
int tree_delete_row(struct catalogue *cat, int64_t id);
int tree_check_name(const char *name);

#endif

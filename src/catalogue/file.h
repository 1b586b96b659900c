/*
 * file.h - open regular files of /requests: descriptors on the spool, and who is writing.
 *
 *	file_open(cat, id, O_RDWR, &f) → pread/pwrite on file_fd(f) → file_flush() → file_close()
 *
 * The commit rule needs to know whether a writer has a file open and whether its last writer was
 * killed by a signal; that is kept here, in memory, per node. Thread-safe; the lock of this part is
 * a leaf but for the database's, inside which it is taken.
 */
#ifndef CATALOGUE_FILE_H
#define CATALOGUE_FILE_H

#include "catalogue/tree.h"

struct file;

/* flags: only the access mode counts. A missing spool file is made anew. */
int file_open(struct catalogue *cat, int64_t id, int flags, struct file **out);
int file_fd(const struct file *f); /* pread and pwrite only: the kernel gives the offsets */
int64_t file_node(const struct file *f);
bool file_writable(const struct file *f);

/* To be called before each write, truncate or fallocate through f: notes, in the row when it is the
 * first, that the file is being written, so that a crash in the middle submits nothing. */
int file_write_begin(struct file *f);
/* And after it, however it went. rc: a negative errno when bytes that should have been written are
 * not there (a full disk); such a file is not sent: see file_flush() and file_close(). */
void file_write_end(struct file *f, int rc);
/* What O_TRUNC asks for at an open. Forgets an earlier failure: what follows is written anew. */
int file_truncate(struct file *f);

/*
 * At FLUSH of a writable handle. When something was written that is not durable yet and the node's
 * name is a committable prompt's: makes content, name and row durable and sets
 * PENDING_WRITTEN. For other names nothing is synced (the rename that commits them does). killed:
 * the writer is being killed by a signal; kept until the next flush by a writer that is not.
 * Returns 1 when a prompt's new content was made durable, 0 when there was nothing to do, -ENOSPC,
 * -EIO: also at each flush behind a failed one or a failed write, until all writers have left or the
 * file is truncated.
 */
int file_flush(struct file *f, bool killed);
/* fsync(2): content, name and row durable. */
int file_sync(struct file *f);

/*
 * At RELEASE. Frees f. When it was the last writer of a prompt that was written, the row becomes
 * PENDING_CLOSED, or a draft with a note when the last writer was killed or was told of a failure.
 * *due is also set when the last writer wrote nothing and the row was PENDING_CLOSED before. Removes
 * an unlinked node after its last handle.
 */
struct file_closed {
	bool due;   /* a commit should be looked at, after the settle time */
	bool draft; /* there is a draft note now */
	bool last_writer;
};
void file_close(struct file *f, struct file_closed *closed);
/* Before a commit is looked at: a close that could not be noted when it happened (a full disk) is
 * noted now. 0 when nothing is owed any more. */
int file_settle(struct catalogue *cat, int64_t id, struct file_closed *closed);

/* Whether any handle for writing is open on the node. */
bool file_has_writer(struct catalogue *cat, int64_t id);
/* Whether a writer has it open and has changed it since anybody closed it (whose RELEASE comes behind
 * close(2)). */
bool file_is_midway(struct catalogue *cat, int64_t id);
/* Whether a live writer has changed it and has not left yet (or its leaving is not noted yet). */
bool file_is_changing(struct catalogue *cat, int64_t id);
/* The content of a file up to a cap into out (-EFBIG beyond it). */
int file_content(struct catalogue *cat, int64_t id, struct buf *out);
/* Opens the spool file for reading, for a snapshot or a probe; returns a descriptor, or an error. */
int file_spool_open(struct catalogue *cat, int64_t id);

#endif

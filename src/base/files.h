/*
 * files.h - durable files, whole-file reads, private directories, the lock of a directory.
 *
 * "Durable" means that when a function returns 0 the bytes and the name survive power loss.
 * Functions return 0 (or what they say) or a negative errno; any thread.
 */
#ifndef BASE_FILES_H
#define BASE_FILES_H

#include "base/buf.h"
#include "base/util.h"
#include <sys/types.h>

/* mkdir -p with mode 0700 for every part it creates, durably. The last part must be a directory of
 * the caller's: -EPERM when it belongs to another user, -ENOTDIR when it is something else. */
int files_mkdir_private(const char *path);

/* Writes all of it, going on after short writes and EINTR. */
int files_write_all(int fd, const void *bytes, size_t len);
int files_pwrite_all(int fd, const void *bytes, size_t len, off_t offset);
/* Reads up to len bytes at offset, fewer only at the end of the file; returns the count. */
ssize_t files_pread_full(int fd, void *bytes, size_t len, off_t offset);

/* Reads a whole file into out (appended); -EFBIG when it does not fit out's cap. */
int files_read(int dirfd, const char *path, struct buf *out);
int files_read_fd(int fd, struct buf *out);

/* Puts bytes under dirfd/name durably: temporary name in the same directory, fsync, rename,
 * fsync of the directory. Mode 0600. On failure the old file is untouched, unless the last step
 * alone failed: then either may survive power loss. */
int files_write_durable(int dirfd, const char *name, const void *bytes, size_t len);
int files_sync_dir(int dirfd);

/* Copies all of from into the empty file to (both at offset 0), sharing blocks where the file system can. */
int files_copy(int from, int to);

/* Takes the directory's exclusive lock (`dirfd/lock`, flock, holding our pid as text). Returns the
 * lock's descriptor, kept open as long as the lock is wanted; -EWOULDBLOCK when another process has
 * it, whose pid is then in *holder (0 if unknown). It is given wait_ms to end, or ten seconds once it
 * has said by files_lock_ending() that it does. */
int files_lock_dir(int dirfd, int wait_ms, pid_t *holder);
void files_lock_ending(int lock);

/* Puts /dev/null where standard descriptors were closed when the program was started: what is opened next
 * would be taken for stderr. First of all in main(). */
void files_hold_standard(void);

/* Path joined from two parts, owned. */
char *files_join(const char *dir, const char *name) __attribute__((returns_nonnull));

#endif

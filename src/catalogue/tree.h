/*
 * tree.h - /requests as an ordinary directory tree: rows with a parent and a name.
 *
 * The root of /requests is node TREE_ROOT and cannot be removed or renamed. Ids are never reused
 * (AUTOINCREMENT), so an inode number made of one needs no generation. Names are UTF-8, 1 to 255
 * bytes, without '/'; anything else is -EILSEQ, -EINVAL or -ENAMETOOLONG. Permissions are not
 * checked here: the kernel does that (default_permissions).
 *
 * A node unlinked while a handle is open on it loses its name and stays readable until the last
 * file_close(); tree_get() then shows st_nlink 0.
 *
 * POSIX times: creating, removing and renaming touch the parent's mtime and ctime; every change of
 * a node touches its ctime.
 */
#ifndef CATALOGUE_TREE_H
#define CATALOGUE_TREE_H

#include "catalogue/catalogue.h"
#include <sys/stat.h>

enum { TREE_ROOT = 1 };

/*
 * How far the commit rule has come with a file (DESIGN.md, section 3). Kept in its row, so that a
 * mount that was killed knows what was owed.
 */
enum pending {
	PENDING_NONE,	 /* nothing new since it was last looked at */
	PENDING_WRITTEN, /* flushed, but a writer may still have it open: after a crash, a draft */
	PENDING_CLOSED,	 /* the last writer is gone, or it was renamed: due for its commit */
};

struct node {
	int64_t id;
	int64_t parent; /* 0: the root, or unlinked */
	struct stat st; /* everything but st_dev and st_ino; st_mode has the kind */
	enum pending pending;
	int64_t request; /* the latest request made of it; 0 if none */
};

int tree_get(struct catalogue *cat, int64_t id, struct node *out);
int tree_lookup(struct catalogue *cat, int64_t parent, const char *name, struct node *out);
/* mode has the kind: S_IFREG, S_IFDIR or S_IFLNK (with target); any other is -EPERM. */
int tree_create(struct catalogue *cat, int64_t parent, const char *name, mode_t mode, uid_t uid,
	gid_t gid, const char *target, struct node *out);
/* Not for directories (-EISDIR). *removed, when not NULL, is the node as it was. */
int tree_unlink(struct catalogue *cat, int64_t parent, const char *name, struct node *removed);
int tree_rmdir(struct catalogue *cat, int64_t parent, const char *name, struct node *removed);
char *tree_readlink(struct catalogue *cat, int64_t id); /* owned; NULL when it is no symlink */

/*
 * renameat2's semantics; flags are RENAME_NOREPLACE and RENAME_EXCHANGE, other flags -EINVAL.
 * *moved is the node that now has the new name (and *other the one that was exchanged). *replaced
 * is the node that lost its name, id 0 if none. A regular file that gets a committable prompt's
 * name (tree_may_commit) by it, having had none, becomes PENDING_CLOSED in the same transaction,
 * which is then DB_FULL, its content made durable before; PENDING_WRITTEN while a writer has it open,
 * whose close then makes it due. One that loses such a name becomes PENDING_NONE.
 */
struct tree_renamed {
	struct node moved, other, replaced;
	bool due; /* moved (or other, when exchanged) became PENDING_CLOSED */
};
int tree_rename(struct catalogue *cat, int64_t parent, const char *name, int64_t new_parent,
	const char *new_name, unsigned flags, struct tree_renamed *out);

enum {
	TREE_SET_MODE = 1 << 0,
	TREE_SET_UID = 1 << 1,
	TREE_SET_GID = 1 << 2,
	TREE_SET_SIZE = 1 << 3, /* regular files; marks a prompt as changed */
	TREE_SET_ATIME = 1 << 4, /* UTIME_NOW may stand for either time's nanoseconds */
	TREE_SET_MTIME = 1 << 5,
	/* The ctime is always set to now by a change. */
};
int tree_setattr(struct catalogue *cat, int64_t id, const struct stat *st, unsigned what,
	struct node *out);
/* The same to a struct stat, but for the size. */
void tree_apply(struct stat *st, const struct stat *attr, unsigned what);

/* Calls fn for each child in the order of their names until it returns false. fn must not call
 * back into the catalogue (collect first). */
typedef bool tree_list_fn(void *arg, int64_t id, const char *name, mode_t mode);
int tree_list(struct catalogue *cat, int64_t dir, tree_list_fn *fn, void *arg);

/* Whether the folder or one above it has a name that begins with a dot. */
bool tree_is_hidden(struct catalogue *cat, int64_t dir);
/* Whether a file of that name in that folder is a prompt: names_is_prompt(), and the folder is not
 * hidden. Programs stage files in such folders, whole (.~tmp~ of rsync --delay-updates,
 * an unpacker's) or in part (rsync --partial-dir), and desktops keep their trash in one. */
bool tree_may_commit(struct catalogue *cat, int64_t parent, const char *name);
/* The path from /requests down, "requests/shoot/cat.prompt", owned; NULL when it has no name. */
char *tree_path(struct catalogue *cat, int64_t id);
/* A file's own name, owned; NULL when it has none. */
char *tree_name(struct catalogue *cat, int64_t id);
/* Follows a path from the directory dir ("../shared/logo.webp", "requests/…" only when dir is 0:
 * from the mount's root). Symlinks are followed inside /requests, at most 8; a path or link that
 * leads out of /requests is -EXDEV; an absolute one likewise. */
int tree_resolve(struct catalogue *cat, int64_t dir, const char *path, struct node *out);

int tree_set_pending(struct catalogue *cat, int64_t id, enum pending pending);
/* Nodes that are not PENDING_NONE, oldest first, after the id `after`: what a start-up must look at.
 * Fills at most max ids, returns their number. */
int tree_pending(struct catalogue *cat, int64_t after, int64_t *ids, int max);

/*
 * A draft's note: why a prompt that was written is not committed (bad front matter, its writer was
 * killed, …). err is a positive errno with which NAME.wait ends (never EINTR: readers would read
 * again), text is for people. A NULL text removes the note. *since_ms
 * is when it was made.
 */
int tree_draft_set(struct catalogue *cat, int64_t id, int err, const char *text);
int tree_draft_get(struct catalogue *cat, int64_t id, int *err, char **text, int64_t *since_ms);

/* Extended attributes of the user's own. xattr_get/list: *value owned. flags as setxattr's. */
int tree_xattr_set(struct catalogue *cat, int64_t id, const char *name, const void *value,
	size_t len, int flags);
int tree_xattr_get(struct catalogue *cat, int64_t id, const char *name, void **value, size_t *len);
int tree_xattr_list(struct catalogue *cat, int64_t id, char **names, size_t *len);
int tree_xattr_remove(struct catalogue *cat, int64_t id, const char *name);

#endif

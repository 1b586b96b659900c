/*
 * internal.h - what the files of the mount share. Not for other folders.
 *
 *	mount.c		life, the session, the table of operations
 *	mountpoint.c	where it can be mounted, and why not
 *	device.c	/dev/fuse
 *	nodes.c		inode numbers, look-up
 *	attrs.c		attributes, and how long the kernel keeps them
 *	tree.c		/requests: what changes names and attributes
 *	files.c		open files of the user's
 *	texts.c		text files: a snapshot at each open
 *	control.c	writing to /control
 *	pictures.c	reading pictures
 *	wait.c		NAME.wait
 *	dirs.c		listings
 *	away.c		the end of a mount that lives on in another namespace
 *	xattrs.c	extended attributes
 *	ghosts.c	derived names of prompts that are just being deleted with their folder
 *	removed.c	what has lost its name and is still in use
 *	park.c		requests that wait without a worker
 *	notifier.c	announcing new names, deadlines
 *	announced.c	which were announced
 *
 * Identity. An inode number is a type in the top byte and a row id below: it means the same for
 * ever, rows being never reused, so nothing is kept per inode and FORGET costs nothing (but for what
 * was removed while in use: removed.c). A picture is the same inode under /requests and under /generations.
 *
 * Locks, in the order in which they may be taken: none of the mount's is held while another is
 * taken or while the catalogue or the engine is called. libfuse calls the interrupt callback with
 * the request's own lock held; park.c says what follows.
 */
#ifndef MOUNT_INTERNAL_H
#define MOUNT_INTERNAL_H

#include "base/list.h"
#include "catalogue/derived.h"
#include "catalogue/file.h"
#include "catalogue/tree.h"
#include "engine/engine.h"
#include "mount/mount.h"
#include "mount/notifier.h"
#include "mount/park.h"
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

struct away;
struct control;
struct ghosts;

struct mount {
	struct mount_config config; /* strings owned */
	char *path;		    /* the mount point, absolute */
	struct catalogue *cat;
	struct engine *engine;
	struct fuse_session *session;
	struct park *park;
	struct notifier *notifier;
	struct ghosts *ghosts;
	struct away *away; /* while the loop runs */
	uid_t uid;
	gid_t gid;
	int64_t since_ms; /* when it was mounted: the times of what has none */
	bool mounted;
	void (*ready)(void *arg);
	void *ready_arg;

	pthread_mutex_t snapshots_lock;
	struct list snapshots; /* open texts, oldest first */
	/* Names that were removed or moved by calls on the mount: a listing made before may be old. */
	atomic_uint_fast64_t names_gone;
	pthread_mutex_t removed_lock;
	void *removed; /* tsearch(3): removed.c's */

	/* A bit for each generation whose folder gets no more names, by row: see dirs.c. */
	pthread_mutex_t complete_lock;
	uint64_t *complete;
	size_t complete_words;
};

/* ---- device.c ---- */

/* Between mounting a session and its loop. -errno. */
int device_attach(struct fuse_session *session);

/* ---- away.c ---- */

/* On the thread of the loop, before it, with the session mounted; NULL when it cannot be watched. */
struct away *away_start(struct mount *m);
/* Behind the loop; accepts NULL. Whether the mount is no longer there in this namespace. */
bool away_stop(struct away *a);
/* fuse_reply_open(), counted until away_closed(). */
int away_reply_open(struct mount *m, fuse_req_t req, const struct fuse_file_info *fi);
void away_opened(struct mount *m);
void away_closed(struct mount *m);

/* ---- nodes.c ---- */

enum ino_type {
	INO_STATIC,  /* id: enum static_node */
	INO_TREE,    /* id: node */
	INO_STATUS,  /* id: the prompt's node, for these */
	INO_WAIT,
	INO_ERROR,
	INO_GENERATION, /* id: generation row */
	INO_TEXT,	/* id: generation row × 16 + enum generation_text */
	INO_IMAGE,	/* id: image row */
	INO_MODEL,	/* id: its number in the list */
};

enum static_node {
	STATIC_ROOT = FUSE_ROOT_ID,
	STATIC_README,
	STATIC_CREDITS,
	STATIC_ACCOUNT,
	STATIC_MODELS,
	STATIC_CONTROL,
	STATIC_GENERATIONS,
};

enum generation_text {
	GTEXT_STATUS,
	GTEXT_LOG,
	GTEXT_PROMPT,
	GTEXT_REQUEST,
	GTEXT_RESPONSE,
	GTEXT_ERROR,
	GTEXT_COUNT,
};

static inline fuse_ino_t ino_make(enum ino_type type, int64_t id)
{
	return (fuse_ino_t)type << 56 | (fuse_ino_t)id;
}

static inline enum ino_type ino_type(fuse_ino_t ino)
{
	return (enum ino_type)(ino >> 56);
}

static inline int64_t ino_id(fuse_ino_t ino)
{
	return (int64_t)(ino & (((fuse_ino_t)1 << 56) - 1));
}

/* /requests itself. */
static inline fuse_ino_t ino_requests(void)
{
	return ino_make(INO_TREE, TREE_ROOT);
}

bool is_text(fuse_ino_t ino);
fuse_ino_t ino_of_derived(const struct derived *d);
const char *generation_text_name(enum generation_text text);
enum engine_text generation_text_kind(enum generation_text text);

/* A name in a directory. -ENOENT; 1 when it is an id that only the hub may know. for_helper: what
 * is still to be announced is not there, though others may see it. */
int node_find(struct mount *m, fuse_ino_t parent, const char *name, fuse_ino_t *ino,
	bool for_helper);
/* The look-ups that the first reader of a picture makes, of nothing: the statements are prepared, and
 * the upper pages of the tables in memory, before somebody waits for them. */
void nodes_warm(struct mount *m);
/* A derived name in a folder of /requests, whether announced or not. */
int derived_find(struct mount *m, int64_t dir, const char *name, struct derived *d);
/* Whether a name may be shown that came to be at since_ms (wall). */
bool is_visible(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, int64_t since_ms);
bool derived_is_visible(struct mount *m, fuse_ino_t parent, const struct derived *d);
bool is_helper(struct mount *m, fuse_req_t req);
/* The names of a generation's folder that exist, of a listed picture: "1.png" (name_size 32). */
bool generation_has(const struct generation_outline *g, enum generation_text text);
void image_name(const struct image *i, char name[32]);

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);

/* ---- mountpoint.c: an exit status, and one line in *error that says what can be done ---- */
/* *path: the mount point as an absolute path, owned, also on most failures. What a killed mount of ours
 * left there is taken away. */
int mountpoint_find(const char *given, char **path, char **error);
/* Why mounting failed with err; words: libfuse's own, or "". */
int mountpoint_refused(const char *path, const char *options, int err, const char *words, char **error);

/* ---- attrs.c ---- */
/* Attributes of any inode, st_ino included, and the seconds that the kernel may keep them. -ENOENT. */
int node_stat(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout);
/* Of an inode that the kernel has, which may have lost its name meanwhile. */
int known_stat(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout);
/* The same as an entry of a folder. */
int node_entry(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, struct fuse_entry_param *e);
double node_entry_timeout(fuse_ino_t parent, fuse_ino_t ino);
/* Of what has been read already. */
void generation_node_entry(struct mount *m, const struct generation_entry *g,
	struct fuse_entry_param *e);
void tree_node_entry(const struct node *n, struct fuse_entry_param *e);
void image_stat(struct mount *m, int64_t id, int64_t size, int64_t listed_ms, struct stat *st);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* ---- tree.c ---- */
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
	struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags);
/* A new node in /requests, owned as its creator and folder say. */
int create_node(struct mount *m, fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	const char *target, struct node *out);
/* Makes a file of /requests empty, as truncate(2) of its path does. */
int empty_node(struct mount *m, int64_t id);
/* -EROFS when a directory is none of /requests. */
int check_requests_dir(fuse_ino_t parent);

/* ---- files.c ---- */
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi);
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in, off_t off,
	struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);

/* ---- texts.c ---- */
/* A text as it is now, owned. */
int text_render(struct mount *m, fuse_ino_t ino, char **text, size_t *len);
/* The size of the newest open snapshot of an inode; -1 when there is none, and for a log, which grows. */
int64_t text_snapshot_size(struct mount *m, fuse_ino_t ino);
void text_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void text_read(struct mount *m, fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi);
void text_release(struct mount *m, struct fuse_file_info *fi);
/* Of a file of /control that is open for writing; else NULL. Borrowed. */
struct control *text_control(const struct fuse_file_info *fi);

/* ---- control.c ---- */
struct control *control_open(void);
void control_close(struct control *c);
/* 0 when every line was carried out (the last may wait for its end); else what engine_control said
 * of the first that was not, and of those after it nothing was carried out. */
int control_write(struct mount *m, struct control *c, const char *bytes, size_t len);
/* Carries out what has no newline behind it. As control_write. */
int control_flush(struct mount *m, struct control *c);

/* ---- pictures.c ---- */
void image_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void image_read(struct mount *m, fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi);
void image_close(struct fuse_file_info *fi);

/* ---- wait.c ---- */
void wait_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void wait_read(struct mount *m, fuse_req_t req, size_t size, struct fuse_file_info *fi);
void wait_release(struct fuse_file_info *fi);
/* A parked read whose node has changed, or whose time has come. Takes p. */
void wait_again(struct mount *m, struct parked *p);

/* ---- dirs.c ---- */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* ---- xattrs.c ---- */
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
	int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ---- ghosts.c ---- */
struct ghosts *ghosts_create(void);
void ghosts_destroy(struct ghosts *g);
/* A process has listed a folder. */
void ghosts_listed(struct ghosts *g, int64_t dir, pid_t pid);
/* A derived name is about to go with its prompt, which the process removes. */
void ghosts_add(struct ghosts *g, int64_t dir, const char *name, fuse_ino_t ino, pid_t pid);
/* Whether that name is one for that process; taken away when `take`. */
bool ghosts_find(struct ghosts *g, int64_t dir, const char *name, pid_t pid, bool take,
	fuse_ino_t *ino);

/* ---- removed.c ---- */
/* A node as it was when it lost its name. Before the reply, behind which the kernel may forget it. */
void removed_add(struct mount *m, const struct node *n);
bool removed_stat(struct mount *m, fuse_ino_t ino, struct stat *st);
/* what: tree_setattr()'s. */
bool removed_setattr(struct mount *m, fuse_ino_t ino, const struct stat *attr, unsigned what);
void removed_destroy(struct mount *m);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n_lookups);

#endif

#include "catalogue/tree.h"
#include "base/names.h"
#include "catalogue/file.h"
#include "catalogue/internal.h"
#include "catalogue/request.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

enum { NAME_MAX_BYTES = 255 };

#define NODE_COLUMNS                                                                               \
	"n.id, n.parent, n.mode, n.uid, n.gid, n.atime, n.mtime, n.ctime, n.pending, n.request,"   \
	" length(CAST(n.target AS BLOB)),"                                                          \
	" CASE WHEN n.mode & 61440 = 16384"                                                        \
	"  THEN (SELECT count(*) FROM node c WHERE c.parent = n.id AND c.mode & 61440 = 16384)"    \
	"  ELSE 0 END"

char *spool_name(int64_t id, char name[SPOOL_NAME_SIZE])
{
	snprintf(name, SPOOL_NAME_SIZE, "%lld", (long long)id);
	return name;
}

int tree_check_name(const char *name)
{
	const size_t len = strlen(name);

	if (len == 0 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EINVAL;
	if (len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	return names_is_utf8(name, len) ? 0 : -EILSEQ;
}

/* ---- reading ---- */

/* Size and times of a regular file are its spool file's own; the row knows of changes besides. */
static void add_spool(struct catalogue *cat, struct node *n)
{
	char name[SPOOL_NAME_SIZE];
	struct stat st;

	if (fstatat(cat->spool, spool_name(n->id, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	n->st.st_size = st.st_size;
	n->st.st_blocks = st.st_blocks;
	n->st.st_atim = st.st_atim;
	n->st.st_mtim = st.st_mtim;
	if (timespec_to_ns(st.st_ctim) > timespec_to_ns(n->st.st_ctim))
		n->st.st_ctim = st.st_ctim;
}

static void read_node(struct catalogue *cat, struct db_rows *r, struct node *n)
{
	*n = (struct node){.id = db_int(r, 0),
		.parent = db_int(r, 1),
		.pending = (enum pending)db_int(r, 8),
		.request = db_int(r, 9)};
	n->st.st_mode = (mode_t)db_int(r, 2);
	n->st.st_uid = (uid_t)db_int(r, 3);
	n->st.st_gid = (gid_t)db_int(r, 4);
	n->st.st_atim = ns_to_timespec(db_int(r, 5));
	n->st.st_mtim = ns_to_timespec(db_int(r, 6));
	n->st.st_ctim = ns_to_timespec(db_int(r, 7));
	n->st.st_blksize = 4096;
	n->st.st_nlink = n->parent == 0 && n->id != TREE_ROOT ? 0 : 1;
	if (S_ISLNK(n->st.st_mode))
		n->st.st_size = db_int(r, 10);
	else if (S_ISREG(n->st.st_mode))
		add_spool(cat, n);
	else if (n->st.st_nlink > 0)
		n->st.st_nlink = 2 + (nlink_t)db_int(r, 11);
}

static int read_one(struct catalogue *cat, struct db_rows *r, struct node *out)
{
	const bool found = db_next(r);

	if (found)
		read_node(cat, r, out);
	const int rc = db_done(r);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

int tree_get(struct catalogue *cat, int64_t id, struct node *out)
{
	db_lock(cat->db);
	const int rc = read_one(cat,
		db_query(cat->db, "SELECT " NODE_COLUMNS " FROM node n WHERE n.id = ?", "i", id), out);
	db_unlock(cat->db);
	return rc;
}

int tree_lookup(struct catalogue *cat, int64_t parent, const char *name, struct node *out)
{
	if (strlen(name) > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	db_lock(cat->db);
	const int rc = read_one(cat,
		db_query(cat->db,
			"SELECT " NODE_COLUMNS " FROM node n WHERE n.parent = ? AND n.name = ?",
			"is", parent, name),
		out);
	db_unlock(cat->db);
	return rc;
}

static char *get_text(struct catalogue *cat, struct db_rows *r)
{
	char *text = db_next(r) ? db_text_dup(r, 0) : NULL;

	db_done(r);
	db_unlock(cat->db);
	return text;
}

char *tree_readlink(struct catalogue *cat, int64_t id)
{
	db_lock(cat->db);
	return get_text(cat, db_query(cat->db, "SELECT target FROM node WHERE id = ?", "i", id));
}

char *tree_name(struct catalogue *cat, int64_t id)
{
	db_lock(cat->db);
	return get_text(cat, db_query(cat->db, "SELECT name FROM node WHERE id = ?", "i", id));
}

int tree_list(struct catalogue *cat, int64_t dir, tree_list_fn *fn, void *arg)
{
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT id, name, mode FROM node WHERE parent = ? ORDER BY name", "i", dir);
	while (db_next(r) && fn(arg, db_int(r, 0), db_text(r, 1), (mode_t)db_int(r, 2)))
		;
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc;
}

/* ---- creating and removing ---- */

int tree_touch_dir(struct catalogue *cat, int64_t dir)
{
	const int64_t now = now_ns();
	const int rc = db_run(cat->db, "UPDATE node SET mtime = ?, ctime = ? WHERE id = ?", "iii",
		now, now, dir);

	return rc < 0 ? rc : 0;
}

/* The directory is there, is one, and still has a name. */
static int check_dir(struct catalogue *cat, int64_t id)
{
	struct node dir;
	const int rc = tree_get(cat, id, &dir);

	if (rc < 0)
		return rc;
	return !S_ISDIR(dir.st.st_mode) ? -ENOTDIR : dir.st.st_nlink == 0 ? -ENOENT : 0;
}

static int make_spool(struct catalogue *cat, int64_t id)
{
	char name[SPOOL_NAME_SIZE];
	const int fd = openat(cat->spool, spool_name(id, name),
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static int insert(struct catalogue *cat, int64_t parent, const char *name, mode_t mode, uid_t uid,
	gid_t gid, const char *target)
{
	const int64_t now = now_ns();
	int rc = check_dir(cat, parent);

	if (rc == 0)
		rc = db_run(cat->db,
			"INSERT INTO node(parent, name, mode, uid, gid, target, atime, mtime, ctime)"
			" VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
			"isiiisiii", parent, name, (int64_t)mode, (int64_t)uid, (int64_t)gid, target,
			now, now, now);
	if (rc >= 0 && S_ISREG(mode))
		rc = make_spool(cat, db_last_id(cat->db));
	return rc < 0 ? rc : 0;
}

int tree_create(struct catalogue *cat, int64_t parent, const char *name, mode_t mode, uid_t uid,
	gid_t gid, const char *target, struct node *out)
{
	int rc = tree_check_name(name);

	if (rc < 0)
		return rc;
	if (!S_ISREG(mode) && !S_ISDIR(mode) && !S_ISLNK(mode))
		return -EPERM;
	catalogue_begin(cat, DB_NORMAL);
	rc = insert(cat, parent, name, mode, uid, gid, target);
	const int64_t id = rc == 0 ? db_last_id(cat->db) : 0;
	if (rc == 0)
		rc = tree_touch_dir(cat, parent);
	if (rc == 0)
		rc = tree_get(cat, id, out);
	return catalogue_end(cat, rc);
}

int tree_delete_row(struct catalogue *cat, int64_t id)
{
	const int rc = db_run(cat->db, "DELETE FROM node WHERE id = ?", "i", id);

	return rc < 0 ? rc : 0;
}

/* Takes a node's name away: the row goes at once unless the file is open. Its content goes behind the
 * commit (end_detached()): a transaction that is undone must not have lost it. */
static int detach(struct catalogue *cat, const struct node *n)
{
	int rc = request_leaves(cat, n);

	if (rc == 0)
		rc = db_run(cat->db,
			"UPDATE node SET parent = NULL, name = NULL, pending = 0, ctime = ?"
			" WHERE id = ?",
			"ii", now_ns(), n->id);
	if (rc >= 0 && (!S_ISREG(n->st.st_mode) || !file_is_open(cat, n->id)))
		rc = tree_delete_row(cat, n->id);
	return rc < 0 ? rc : 0;
}

/* Ends a transaction that took a node's name away (n->id 0: none). */
static int end_detached(struct catalogue *cat, int rc, const struct node *n)
{
	db_lock(cat->db);
	rc = catalogue_end(cat, rc);
	if (rc == 0 && n->id && S_ISREG(n->st.st_mode))
		file_unlinked(cat, n->id);
	db_unlock(cat->db);
	return rc;
}

int tree_unlink(struct catalogue *cat, int64_t parent, const char *name, struct node *removed)
{
	struct node n = {0};

	catalogue_begin(cat, DB_NORMAL);
	int rc = tree_lookup(cat, parent, name, &n);
	if (rc == 0 && S_ISDIR(n.st.st_mode))
		rc = -EISDIR;
	if (rc == 0)
		rc = detach(cat, &n);
	if (rc == 0)
		rc = tree_touch_dir(cat, parent);
	if (rc == 0 && removed)
		*removed = n;
	return end_detached(cat, rc, &n);
}

static int check_empty(struct catalogue *cat, int64_t dir)
{
	int64_t found;
	const int rc = db_get_int(
		cat->db, &found, "SELECT 1 FROM node WHERE parent = ? LIMIT 1", "i", dir);

	return rc < 0 ? rc : rc ? -ENOTEMPTY : 0;
}

int tree_rmdir(struct catalogue *cat, int64_t parent, const char *name, struct node *removed)
{
	struct node n;

	catalogue_begin(cat, DB_NORMAL);
	int rc = tree_lookup(cat, parent, name, &n);
	if (rc == 0 && !S_ISDIR(n.st.st_mode))
		rc = -ENOTDIR;
	if (rc == 0)
		rc = check_empty(cat, n.id);
	if (rc == 0)
		rc = detach(cat, &n);
	if (rc == 0)
		rc = tree_touch_dir(cat, parent);
	if (rc == 0 && removed)
		*removed = n;
	return catalogue_end(cat, rc);
}

/* ---- renaming ---- */

/* What POSIX asks of the two ends before anything moves. */
static int check_rename(struct catalogue *cat, const struct node *from, const struct node *to,
	int64_t parent, int64_t new_parent, unsigned flags)
{
	const bool exchange = flags & RENAME_EXCHANGE;
	int rc = S_ISDIR(from->st.st_mode) ? tree_is_below(cat, new_parent, from->id) : 0;

	if (rc != 0)
		return rc < 0 ? rc : -EINVAL;
	if (!to)
		return 0;
	if (exchange) {
		rc = S_ISDIR(to->st.st_mode) ? tree_is_below(cat, parent, to->id) : 0;
		return rc > 0 ? -EINVAL : rc;
	}
	if (S_ISDIR(to->st.st_mode) && !S_ISDIR(from->st.st_mode))
		return -EISDIR;
	if (!S_ISDIR(to->st.st_mode) && S_ISDIR(from->st.st_mode))
		return -ENOTDIR;
	return S_ISDIR(to->st.st_mode) ? check_empty(cat, to->id) : 0;
}

static int place(struct catalogue *cat, int64_t id, int64_t parent, const char *name)
{
	const int rc = db_run(cat->db,
		"UPDATE node SET parent = nullif(?, 0), name = ?, ctime = ? WHERE id = ?", "isii",
		parent, name, now_ns(), id);

	return rc < 0 ? rc : 0;
}

/* A file that gets a prompt's name, having had none, is due for its commit; one that loses it owes
 * nothing any more. */
static int make_due(struct catalogue *cat, struct node *n, bool was, bool is, bool *due)
{
	if (!S_ISREG(n->st.st_mode) || was == is)
		return 0;
	return was ? tree_set_pending(cat, n->id, PENDING_NONE) : file_renamed(cat, n->id, due);
}

/* Power loss leaves one of the two contents under the name: the new one is on the disk, and so is the
 * transaction, before the old one goes. */
static int replace(struct catalogue *cat, const struct node *from, const struct node *to)
{
	catalogue_begin(cat, S_ISREG(to->st.st_mode) ? DB_FULL : DB_NORMAL);
	int rc = S_ISREG(from->st.st_mode) ? file_make_durable(cat, from->id) : 0;
	if (rc == 0)
		rc = detach(cat, to);
	return catalogue_end(cat, rc);
}

static int move(struct catalogue *cat, const struct node *from, const struct node *to,
	int64_t parent, const char *name, int64_t new_parent, const char *new_name, unsigned flags)
{
	int rc = 0;

	if (to && (flags & RENAME_EXCHANGE)) {
		/* Without a name meanwhile: any name could be one of the user's. */
		rc = place(cat, to->id, 0, NULL);
		if (rc == 0)
			rc = place(cat, from->id, new_parent, new_name);
		return rc == 0 ? place(cat, to->id, parent, name) : rc;
	}
	if (to)
		rc = replace(cat, from, to);
	return rc == 0 ? place(cat, from->id, new_parent, new_name) : rc;
}

static int rename_locked(struct catalogue *cat, int64_t parent, const char *name,
	int64_t new_parent, const char *new_name, unsigned flags, struct tree_renamed *out)
{
	const bool was = tree_may_commit(cat, parent, name);
	const bool is = tree_may_commit(cat, new_parent, new_name);
	struct node to;
	int rc = tree_lookup(cat, parent, name, &out->moved);

	if (rc == 0)
		rc = check_dir(cat, new_parent);
	if (rc < 0)
		return rc;
	const int found = tree_lookup(cat, new_parent, new_name, &to);
	if (found < 0 && found != -ENOENT)
		return found;
	if (found == 0 && (flags & RENAME_NOREPLACE))
		return -EEXIST;
	if (found < 0 && (flags & RENAME_EXCHANGE))
		return -ENOENT;
	if (found == 0 && to.id == out->moved.id)
		return 0;

	rc = check_rename(cat, &out->moved, found == 0 ? &to : NULL, parent, new_parent, flags);
	if (rc == 0 && was && !is)
		rc = request_leaves(cat, &out->moved);
	else if (rc == 0 && found == 0 && is && !was && (flags & RENAME_EXCHANGE))
		rc = request_leaves(cat, &to);
	if (rc == 0)
		rc = move(cat, &out->moved, found == 0 ? &to : NULL, parent, name, new_parent,
			new_name, flags);
	if (rc == 0)
		rc = tree_touch_dir(cat, parent);
	if (rc == 0)
		rc = tree_touch_dir(cat, new_parent);
	if (rc == 0)
		rc = make_due(cat, &out->moved, was, is, &out->due);
	if (rc == 0 && found == 0 && (flags & RENAME_EXCHANGE)) {
		out->other = to;
		rc = make_due(cat, &out->other, is, was, &out->due);
	} else if (rc == 0 && found == 0) {
		out->replaced = to;
	}
	return rc;
}

int tree_rename(struct catalogue *cat, int64_t parent, const char *name, int64_t new_parent,
	const char *new_name, unsigned flags, struct tree_renamed *out)
{
	int rc = tree_check_name(new_name);

	*out = (struct tree_renamed){0};
	if (rc < 0)
		return rc;
	if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) ||
		flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	db_lock(cat->db);
	const bool commits = tree_may_commit(cat, parent, name) !=
		tree_may_commit(cat, new_parent, new_name);
	catalogue_begin(cat, commits ? DB_FULL : DB_NORMAL);
	rc = rename_locked(cat, parent, name, new_parent, new_name, flags, out);
	rc = end_detached(cat, rc, &out->replaced);
	db_unlock(cat->db);
	return rc;
}

/* ---- what the commit rule keeps in a row ---- */

int tree_set_pending(struct catalogue *cat, int64_t id, enum pending pending)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE node SET pending = ? WHERE id = ? AND pending <> ?",
		"iii", (int64_t)pending, id, (int64_t)pending);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int tree_pending(struct catalogue *cat, int64_t after, int64_t *ids, int max)
{
	int n = 0;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT id FROM node WHERE pending <> 0 AND id > ? ORDER BY id LIMIT ?", "ii", after,
		(int64_t)max);
	while (n < max && db_next(r))
		ids[n++] = db_int(r, 0);
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : n;
}

int tree_draft_set(struct catalogue *cat, int64_t id, int err, const char *text)
{
	db_lock(cat->db);
	const int rc = text
		? db_run(cat->db,
			  "UPDATE node SET draft_errno = ?, draft_text = ?, draft_ms = ?, hidden = 0"
			  " WHERE id = ?",
			  "isii", (int64_t)err, text, now_ns() / 1000000, id)
		: db_run(cat->db,
			  "UPDATE node SET draft_errno = NULL, draft_text = NULL, draft_ms = NULL"
			  " WHERE id = ? AND draft_text IS NOT NULL",
			  "i", id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int tree_draft_get(struct catalogue *cat, int64_t id, int *err, char **text, int64_t *since_ms)
{
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT draft_errno, draft_text, draft_ms FROM node"
		" WHERE id = ? AND draft_text IS NOT NULL",
		"i", id);
	const bool found = db_next(r);
	if (found) {
		*err = (int)db_int(r, 0);
		if (text)
			*text = db_text_dup(r, 1);
		if (since_ms)
			*since_ms = db_int(r, 2);
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

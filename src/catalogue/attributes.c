/*
 * Attributes of the nodes of /requests, the extended ones too.
 */
#include "catalogue/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/xattr.h>

/* NAMES_MAX: the kernel lists at most 64 KiB of names, ours among them. */
enum { VALUE_MAX = 65536, NAMES_MAX = 60 * 1024 };

static int set_size(struct catalogue *cat, const struct node *n, off_t size)
{
	char name[SPOOL_NAME_SIZE];
	int rc = 0;

	if (S_ISDIR(n->st.st_mode))
		return -EISDIR;
	if (!S_ISREG(n->st.st_mode) || size < 0)
		return -EINVAL;
	CLEANUP_CLOSE int fd = openat(cat->spool, spool_name(n->id, name),
		O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	rc = file_changed(cat, n->id, size);
	if (rc == 0 && ftruncate(fd, size) < 0)
		rc = -errno;
	return rc;
}

static int set_times(struct catalogue *cat, const struct node *n, const struct stat *st,
	unsigned what)
{
	const struct timespec omit = {.tv_nsec = UTIME_OMIT};
	const struct timespec times[2] = {
		what & TREE_SET_ATIME ? st->st_atim : omit,
		what & TREE_SET_MTIME ? st->st_mtim : omit,
	};
	char name[SPOOL_NAME_SIZE];

	if (!S_ISREG(n->st.st_mode))
		return 0;
	return utimensat(cat->spool, spool_name(n->id, name), times, AT_SYMLINK_NOFOLLOW) < 0
		? -errno
		: 0;
}

static struct timespec time_to_set(struct timespec t)
{
	return t.tv_nsec == UTIME_NOW ? ns_to_timespec(now_ns()) : t;
}

void tree_apply(struct stat *st, const struct stat *attr, unsigned what)
{
	if (what & TREE_SET_MODE)
		st->st_mode = (st->st_mode & S_IFMT) | (attr->st_mode & 07777);
	if (what & TREE_SET_UID)
		st->st_uid = attr->st_uid;
	if (what & TREE_SET_GID)
		st->st_gid = attr->st_gid;
	if (what & TREE_SET_ATIME)
		st->st_atim = time_to_set(attr->st_atim);
	if (what & TREE_SET_MTIME)
		st->st_mtim = time_to_set(attr->st_mtim);
	st->st_ctim = ns_to_timespec(now_ns());
}

static int set_row(struct catalogue *cat, const struct node *n)
{
	const int rc = db_run(cat->db,
		"UPDATE node SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ?"
		" WHERE id = ?",
		"iiiiiii", (int64_t)n->st.st_mode, (int64_t)n->st.st_uid, (int64_t)n->st.st_gid,
		timespec_to_ns(n->st.st_atim), timespec_to_ns(n->st.st_mtim),
		timespec_to_ns(n->st.st_ctim), n->id);
	return rc < 0 ? rc : 0;
}

int tree_setattr(struct catalogue *cat, int64_t id, const struct stat *st, unsigned what,
	struct node *out)
{
	struct node n;

	catalogue_begin(cat, DB_NORMAL);
	int rc = tree_get(cat, id, &n);
	if (rc == 0 && (what & TREE_SET_SIZE))
		rc = set_size(cat, &n, st->st_size);
	if (rc == 0 && (what & (TREE_SET_ATIME | TREE_SET_MTIME)))
		rc = set_times(cat, &n, st, what);
	if (rc == 0) {
		tree_apply(&n.st, st, what);
		rc = set_row(cat, &n);
	}
	if (rc == 0 && out)
		rc = tree_get(cat, id, out);
	return catalogue_end(cat, rc);
}

/* ---- extended attributes ---- */

static int has_xattr(struct catalogue *cat, int64_t id, const char *name)
{
	int64_t found;

	return db_get_int(cat->db, &found, "SELECT 1 FROM xattr WHERE node = ? AND name = ?", "is",
		id, name);
}

/* Whether the list of names has room for one more. */
static int check_room(struct catalogue *cat, int64_t id, const char *name)
{
	int64_t used = 0;
	const int rc = db_get_int(cat->db, &used,
		"SELECT coalesce(sum(length(CAST(name AS BLOB)) + 1), 0) FROM xattr WHERE node = ?",
		"i", id);

	return rc < 0 ? rc : used + (int64_t)strlen(name) + 1 > NAMES_MAX ? -ENOSPC : 0;
}

static int touch(struct catalogue *cat, int64_t id)
{
	const int rc = db_run(
		cat->db, "UPDATE node SET ctime = ? WHERE id = ?", "ii", now_ns(), id);

	return rc < 0 ? rc : rc ? 0 : -ENOENT;
}

int tree_xattr_set(struct catalogue *cat, int64_t id, const char *name, const void *value,
	size_t len, int flags)
{
	if (len > VALUE_MAX)
		return -E2BIG;
	catalogue_begin(cat, DB_NORMAL);
	int rc = touch(cat, id);
	if (rc == 0)
		rc = has_xattr(cat, id, name);
	if (rc == 1 && (flags & XATTR_CREATE))
		rc = -EEXIST;
	else if (rc == 0 && (flags & XATTR_REPLACE))
		rc = -ENODATA;
	else if (rc == 0)
		rc = check_room(cat, id, name);
	if (rc >= 0)
		rc = db_run(cat->db,
			"INSERT INTO xattr VALUES(?, ?, ?)"
			" ON CONFLICT(node, name) DO UPDATE SET value = excluded.value",
			"isb", id, name, len ? value : "", len);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

int tree_xattr_get(struct catalogue *cat, int64_t id, const char *name, void **value, size_t *len)
{
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT value FROM xattr WHERE node = ? AND name = ?", "is", id, name);
	const bool found = db_next(r);
	if (found) {
		const void *bytes = db_blob(r, 0, len);

		*value = xmalloc(*len);
		if (*len)
			memcpy(*value, bytes, *len);
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENODATA;
}

int tree_xattr_list(struct catalogue *cat, int64_t id, char **names, size_t *len)
{
	struct buf b;

	buf_init(&b, NAMES_MAX);
	db_lock(cat->db);
	struct db_rows *r =
		db_query(cat->db, "SELECT name FROM xattr WHERE node = ? ORDER BY name", "i", id);
	while (db_next(r))
		buf_add(&b, db_text(r, 0), strlen(db_text(r, 0)) + 1);
	const int rc = db_done(r);
	db_unlock(cat->db);
	*len = b.len;
	*names = buf_take(&b);
	return rc;
}

int tree_xattr_remove(struct catalogue *cat, int64_t id, const char *name)
{
	catalogue_begin(cat, DB_NORMAL);
	int rc = db_run(cat->db, "DELETE FROM xattr WHERE node = ? AND name = ?", "is", id, name);
	if (rc == 0)
		rc = -ENODATA;
	if (rc > 0)
		rc = touch(cat, id);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

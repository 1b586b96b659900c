/*
 * Following a path inside /requests, and the extended attributes of its nodes.
 */
#include "base/names.h"
#include "catalogue/internal.h"
#include "catalogue/tree.h"
#include <errno.h>
#include <sys/xattr.h>

enum { LINKS_MAX = 8, PATH_MAX_BYTES = 4096, VALUE_MAX = 65536, NAMES_MAX = 65536 };

struct walk {
	struct catalogue *cat;
	struct node at;
	int links; /* followed so far */
};

static int walk_path(struct walk *w, const char *path);

/* One part of a path from the directory w->at. */
static int step(struct walk *w, const char *part)
{
	const int64_t dir = w->at.id;

	if (!S_ISDIR(w->at.st.st_mode))
		return -ENOTDIR;
	if (strcmp(part, ".") == 0 || *part == '\0')
		return 0;
	if (strcmp(part, "..") == 0)
		return dir == TREE_ROOT ? -EXDEV : tree_get(w->cat, w->at.parent, &w->at);

	int rc = tree_lookup(w->cat, dir, part, &w->at);
	if (rc < 0 || !S_ISLNK(w->at.st.st_mode))
		return rc;
	if (++w->links > LINKS_MAX)
		return -ELOOP;
	CLEANUP_FREE char *target = tree_readlink(w->cat, w->at.id);
	rc = target ? tree_get(w->cat, dir, &w->at) : -ENOENT;
	return rc < 0 ? rc : walk_path(w, target);
}

static int walk_path(struct walk *w, const char *path)
{
	CLEANUP_FREE char *copy = NULL;
	char *rest, *part;
	int rc = 0;

	if (path[0] == '/')
		return -EXDEV;
	if (strlen(path) > PATH_MAX_BYTES)
		return -ENAMETOOLONG;
	rest = copy = xstrdup(path);
	while (rc == 0 && (part = strsep(&rest, "/")) != NULL)
		rc = step(w, part);
	return rc;
}

int tree_resolve(struct catalogue *cat, int64_t dir, const char *path, struct node *out)
{
	struct walk w = {.cat = cat};
	int rc;

	if (dir == 0) {
		if (strncmp(path, "requests", 8) != 0 || (path[8] != '/' && path[8] != '\0'))
			return -ENOENT;
		path += path[8] ? 9 : 8;
		dir = TREE_ROOT;
	}
	db_lock(cat->db);
	rc = tree_get(cat, dir, &w.at);
	if (rc == 0)
		rc = walk_path(&w, path);
	db_unlock(cat->db);
	if (rc == 0)
		*out = w.at;
	return rc;
}

bool tree_is_hidden(struct catalogue *cat, int64_t dir)
{
	CLEANUP_FREE char *path = tree_path(cat, dir);

	return !path || strstr(path, "/.");
}

bool tree_may_commit(struct catalogue *cat, int64_t parent, const char *name)
{
	return names_is_prompt(name) && !tree_is_hidden(cat, parent);
}

/* ---- extended attributes ---- */

static int has_xattr(struct catalogue *cat, int64_t id, const char *name)
{
	int64_t found;

	return db_get_int(cat->db, &found, "SELECT 1 FROM xattr WHERE node = ? AND name = ?", "is",
		id, name);
}

static int touch(struct catalogue *cat, int64_t id)
{
	const int rc = db_run(
		cat->db, "UPDATE node SET ctime = ? WHERE id = ?", "ii", now_ns(), id);

	return rc < 0 ? rc : 0;
}

int tree_xattr_set(struct catalogue *cat, int64_t id, const char *name, const void *value,
	size_t len, int flags)
{
	if (len > VALUE_MAX)
		return -E2BIG;
	catalogue_begin(cat, DB_NORMAL);
	int rc = has_xattr(cat, id, name);
	if (rc == 1 && (flags & XATTR_CREATE))
		rc = -EEXIST;
	else if (rc == 0 && (flags & XATTR_REPLACE))
		rc = -ENODATA;
	if (rc >= 0)
		rc = db_run(cat->db,
			"INSERT INTO xattr VALUES(?, ?, ?)"
			" ON CONFLICT(node, name) DO UPDATE SET value = excluded.value",
			"isb", id, name, len ? value : "", len);
	if (rc >= 0)
		rc = touch(cat, id);
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

/*
 * Following a path inside /requests, down and up.
 */
#include "base/names.h"
#include "catalogue/internal.h"
#include "catalogue/tree.h"
#include <errno.h>

enum { LINKS_MAX = 8, PATH_MAX_BYTES = 4096 };

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
	copy = xstrdup(path);
	rest = copy;
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

/* ---- upwards, as deep as it may be ---- */

char *tree_path(struct catalogue *cat, int64_t id)
{
	char *path;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"WITH RECURSIVE up(parent, path) AS ("
		" SELECT parent, '/' || name FROM node WHERE id = ?1 AND name IS NOT NULL"
		" UNION ALL SELECT n.parent, '/' || n.name || up.path FROM up"
		" JOIN node n ON n.id = up.parent WHERE n.name IS NOT NULL)"
		" SELECT 'requests' || path FROM up WHERE parent = 1"
		" UNION ALL SELECT 'requests' WHERE ?1 = 1",
		"i", id);
	path = db_next(r) ? db_text_dup(r, 0) : NULL;
	db_done(r);
	db_unlock(cat->db);
	return path;
}

int tree_is_below(struct catalogue *cat, int64_t id, int64_t ancestor)
{
	int64_t found;

	return db_get_int(cat->db, &found,
		"WITH RECURSIVE up(id) AS (SELECT ? UNION"
		" SELECT n.parent FROM up JOIN node n ON n.id = up.id WHERE n.parent IS NOT NULL)"
		" SELECT 1 FROM up WHERE id = ?",
		"ii", id, ancestor);
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

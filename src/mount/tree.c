#include "base/log.h"
#include "base/names.h"
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

enum { ALL_PERMISSIONS = 07777 };

/* The entry of a node just made. */
static void reply_node(fuse_req_t req, const struct node *n)
{
	struct fuse_entry_param e;

	tree_node_entry(n, &e);
	fuse_reply_entry(req, &e);
}

static void reply(fuse_req_t req, int rc)
{
	fuse_reply_err(req, rc < 0 ? -rc : 0);
}

/* The answer to a call by which a name is gone. */
static void reply_gone(struct mount *m, fuse_req_t req, int rc)
{
	if (rc == 0)
		atomic_fetch_add(&m->names_gone, 1);
	reply(req, rc);
}

int check_requests_dir(fuse_ino_t parent)
{
	return ino_type(parent) == INO_TREE ? 0 : -EROFS;
}

/* ---- making ---- */

int create_node(struct mount *m, fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	const char *target, struct node *out)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	gid_t gid = ctx->gid;
	struct node dir;
	int rc = check_requests_dir(parent);

	if (rc == 0)
		rc = tree_get(m->cat, ino_id(parent), &dir);
	if (rc < 0)
		return rc;
	if (dir.st.st_mode & S_ISGID) {
		gid = dir.st.st_gid;
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	return tree_create(m->cat, ino_id(parent), name, mode, ctx->uid, gid, target, out);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct mount *m = fuse_req_userdata(req);
	struct node n;

	(void)rdev;
	const int rc = create_node(m, req, parent, name, mode, NULL, &n);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		reply_node(req, &n);
}

/* The helper's call that announces a generation's folder. */
static void announce_folder(struct mount *m, fuse_req_t req, const char *name)
{
	struct generation_entry g;
	struct fuse_entry_param e;

	if (generation_entry_find(m->cat, name, &g) < 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	notifier_announced(m->notifier, STATIC_GENERATIONS, ino_make(INO_GENERATION, g.id));
	generation_node_entry(m, &g, &e);
	fuse_reply_entry(req, &e);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct mount *m = fuse_req_userdata(req);
	struct node n;

	if (parent == STATIC_GENERATIONS && is_helper(m, req)) {
		announce_folder(m, req, name);
		return;
	}
	const int rc = create_node(
		m, req, parent, name, S_IFDIR | (mode & ALL_PERMISSIONS), NULL, &n);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		reply_node(req, &n);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct mount *m = fuse_req_userdata(req);
	struct node n;
	const int rc = create_node(m, req, parent, name, S_IFLNK | 0777, target, &n);

	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		reply_node(req, &n);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	(void)ino;
	(void)name;
	fuse_reply_err(req, ino_type(parent) == INO_TREE ? EPERM : EROFS);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct mount *m = fuse_req_userdata(req);
	CLEANUP_FREE char *target =
		ino_type(ino) == INO_TREE ? tree_readlink(m->cat, ino_id(ino)) : NULL;

	if (target)
		fuse_reply_readlink(req, target);
	else
		fuse_reply_err(req, EINVAL);
}

/* ---- attributes ---- */

static unsigned what_to_set(int to_set)
{
	unsigned what = 0;

	what |= to_set & FUSE_SET_ATTR_MODE ? TREE_SET_MODE : 0;
	what |= to_set & FUSE_SET_ATTR_UID ? TREE_SET_UID : 0;
	what |= to_set & FUSE_SET_ATTR_GID ? TREE_SET_GID : 0;
	what |= to_set & FUSE_SET_ATTR_SIZE ? TREE_SET_SIZE : 0;
	what |= to_set & FUSE_SET_ATTR_ATIME ? TREE_SET_ATIME : 0;
	what |= to_set & FUSE_SET_ATTR_MTIME ? TREE_SET_MTIME : 0;
	return what;
}

/* A new size: what was due is so again, whether it could be set or not. */
static int set_tree_size(struct mount *m, int64_t id, struct stat *attr, int to_set,
	struct fuse_file_info *fi)
{
	struct node n;
	int rc = fi ? file_write_begin((struct file *)(uintptr_t)fi->fh) : 0;

	engine_disturb(m->engine, id);
	if (rc == 0)
		rc = tree_setattr(m->cat, id, attr, what_to_set(to_set), NULL);
	if (tree_get(m->cat, id, &n) == 0 && n.pending == PENDING_CLOSED)
		engine_settle(m->engine, id);
	return rc;
}

int empty_node(struct mount *m, int64_t id)
{
	return set_tree_size(m, id, &(struct stat){0}, FUSE_SET_ATTR_SIZE, NULL);
}

static int set_tree(struct mount *m, int64_t id, struct stat *attr, int to_set,
	struct fuse_file_info *fi)
{
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		attr->st_atim.tv_nsec = UTIME_NOW;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		attr->st_mtim.tv_nsec = UTIME_NOW;
	if (to_set & FUSE_SET_ATTR_SIZE)
		return set_tree_size(m, id, attr, to_set, fi);
	const int rc = tree_setattr(m->cat, id, attr, what_to_set(to_set), NULL);
	return rc == -ENOENT &&
			removed_setattr(m, ino_make(INO_TREE, id), attr, what_to_set(to_set))
		? 0
		: rc;
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
	struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct stat st;
	double timeout = 0;
	int rc = 0;

	if (ino_type(ino) == INO_TREE)
		rc = set_tree(m, ino_id(ino), attr, to_set, fi);
	else if (ino == STATIC_CONTROL)
		rc = to_set & ~(FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME |
			       FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_ATIME_NOW |
			       FUSE_SET_ATTR_CTIME)
			? -EROFS
			: 0;
	else
		rc = -EROFS;
	if (rc == 0)
		rc = known_stat(m, ino, &st, &timeout);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st, timeout);
}

/* ---- removing ---- */

struct remembering {
	struct mount *m;
	int64_t dir;
	pid_t pid;
};

static bool remember(void *arg, const char *name, const struct derived *d)
{
	const struct remembering *r = arg;

	ghosts_add(r->m->ghosts, r->dir, name, ino_of_derived(d), r->pid);
	return true;
}

static int unlink_tree(struct mount *m, fuse_req_t req, int64_t dir, const char *name)
{
	const struct remembering r = {m, dir, fuse_req_ctx(req)->pid};
	struct derived d;
	struct node n;
	int rc = tree_lookup(m->cat, dir, name, &n);

	if (rc == 0 && names_is_prompt(name))
		derived_of(m->cat, n.id, remember, (void *)&r);
	if (rc == 0)
		rc = tree_unlink(m->cat, dir, name, &n);
	if (rc == 0)
		removed_add(m, &n);
	if (rc == 0 && names_is_prompt(name)) {
		engine_disturb(m->engine, n.id);
		engine_removed(m->engine, n.id);
	}
	if (rc != -ENOENT)
		return rc;
	rc = derived_find(m, dir, name, &d);
	if (rc == 0)
		return d.kind == DERIVED_WAIT ? -EPERM : derived_dismiss(m->cat, &d);
	return ghosts_find(m->ghosts, dir, name, fuse_req_ctx(req)->pid, true, NULL) ? 0 : rc;
}

static int unlink_in_generation(struct mount *m, int64_t id, const char *name)
{
	fuse_ino_t ino;
	const int rc = node_find(m, ino_make(INO_GENERATION, id), name, &ino, false);

	if (rc < 0)
		return rc;
	return ino_type(ino) == INO_IMAGE ? engine_forget_image(m->engine, ino_id(ino))
					  : generation_hide(m->cat, id, (unsigned)ino_id(ino) & 15);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = fuse_req_userdata(req);

	if (ino_type(parent) == INO_TREE)
		reply_gone(m, req, unlink_tree(m, req, ino_id(parent), name));
	else if (ino_type(parent) == INO_GENERATION)
		reply_gone(m, req, unlink_in_generation(m, ino_id(parent), name));
	else
		fuse_reply_err(req, EROFS);
}

static bool is_empty(struct mount *m, int64_t generation)
{
	struct generation_outline g;
	struct image *images = NULL;
	size_t n = 0;
	bool empty = true;

	if (generation_outline(m->cat, generation, &g) < 0)
		return true;
	for (int t = 0; t < GTEXT_COUNT; t++)
		empty &= !generation_has(&g, (enum generation_text)t);
	if (image_list(m->cat, generation, &images, &n) == 0)
		for (size_t i = 0; i < n; i++)
			empty &= images[i].removed || images[i].size < 0;
	images_free(images, n);
	return empty;
}

static int rmdir_generation(struct mount *m, const char *name)
{
	fuse_ino_t ino;
	const int rc = node_find(m, STATIC_GENERATIONS, name, &ino, false);

	if (rc != 0)
		return rc < 0 ? rc : -ENOENT;
	return is_empty(m, ino_id(ino)) ? engine_forget_generation(m->engine, ino_id(ino))
					: -ENOTEMPTY;
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct mount *m = fuse_req_userdata(req);
	struct node removed;
	int rc;

	if (parent == STATIC_GENERATIONS) {
		rc = rmdir_generation(m, name);
	} else {
		rc = check_requests_dir(parent);
		if (rc == 0)
			rc = tree_rmdir(m->cat, ino_id(parent), name, &removed);
		if (rc == 0)
			removed_add(m, &removed);
	}
	reply_gone(m, req, rc);
}

/* ---- renaming ---- */

static bool derived_shown(struct mount *m, fuse_ino_t parent, const char *name)
{
	struct derived d;

	return derived_find(m, ino_id(parent), name, &d) == 0 && d.kind != DERIVED_WAIT &&
		derived_is_visible(m, parent, &d);
}

/* What a rename means for commits: what was due is looked at now, what lost its name is over. */
static void follow_rename(struct mount *m, const char *name, const char *new_name,
	const struct tree_renamed *r)
{
	if (r->replaced.id) {
		removed_add(m, &r->replaced);
		engine_disturb(m->engine, r->replaced.id);
		engine_removed(m->engine, r->replaced.id);
	}
	if (names_is_prompt(name) && !names_is_prompt(new_name))
		engine_disturb(m->engine, r->moved.id);
	if (names_is_prompt(name) && names_is_prompt(new_name))
		notifier_changed(m->notifier, &(struct engine_event){
			.what = CHANGE_NAMES, .node = r->moved.id});
	if (r->due) {
		engine_commit_now(m->engine, r->moved.id);
		if (r->other.id)
			engine_commit_now(m->engine, r->other.id);
	}
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags)
{
	struct mount *m = fuse_req_userdata(req);
	struct tree_renamed r;
	struct node n;

	if (ino_type(parent) != INO_TREE || ino_type(new_parent) != INO_TREE) {
		fuse_reply_err(req, EROFS);
		return;
	}
	int rc = tree_lookup(m->cat, ino_id(parent), name, &n);
	/* A derived name is copied and removed instead (mv does so at EXDEV). */
	if (rc == -ENOENT && derived_shown(m, parent, name))
		rc = -EXDEV;
	if (rc == 0 && (flags & RENAME_NOREPLACE) && derived_shown(m, new_parent, new_name))
		rc = -EEXIST;
	const bool hidden = rc == 0 && S_ISDIR(n.st.st_mode) &&
		(name[0] == '.' || tree_is_hidden(m->cat, ino_id(parent)));
	if (rc == 0)
		rc = tree_rename(m->cat, ino_id(parent), name, ino_id(new_parent), new_name, flags,
			&r);
	if (rc == -ENOENT && (flags & RENAME_EXCHANGE) && derived_shown(m, new_parent, new_name))
		rc = -EXDEV;
	if (rc == 0)
		follow_rename(m, name, new_name, &r);
	if (rc == 0 && hidden)
		engine_folder_shown(m->engine);
	reply_gone(m, req, rc);
}

/*
 * Attributes, and for how long the kernel may keep them.
 *
 * What only changes through the kernel is kept: it knows. So is what cannot change any more: the
 * folder of a generation that has ended, its picture, what was asked of it. Everything else is asked
 * for again each time, as a size that is wrong makes wrong copies. Names: a file of a generation,
 * once there, only goes by a removal through this mount; names beside a prompt come and go by
 * themselves; that there is no prompt of a name is kept too.
 */
#include "base/clock.h"
#include "mount/internal.h"
#include <errno.h>
#include <sys/stat.h>

/* Seconds. */
static const double KEEP = 86400, SOON = 1, NEVER = 0;

static void set_times(struct stat *st, int64_t made_ms, int64_t changed_ms)
{
	st->st_mtim = st->st_ctim = clock_timespec(changed_ms);
	st->st_atim = clock_timespec(changed_ms > made_ms ? changed_ms : made_ms);
}

static void stat_own(struct mount *m, mode_t mode, int64_t size, struct stat *st)
{
	st->st_mode = mode;
	st->st_nlink = S_ISDIR(mode) ? 2 : 1;
	st->st_uid = m->uid;
	st->st_gid = m->gid;
	st->st_size = size;
	st->st_blksize = 4096;
	st->st_blocks = (size + 511) / 512;
}

/* ---- texts ---- */

static mode_t mode_of_text(fuse_ino_t ino)
{
	/* A status may be opened for writing by the helper, which may not be root; only it may. */
	return S_IFREG |
		(ino == STATIC_CONTROL || ino_type(ino) == INO_STATUS ? 0644 : 0444);
}

/* When a text's subject last changed; of a generation's texts see stat_generation_text(). */
static int64_t time_of_text(struct mount *m, fuse_ino_t ino)
{
	const int64_t id = ino_id(ino);
	int64_t ms = 0;

	if (ino_type(ino) == INO_STATUS || ino_type(ino) == INO_ERROR) {
		struct node n;
		struct request_brief r;
		int err;

		if (tree_draft_get(m->cat, id, &err, NULL, &ms) < 0 &&
			tree_get(m->cat, id, &n) == 0 && n.request &&
			request_brief(m->cat, n.request, &r) == 0)
			ms = r.changed_ms;
	} else if (ino == STATIC_CREDITS || ino == STATIC_ACCOUNT) {
		struct wire_balance b;

		if (catalogue_balance_load(m->cat, &b, &ms) == 0)
			wire_balance_release(&b);
	}
	return ms ? ms : m->since_ms;
}

/* The size that a text has now, or that it had when it was opened last. */
static int size_of_text(struct mount *m, fuse_ino_t ino, int64_t *size)
{
	char *text = NULL;
	size_t len = 0;

	*size = text_snapshot_size(m, ino);
	if (*size >= 0)
		return 0;
	const int rc = text_render(m, ino, &text, &len);
	*size = rc < 0 ? 0 : (int64_t)len;
	free(text);
	return rc;
}

static int stat_text(struct mount *m, fuse_ino_t ino, struct stat *st)
{
	const int64_t changed = time_of_text(m, ino);
	int64_t size;
	const int rc = size_of_text(m, ino, &size);

	/* The balance is not known yet: the file is there, and opening it says why. */
	if (rc < 0 && ino != STATIC_CREDITS && ino != STATIC_ACCOUNT)
		return rc;
	stat_own(m, mode_of_text(ino), size, st);
	set_times(st, changed, changed);
	return 0;
}

/* The answer holds the pictures' addresses, which are fetched anew when they have expired. */
static int64_t time_of_addresses(struct mount *m, int64_t generation)
{
	struct image *images;
	size_t n;
	int64_t ms = 0;

	if (image_list(m->cat, generation, &images, &n) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		ms = images[i].url_ms > ms ? images[i].url_ms : ms;
	images_free(images, n);
	return ms;
}

/* Whether all that a status speaks of has its last word. r: of the request whose latest it is. */
static bool is_last_word(struct mount *m, const struct generation_outline *g,
	const struct request_brief *r)
{
	struct image *images;
	size_t n;

	if (g->phase == PHASE_PENDING || (r && r->state != REQUEST_SUCCEEDED) ||
		image_list(m->cat, g->id, &images, &n) < 0)
		return false;
	bool all = true;
	for (size_t i = 0; i < n; i++)
		all &= images[i].size >= 0;
	images_free(images, n);
	return all;
}

static int stat_generation_text(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout)
{
	const int64_t id = ino_id(ino) >> 4;
	const enum generation_text text = (enum generation_text)(ino_id(ino) & 15);
	struct generation_outline g;
	struct request_brief r;
	bool latest = false;
	int64_t size = 0, changed;

	int rc = generation_outline(m->cat, id, &g);
	if (rc == 0)
		rc = size_of_text(m, ino, &size);
	if (rc < 0)
		return rc;
	changed = g.created_ms;
	if (text == GTEXT_PROMPT || text == GTEXT_REQUEST) {
		*timeout = KEEP;
	} else {
		/* After a retry the request speaks of a later generation. */
		latest = g.request && request_brief(m->cat, g.request, &r) == 0 &&
			r.generation == id;
		changed = latest && r.changed_ms > g.changed_ms ? r.changed_ms : g.changed_ms;
		if (text == GTEXT_RESPONSE) {
			const int64_t fetched = time_of_addresses(m, id);
			changed = fetched > changed ? fetched : changed;
		}
		if (text == GTEXT_STATUS && is_last_word(m, &g, latest ? &r : NULL))
			*timeout = KEEP;
	}
	stat_own(m, mode_of_text(ino), size, st);
	set_times(st, changed, changed);
	return 0;
}

/* ---- the rest ---- */

void image_stat(struct mount *m, int64_t id, int64_t size, int64_t listed_ms, struct stat *st)
{
	*st = (struct stat){.st_ino = ino_make(INO_IMAGE, id)};
	stat_own(m, S_IFREG | 0444, size, st);
	set_times(st, listed_ms, listed_ms);
}

static int stat_image(struct mount *m, int64_t id, struct stat *st)
{
	struct image i;
	int rc = image_get(m->cat, id, &i);

	if (rc < 0)
		return rc;
	if (i.size < 0 || i.removed)
		rc = -ENOENT;
	image_stat(m, id, i.size, i.listed_ms, st);
	image_release(&i);
	return rc;
}

static void stat_generation(struct mount *m, const struct generation_entry *g, struct stat *st,
	double *timeout)
{
	stat_own(m, S_IFDIR | 0755, 0, st);
	set_times(st, g->created_ms, g->changed_ms);
	*timeout = g->phase == PHASE_PENDING ? NEVER : KEEP;
}

void generation_node_entry(struct mount *m, const struct generation_entry *g,
	struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.ino = ino_make(INO_GENERATION, g->id), .entry_timeout = KEEP};
	stat_generation(m, g, &e->attr, &e->attr_timeout);
	e->attr.st_ino = e->ino;
}

/* The folders above all others never change, and the kernel asks for their mode with each path. */
static int stat_static(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout)
{
	if (ino < STATIC_ROOT || ino > STATIC_GENERATIONS)
		return -ENOENT;
	if (is_text(ino))
		return stat_text(m, ino, st);
	stat_own(m, S_IFDIR | 0755, 0, st);
	st->st_nlink = ino == STATIC_ROOT ? 5 : 2;
	set_times(st, m->since_ms, m->since_ms);
	*timeout = KEEP;
	return 0;
}

static int stat_tree(struct mount *m, int64_t id, struct stat *st)
{
	struct node n;
	const int rc = tree_get(m->cat, id, &n);

	if (rc == 0)
		*st = n.st;
	return rc;
}

int node_stat(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout)
{
	struct generation_entry g;
	int rc = 0;

	*st = (struct stat){0};
	*timeout = NEVER;
	switch (ino_type(ino)) {
	case INO_STATIC:
		rc = stat_static(m, ino, st, timeout);
		break;
	case INO_TREE:
		rc = stat_tree(m, ino_id(ino), st);
		*timeout = KEEP;
		break;
	case INO_WAIT:
		stat_own(m, S_IFREG | 0444, 0, st);
		set_times(st, m->since_ms, clock_wall_ms());
		break;
	case INO_GENERATION:
		rc = generation_entry_get(m->cat, ino_id(ino), &g);
		if (rc == 0)
			stat_generation(m, &g, st, timeout);
		break;
	case INO_IMAGE:
		rc = stat_image(m, ino_id(ino), st);
		*timeout = KEEP;
		break;
	case INO_TEXT:
		rc = stat_generation_text(m, ino, st, timeout);
		break;
	default:
		rc = stat_text(m, ino, st);
		break;
	}
	st->st_ino = ino;
	return rc;
}

int known_stat(struct mount *m, fuse_ino_t ino, struct stat *st, double *timeout)
{
	const int rc = node_stat(m, ino, st, timeout);

	return rc == -ENOENT && removed_stat(m, ino, st) ? 0 : rc;
}

double node_entry_timeout(fuse_ino_t parent, fuse_ino_t ino)
{
	if (ino_type(parent) == INO_GENERATION)
		return KEEP;
	switch (ino_type(ino)) {
	case INO_STATIC:
	case INO_TREE:
	case INO_GENERATION:
		return KEEP;
	case INO_IMAGE:
	case INO_MODEL:
		return SOON;
	default:
		return NEVER;
	}
}

int node_entry(struct mount *m, fuse_ino_t parent, fuse_ino_t ino, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.ino = ino, .entry_timeout = node_entry_timeout(parent, ino)};
	return node_stat(m, ino, &e->attr, &e->attr_timeout);
}

void tree_node_entry(const struct node *n, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){.ino = ino_make(INO_TREE, n->id),
		.attr = n->st,
		.attr_timeout = KEEP,
		.entry_timeout = KEEP};
	e->attr.st_ino = e->ino;
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct stat st;
	double timeout;

	(void)fi;
	const int rc = known_stat(m, ino, &st, &timeout);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st, timeout);
}

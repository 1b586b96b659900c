#include "base/names.h"
#include "mount/internal.h"
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

enum { PAGE = 512, NAME_MAX_BYTES = 256 };

/* An open directory. /generations is read page by page, its rows being the offsets; every other is
 * a list made at offset 0. Offsets 1 and 2 are behind "." and "..". */
struct listing {
	pthread_mutex_t lock; /* readdir may come from several threads */
	struct item {
		char *name;
		fuse_ino_t ino;
		mode_t mode;
	} *items;
	size_t count, alloc;
	bool filled;
	struct generation_entry *page; /* /generations */
	int page_count;
	int64_t page_after; /* the row the page begins behind; -1: none read */
};

static struct listing *listing_of(const struct fuse_file_info *fi)
{
	return (struct listing *)(uintptr_t)fi->fh;
}

static void clear(struct listing *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->items[i].name);
	l->count = 0;
	l->filled = false;
	l->page_after = -1;
}

static void add(struct listing *l, const char *name, fuse_ino_t ino, mode_t mode)
{
	if (l->count == l->alloc) {
		l->alloc = l->alloc ? l->alloc * 2 : 32;
		l->items = xrealloc(l->items, l->alloc * sizeof *l->items);
	}
	l->items[l->count++] = (struct item){xstrdup(name), ino, mode};
}

/* ---- what is in a directory ---- */

struct filling {
	struct mount *m;
	struct listing *l;
	fuse_ino_t dir;
};

static bool add_node(void *arg, int64_t id, const char *name, mode_t mode)
{
	add(((struct filling *)arg)->l, name, ino_make(INO_TREE, id), mode);
	return true;
}

static bool add_derived(void *arg, const char *name, const struct derived *d)
{
	const struct filling *f = arg;
	const fuse_ino_t ino = ino_of_derived(d);

	if (is_visible(f->m, f->dir, ino, d->since_ms))
		add(f->l, name, ino, S_IFREG);
	return true;
}

static int fill_requests(struct mount *m, fuse_req_t req, fuse_ino_t dir, struct listing *l)
{
	struct filling f = {m, l, dir};
	int rc = tree_list(m->cat, ino_id(dir), add_node, &f);
	const size_t own = l->count;

	if (rc == 0)
		rc = derived_list(m->cat, ino_id(dir), add_derived, &f);
	if (l->count > own)
		ghosts_listed(m->ghosts, ino_id(dir), fuse_req_ctx(req)->pid);
	return rc;
}

static int fill_generation(struct mount *m, fuse_ino_t dir, struct listing *l)
{
	const int64_t id = ino_id(dir);
	struct generation g;
	struct image *images;
	size_t n;
	char name[32];
	int rc = generation_get(m->cat, id, &g);

	if (rc < 0)
		return rc;
	for (int t = 0; t < GTEXT_COUNT; t++)
		if (generation_has(&g, (enum generation_text)t))
			add(l, generation_text_name((enum generation_text)t),
				ino_make(INO_TEXT, id << 4 | t), S_IFREG);
	generation_release(&g);
	rc = image_list(m->cat, id, &images, &n);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		const fuse_ino_t ino = ino_make(INO_IMAGE, images[i].id);

		if (images[i].size < 0 || images[i].removed || !picture_extension(images[i].type) ||
			!is_visible(m, dir, ino, images[i].listed_ms))
			continue;
		image_name(&images[i], name);
		add(l, name, ino, S_IFREG);
	}
	images_free(images, n);
	return 0;
}

static void fill_models(struct mount *m, struct listing *l)
{
	for (int64_t k = 1;; k++) {
		CLEANUP_FREE char *id = engine_model_id(m->engine, k);

		if (!id)
			break;
		CLEANUP_FREE char *name = xasprintf("%s.json", id);
		add(l, name, ino_make(INO_MODEL, k), S_IFREG);
	}
}

static void fill_root(struct listing *l)
{
	add(l, "README.txt", STATIC_README, S_IFREG);
	add(l, "credits", STATIC_CREDITS, S_IFREG);
	add(l, "account.json", STATIC_ACCOUNT, S_IFREG);
	add(l, "models", STATIC_MODELS, S_IFDIR);
	add(l, "control", STATIC_CONTROL, S_IFREG);
	add(l, "requests", ino_requests(), S_IFDIR);
	add(l, "generations", STATIC_GENERATIONS, S_IFDIR);
}

static int fill(struct mount *m, fuse_req_t req, fuse_ino_t dir, struct listing *l)
{
	int rc = 0;

	clear(l);
	if (ino_type(dir) == INO_TREE)
		rc = fill_requests(m, req, dir, l);
	else if (ino_type(dir) == INO_GENERATION)
		rc = fill_generation(m, dir, l);
	else if (dir == STATIC_MODELS)
		fill_models(m, l);
	else if (dir == STATIC_ROOT)
		fill_root(l);
	l->filled = true;
	return rc;
}

/* ---- replying ---- */

struct page {
	struct mount *m;
	fuse_ino_t dir;
	fuse_req_t req;
	char *bytes;
	size_t size, used;
	bool plus;
};

/* Adds one entry; false when the page is full. known: its attributes, or NULL to ask for them. A
 * text's size is dear to tell: its attributes are left to who asks (an entry without an inode is
 * only a name to the kernel). */
static bool put(struct page *p, const char *name, fuse_ino_t ino, mode_t mode, off_t next,
	const struct stat *known)
{
	const struct stat name_only = {.st_ino = ino, .st_mode = mode};
	struct fuse_entry_param e = {.attr = name_only};
	size_t need;

	if (p->plus && known) {
		e = (struct fuse_entry_param){.ino = ino, .attr = *known,
			.entry_timeout = 86400, .attr_timeout = node_attr_timeout(ino)};
	} else if (p->plus && (ino_type(ino) == INO_TREE || ino_type(ino) == INO_IMAGE)) {
		if (node_entry(p->m, p->dir, ino, &e) < 0)
			return true; /* it has just gone */
	}
	need = p->plus ? fuse_add_direntry_plus(p->req, p->bytes + p->used, p->size - p->used, name,
				 &e, next)
		       : fuse_add_direntry(p->req, p->bytes + p->used, p->size - p->used, name,
				 &name_only, next);
	if (need > p->size - p->used)
		return false;
	p->used += need;
	return true;
}

static bool put_dots(struct page *p, fuse_ino_t dir, off_t off)
{
	bool room = true;

	if (off < 1)
		room = put(p, ".", dir, S_IFDIR, 1, NULL);
	if (room && off < 2)
		room = put(p, "..", dir, S_IFDIR, 2, NULL);
	return room;
}

static void put_items(struct page *p, const struct listing *l, off_t off)
{
	for (size_t i = off < 2 ? 0 : (size_t)off - 2; i < l->count; i++)
		if (!put(p, l->items[i].name, l->items[i].ino, l->items[i].mode, (off_t)i + 3,
			    NULL))
			break;
}

/* The page of rows behind `after`; kept for the next call, which often goes on in its middle. */
static int load_page(struct mount *m, struct listing *l, int64_t after)
{
	if (!l->page)
		l->page = xcalloc(PAGE, sizeof *l->page);
	l->page_count = generation_list(m->cat, after, l->page, PAGE);
	l->page_after = after;
	return l->page_count;
}

static int put_generations(struct page *p, struct listing *l, off_t off)
{
	int64_t after = off < 2 ? 0 : off - 2;

	for (;;) {
		const int n = load_page(p->m, l, after);

		if (n <= 0)
			return n;
		for (int i = 0; i < n; i++) {
			const struct generation_entry *g = &l->page[i];
			const fuse_ino_t ino = ino_make(INO_GENERATION, g->id);
			struct stat st;

			after = g->id;
			if (!is_visible(p->m, STATIC_GENERATIONS, ino, g->created_ms))
				continue;
			generation_stat(p->m, g->id, g->created_ms, g->changed_ms, &st);
			if (!put(p, g->hub_id, ino, S_IFDIR, g->id + 2, &st))
				return 0;
		}
	}
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
	bool plus)
{
	struct mount *m = fuse_req_userdata(req);
	struct listing *l = listing_of(fi);
	struct page p = {.m = m, .dir = ino, .req = req, .bytes = xmalloc(size), .size = size, .plus = plus};
	int rc = 0;

	pthread_mutex_lock(&l->lock);
	if (put_dots(&p, ino, off)) {
		if (ino == STATIC_GENERATIONS) {
			rc = put_generations(&p, l, off);
		} else {
			if (off == 0 || !l->filled)
				rc = fill(m, req, ino, l);
			if (rc >= 0)
				put_items(&p, l, off);
		}
	}
	pthread_mutex_unlock(&l->lock);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_buf(req, p.bytes, p.used);
	free(p.bytes);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, true);
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct listing *l = xcalloc(1, sizeof *l);

	(void)ino;
	pthread_mutex_init(&l->lock, NULL);
	l->page_after = -1;
	fi->fh = (uint64_t)(uintptr_t)l;
	if (fuse_reply_open(req, fi) < 0)
		free(l);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct listing *l = listing_of(fi);

	(void)ino;
	clear(l);
	pthread_mutex_destroy(&l->lock);
	free(l->items);
	free(l->page);
	free(l);
	fuse_reply_err(req, 0);
}

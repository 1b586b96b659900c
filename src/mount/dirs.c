#include "base/names.h"
#include "mount/internal.h"
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

/* An open directory. /generations is read straight from the catalogue, its rows being the offsets;
 * every other is a list made at offset 0, which rewinddir(3) makes anew. Offsets 1 and 2 are behind
 * "." and "..". */
struct listing {
	pthread_mutex_t lock; /* readdir may come from several threads */
	struct item {
		char *name;
		fuse_ino_t ino;
		mode_t mode;
		int64_t size, listed_ms; /* of a generation's picture */
	} *items;
	size_t count, alloc;
	bool filled, fresh; /* fresh: not read from yet */
	bool complete;	    /* no name will come to it by itself */
	uint64_t names_gone; /* the mount's, when it was filled */
};

/* ---- folders that get no more names ---- */

/*
 * The folder of a generation that has ended and whose pictures are all listed (or removed) only loses
 * names from then on, and only by calls on this mount, which the kernel sees. So the kernel may keep
 * such a folder's names across opens: a second find over 100,000 of them makes one call a folder.
 * Which these are is kept as a bit, so that this call costs no query.
 */
enum { COMPLETE_ROWS_MAX = 1 << 26 };

static bool is_complete(struct mount *m, int64_t generation)
{
	const size_t word = (size_t)generation / 64;

	pthread_mutex_lock(&m->complete_lock);
	const bool set = word < m->complete_words &&
		(m->complete[word] & (uint64_t)1 << generation % 64);
	pthread_mutex_unlock(&m->complete_lock);
	return set;
}

static void set_complete(struct mount *m, int64_t generation)
{
	const size_t word = (size_t)generation / 64;

	if (generation >= COMPLETE_ROWS_MAX)
		return;
	pthread_mutex_lock(&m->complete_lock);
	if (word >= m->complete_words) {
		const size_t words = (word + 1) * 2;

		m->complete = xrealloc(m->complete, words * sizeof *m->complete);
		memset(m->complete + m->complete_words, 0,
			(words - m->complete_words) * sizeof *m->complete);
		m->complete_words = words;
	}
	m->complete[word] |= (uint64_t)1 << generation % 64;
	pthread_mutex_unlock(&m->complete_lock);
}

static struct listing *listing_of(const struct fuse_file_info *fi)
{
	return (struct listing *)(uintptr_t)fi->fh;
}

static void clear(struct listing *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->items[i].name);
	l->count = 0;
	l->filled = l->fresh = l->complete = false;
}

static struct item *add(struct listing *l, const char *name, fuse_ino_t ino, mode_t mode)
{
	if (l->count == l->alloc) {
		l->alloc = l->alloc ? l->alloc * 2 : 32;
		l->items = xrealloc(l->items, l->alloc * sizeof *l->items);
	}
	l->items[l->count] = (struct item){.name = xstrdup(name), .ino = ino, .mode = mode};
	return &l->items[l->count++];
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

	if (derived_is_visible(f->m, f->dir, d))
		add(f->l, name, ino_of_derived(d), S_IFREG);
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

static void add_images(struct mount *m, fuse_ino_t dir, struct listing *l,
	const struct image *images, size_t n)
{
	char name[32];

	for (size_t k = 0; k < n; k++) {
		const struct image *i = &images[k];
		const fuse_ino_t ino = ino_make(INO_IMAGE, i->id);

		if (i->removed || (i->size >= 0 && !picture_extension(i->type)))
			continue;
		if (i->size < 0 || !is_visible(m, dir, ino, i->listed_ms)) {
			l->complete = false;
			continue;
		}
		image_name(i, name);
		struct item *item = add(l, name, ino, S_IFREG);
		item->size = i->size;
		item->listed_ms = i->listed_ms;
	}
}

static int fill_generation(struct mount *m, fuse_ino_t dir, struct listing *l)
{
	const int64_t id = ino_id(dir);
	struct generation_outline g;
	struct image *images;
	size_t n;
	int rc = generation_outline(m->cat, id, &g);

	if (rc == 0)
		rc = image_list(m->cat, id, &images, &n);
	if (rc < 0)
		return rc;
	for (int t = 0; t < GTEXT_COUNT; t++)
		if (generation_has(&g, (enum generation_text)t))
			add(l, generation_text_name((enum generation_text)t),
				ino_make(INO_TEXT, id << 4 | t), S_IFREG);
	l->complete = g.phase != PHASE_PENDING;
	add_images(m, dir, l, images, n);
	images_free(images, n);
	if (l->complete)
		set_complete(m, id);
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
	l->names_gone = atomic_load(&m->names_gone);
	if (ino_type(dir) == INO_TREE)
		rc = fill_requests(m, req, dir, l);
	else if (ino_type(dir) == INO_GENERATION)
		rc = fill_generation(m, dir, l);
	else if (dir == STATIC_MODELS)
		fill_models(m, l);
	else if (dir == STATIC_ROOT)
		fill_root(l);
	l->filled = l->fresh = true;
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

/* Adds one entry; false when the page is full. With READDIRPLUS, e has its attributes; one without
 * an inode is only a name to the kernel. */
static bool put(struct page *p, const char *name, const struct fuse_entry_param *e, off_t next)
{
	const size_t room = p->size - p->used;
	const size_t need = p->plus
		? fuse_add_direntry_plus(p->req, p->bytes + p->used, room, name, e, next)
		: fuse_add_direntry(p->req, p->bytes + p->used, room, name, &e->attr, next);

	if (need > room)
		return false;
	p->used += need;
	return true;
}

static struct fuse_entry_param name_only(fuse_ino_t ino, mode_t mode)
{
	struct fuse_entry_param e = {.ino = 0};

	e.attr.st_ino = ino;
	e.attr.st_mode = mode;
	return e;
}

/* What a name is now, when names have gone since the list was made: the kernel keeps what it is given
 * with its attributes as the name's own, and would find what was removed or renamed under it. */
static bool is_current(struct page *p, fuse_ino_t dir, const struct listing *l, const struct item *i,
	fuse_ino_t *ino)
{
	*ino = i->ino;
	return l->names_gone == atomic_load(&p->m->names_gone) ||
		node_find(p->m, dir, i->name, ino, false) == 0;
}

/* A text's size is dear to tell: its attributes are left to who asks. False when it has gone. */
static bool describe(struct page *p, fuse_ino_t dir, const struct listing *l, const struct item *i,
	struct fuse_entry_param *e)
{
	fuse_ino_t ino;

	*e = name_only(i->ino, i->mode);
	if (!p->plus)
		return true;
	if (!is_current(p, dir, l, i, &ino))
		return false;
	if (ino != i->ino)
		return node_entry(p->m, dir, ino, e) == 0;
	if (ino_type(dir) == INO_GENERATION && ino_type(i->ino) == INO_IMAGE) {
		e->ino = i->ino;
		e->entry_timeout = e->attr_timeout = node_entry_timeout(dir, i->ino);
		image_stat(p->m, ino_id(i->ino), i->size, i->listed_ms, &e->attr);
	} else if (ino_type(i->ino) == INO_TREE || ino_type(i->ino) == INO_IMAGE) {
		return node_entry(p->m, dir, i->ino, e) == 0;
	}
	return true;
}

static bool put_dots(struct page *p, fuse_ino_t dir, off_t off)
{
	const struct fuse_entry_param e = name_only(dir, S_IFDIR);
	bool room = true;

	if (off < 1)
		room = put(p, ".", &e, 1);
	if (room && off < 2)
		room = put(p, "..", &e, 2);
	return room;
}

static void put_items(struct page *p, fuse_ino_t dir, const struct listing *l, off_t off)
{
	struct fuse_entry_param e;

	for (size_t i = off < 2 ? 0 : (size_t)off - 2; i < l->count; i++)
		if (describe(p, dir, l, &l->items[i], &e) &&
			!put(p, l->items[i].name, &e, (off_t)i + 3))
			break;
}

/* Under the catalogue's lock, once for each of a million: nothing here may ask the catalogue. */
static bool put_generation(void *arg, const struct generation_entry *g)
{
	struct page *p = arg;
	const fuse_ino_t ino = ino_make(INO_GENERATION, g->id);
	struct fuse_entry_param e;

	if (!is_visible(p->m, STATIC_GENERATIONS, ino, g->created_ms))
		return true;
	if (p->plus)
		generation_node_entry(p->m, g, &e);
	else
		e = name_only(ino, S_IFDIR);
	return put(p, g->hub_id, &e, g->id + 2);
}

static int put_list(struct page *p, fuse_ino_t dir, struct listing *l, off_t off)
{
	int rc = 0;

	if ((off == 0 && !l->fresh) || !l->filled)
		rc = fill(p->m, p->req, dir, l);
	l->fresh = false;
	if (rc >= 0)
		put_items(p, dir, l, off);
	return rc;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
	bool plus)
{
	struct mount *m = fuse_req_userdata(req);
	struct listing *l = listing_of(fi);
	struct page p = {.m = m, .dir = ino, .req = req, .bytes = xmalloc(size), .size = size, .plus = plus};
	int rc = 0;

	pthread_mutex_lock(&l->lock);
	if (put_dots(&p, ino, off))
		rc = ino == STATIC_GENERATIONS
			? generation_list(m->cat, off < 2 ? 0 : off - 2, put_generation, &p)
			: put_list(&p, ino, l, off);
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

static void listing_free(struct listing *l)
{
	clear(l);
	pthread_mutex_destroy(&l->lock);
	free(l->items);
	free(l);
}

/* A generation's folder is read here, to know whether it is complete. */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct listing *l = xcalloc(1, sizeof *l);
	bool keep = false;
	int rc = 0;

	pthread_mutex_init(&l->lock, NULL);
	if (ino_type(ino) == INO_GENERATION) {
		keep = is_complete(m, ino_id(ino));
		if (!keep)
			rc = fill(m, req, ino, l);
		keep |= l->complete;
	}
	if (rc < 0) {
		listing_free(l);
		fuse_reply_err(req, -rc);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)l;
	fi->cache_readdir = fi->keep_cache = keep;
	if (away_reply_open(m, req, fi) < 0)
		listing_free(l);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	listing_free(listing_of(fi));
	away_closed(fuse_req_userdata(req));
	fuse_reply_err(req, 0);
}

/*
 * NAME.wait: a stream of progress. Each read gives the next line, at once when the state has
 * changed, at the latest EVERY_MS after the one before; the last line is the status; then end of
 * file after a success, or the errno of what stopped it. An end is not told before the names that go
 * with it (pictures, .error, the generation) can be seen, so that `cat cat.wait && cp cat.png ~/` is
 * right.
 */
#include "base/clock.h"
#include "mount/internal.h"
#include <ctype.h>
#include <errno.h>

enum { EVERY_MS = 5000, LOOK_AGAIN_MS = 50 };

struct following {
	struct mount *m;
	int64_t node;
	pthread_mutex_t lock; /* reads of one handle by several threads */
	char *line;	      /* being given: line + given is the rest */
	size_t given;
	char *last;	      /* given before */
	int64_t last_ms;      /* when; 0: none yet */
	bool ended;
	int err;
};

static struct following *following_of(uint64_t fh)
{
	return (struct following *)(uintptr_t)fh;
}

void wait_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct following *f = xcalloc(1, sizeof *f);

	f->m = m;
	f->node = ino_id(ino);
	pthread_mutex_init(&f->lock, NULL);
	fi->fh = (uint64_t)(uintptr_t)f;
	fi->direct_io = 1;
	fi->nonseekable = 1;
	fi->noflush = 1;
	if (away_reply_open(m, req, fi) < 0)
		wait_release(fi);
}

void wait_release(struct fuse_file_info *fi)
{
	struct following *f = following_of(fi->fh);

	pthread_mutex_destroy(&f->lock);
	free(f->line);
	free(f->last);
	free(f);
}

/* ---- whether everything that a success means can be seen ---- */

struct seeing {
	struct mount *m;
	fuse_ino_t parent;
	bool all;
};

static bool look(void *arg, const char *name, const struct derived *d)
{
	struct seeing *s = arg;

	(void)name;
	s->all = derived_is_visible(s->m, s->parent, d);
	return s->all;
}

/* Its folder, and the pictures there. */
static bool generation_visible(struct mount *m, int64_t generation)
{
	const fuse_ino_t folder = ino_make(INO_GENERATION, generation);
	struct generation_entry g;
	struct image *images;
	bool all = true;
	size_t n;

	if (generation_entry_get(m->cat, generation, &g) < 0)
		return true;
	if (!is_visible(m, STATIC_GENERATIONS, folder, g.created_ms))
		return false;
	if (image_list(m->cat, generation, &images, &n) < 0)
		return true;
	for (size_t i = 0; i < n; i++)
		all &= images[i].size < 0 ||
			is_visible(m, folder, ino_make(INO_IMAGE, images[i].id), images[i].listed_ms);
	images_free(images, n);
	return all;
}

static bool all_visible(struct mount *m, int64_t node)
{
	struct seeing s = {.m = m, .all = true};
	struct request_brief r;
	struct node n;

	if (tree_get(m->cat, node, &n) < 0)
		return true;
	s.parent = ino_make(INO_TREE, n.parent);
	derived_of(m->cat, node, look, &s);
	if (s.all && n.request && request_brief(m->cat, n.request, &r) == 0 && r.generation)
		s.all = generation_visible(m, r.generation);
	return s.all;
}

/* ---- lines ---- */

/* The words of a line without its numbers: what counts as a change. */
static bool same_state(const char *a, const char *b)
{
	while (*a && *b && !isdigit((unsigned char)*a) && *a == *b) {
		a++;
		b++;
	}
	return *a == *b || (isdigit((unsigned char)*a) && isdigit((unsigned char)*b));
}

enum next { NEXT_LINE, NEXT_END, NEXT_LATER, NEXT_SOON };

/* Under f->lock: what the next read gets. */
static enum next next_line(struct following *f)
{
	const int64_t now = clock_mono_ms();
	bool final;
	int err;

	if (f->line)
		return NEXT_LINE;
	if (f->ended)
		return NEXT_END;
	CLEANUP_FREE char *line = engine_progress(f->m->engine, f->node, &final, &err);
	if (final && !all_visible(f->m, f->node))
		return NEXT_SOON;
	if (!final && f->last && same_state(f->last, line) && now - f->last_ms < EVERY_MS)
		return NEXT_LATER;
	free(f->last);
	f->last = xstrdup(line);
	f->last_ms = now;
	f->line = line;
	line = NULL;
	f->given = 0;
	f->ended = final;
	f->err = err;
	return NEXT_LINE;
}

/* Under f->lock: takes up to size bytes of the line out, owned. */
static char *take_bytes(struct following *f, size_t size, size_t *n)
{
	const size_t left = strlen(f->line) - f->given;
	char *bytes = xstrndup(f->line + f->given, left < size ? left : size);

	*n = left < size ? left : size;
	f->given += *n;
	if (*n == left) {
		free(f->line);
		f->line = NULL;
	}
	return bytes;
}

/* Answers a read now; false when it has to wait until *deadline_ms for another state than that of the
 * line *last (owned). Once answered, the reader may close: f is not touched behind the reply. */
static bool answer(struct following *f, fuse_req_t req, size_t size, int64_t *deadline_ms, char **last)
{
	CLEANUP_FREE char *bytes = NULL;
	size_t n = 0;

	pthread_mutex_lock(&f->lock);
	const enum next next = next_line(f);
	const int err = next == NEXT_END ? f->err : 0;
	if (next == NEXT_LINE)
		bytes = take_bytes(f, size, &n);
	*deadline_ms = next == NEXT_SOON ? clock_mono_ms() + LOOK_AGAIN_MS : f->last_ms + EVERY_MS;
	*last = xstrdup(f->last ? f->last : "");
	pthread_mutex_unlock(&f->lock);

	if (next == NEXT_SOON || next == NEXT_LATER)
		return false;
	if (err)
		fuse_reply_err(req, err);
	else
		fuse_reply_buf(req, bytes, n);
	return true;
}

/* Whether the state is another than the line `last` told. */
static bool has_moved(struct mount *m, int64_t node, const char *last)
{
	bool final;
	int err;
	CLEANUP_FREE char *line = engine_progress(m->engine, node, &final, &err);

	return final || !same_state(last, line);
}

static void answer_or_park(struct mount *m, fuse_req_t req, size_t size, uint64_t fh)
{
	struct following *f = following_of(fh);

	for (;;) {
		struct parked what = {
			.kind = PARKED_WAIT, .node = f->node, .size = size, .fh = fh};

		CLEANUP_FREE char *last = NULL;

		if (answer(f, req, size, &what.deadline_ms, &last))
			return;
		/* Once parked, the handle may be closed by whoever answers. */
		const bool soon = what.deadline_ms <= clock_mono_ms() + LOOK_AGAIN_MS;
		const uint64_t token = park_add(m->park, req, &what);

		if (token == 0)
			return;
		notifier_poke(m->notifier);
		/* A change between the look and the parking woke nobody. */
		if (soon || !has_moved(m, what.node, last))
			return;
		struct parked *p = park_take(m->park, token);
		if (!p)
			return;
		parked_free(p);
	}
}

void wait_read(struct mount *m, fuse_req_t req, size_t size, struct fuse_file_info *fi)
{
	answer_or_park(m, req, size, fi->fh);
}

void wait_again(struct mount *m, struct parked *p)
{
	answer_or_park(m, p->req, p->size, p->fh);
	parked_free(p);
}

#include "catalogue/derived.h"
#include "base/names.h"
#include "catalogue/internal.h"
#include "catalogue/tree.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

/* Bits of node.hidden: names the user removed. Pictures take PICTURE_BIT + their number. */
enum { STATUS_BIT, ERROR_BIT, PICTURE_BIT };
enum { DERIVED_NAME_SIZE = 600 };

static const char suffix[] = ".prompt";

/* What is read of a prompt, all its derived names follow from it. */
struct source {
	int64_t node, request;
	char stem[256];
	unsigned hidden;
	bool draft, stopped; /* a note; a state with an .error */
	int64_t draft_ms, created_ms, changed_ms;
	int64_t generation;
	int ordered; /* pictures */
};

#define SOURCE_COLUMNS                                                                             \
	"n.id, n.request, n.name, n.hidden, n.draft_ms,"                                           \
	" r.state IN ('refused', 'failed', 'held', 'unknown'), r.created, r.changed,"              \
	" r.generation, coalesce(json_extract(r.wanted, '$.n'), 1)"

static void read_source(struct db_rows *r, struct source *s)
{
	const char *name = db_text(r, 2);

	*s = (struct source){
		.node = db_int(r, 0),
		.request = db_int(r, 1),
		.hidden = (unsigned)db_int(r, 3),
		.draft = !db_is_null(r, 4),
		.draft_ms = db_int(r, 4),
		.stopped = db_int(r, 5) != 0,
		.created_ms = db_int(r, 6),
		.changed_ms = db_int(r, 7),
		.generation = db_int(r, 8),
		.ordered = (int)db_int(r, 9),
	};
	snprintf(s->stem, sizeof s->stem, "%.*s", (int)(strlen(name) - strlen(suffix)), name);
}

static bool is_hidden(const struct source *s, int bit)
{
	return bit < 32 && (s->hidden & 1u << bit);
}

static bool has_status(const struct source *s)
{
	return (s->request || s->draft) && !is_hidden(s, STATUS_BIT);
}

static bool has_error(const struct source *s)
{
	return (s->draft || (s->request && s->stopped)) && !is_hidden(s, ERROR_BIT);
}

static struct derived status_of(const struct source *s)
{
	return (struct derived){.kind = DERIVED_STATUS,
		.node = s->node,
		.request = s->request,
		.since_ms = s->request ? s->created_ms : s->draft_ms,
		.noted = !s->request};
}

static struct derived error_of(const struct source *s)
{
	return (struct derived){.kind = DERIVED_ERROR,
		.node = s->node,
		.request = s->request,
		.since_ms = s->draft ? s->draft_ms : s->changed_ms,
		.noted = s->draft};
}

/* ---- look-up ---- */

static int find_source(struct catalogue *cat, int64_t dir, const char *stem, size_t len,
	struct source *s)
{
	char name[300];

	if (len == 0 || len > 255 - strlen(suffix) || stem[0] == '.')
		return -ENOENT;
	snprintf(name, sizeof name, "%.*s%s", (int)len, stem, suffix);
	struct db_rows *r = db_query(cat->db,
		"SELECT " SOURCE_COLUMNS " FROM node n LEFT JOIN request r ON r.id = n.request"
		" WHERE n.parent = ? AND n.name = ? AND n.mode & 61440 = 32768",
		"is", dir, name);
	const bool found = db_next(r);
	if (found)
		read_source(r, s);
	const int rc = db_done(r);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

static int find_text(struct catalogue *cat, int64_t dir, const char *name, struct derived *out)
{
	const char *dot = strrchr(name, '.');
	struct source s;

	if (!dot || (strcmp(dot, ".status") != 0 && strcmp(dot, ".error") != 0 &&
			    strcmp(dot, ".wait") != 0))
		return -ENOENT;
	const int rc = find_source(cat, dir, name, (size_t)(dot - name), &s);
	if (rc < 0)
		return rc;
	if (strcmp(dot, ".wait") == 0)
		*out = (struct derived){
			.kind = DERIVED_WAIT, .node = s.node, .request = s.request};
	else if (strcmp(dot, ".status") == 0 && has_status(&s))
		*out = status_of(&s);
	else if (strcmp(dot, ".error") == 0 && has_error(&s))
		*out = error_of(&s);
	else
		return -ENOENT;
	return 0;
}

static int find_image(struct catalogue *cat, const struct source *s, int number,
	enum picture_type type, struct derived *out)
{
	struct image i;

	if (s->generation == 0 || is_hidden(s, PICTURE_BIT + number))
		return -ENOENT;
	int rc = image_find(cat, s->generation, number, &i);
	if (rc < 0)
		return rc;
	if (i.size < 0 || i.removed || i.type != type)
		rc = -ENOENT;
	else
		*out = (struct derived){.kind = DERIVED_PICTURE,
			.node = s->node,
			.request = s->request,
			.image = i.id,
			.number = number,
			.since_ms = i.listed_ms};
	image_release(&i);
	return rc;
}

/* "cat-12" → 12 and the length of "cat"; 0 when it does not end so. */
static int split_number(const char *name, size_t len, size_t *stem)
{
	size_t at = len;
	int number = 0;

	while (at > 0 && isdigit((unsigned char)name[at - 1]))
		at--;
	if (at == len || len - at > 4 || at < 2 || name[at - 1] != '-' || name[at] == '0')
		return 0;
	for (size_t i = at; i < len; i++)
		number = number * 10 + (name[i] - '0');
	*stem = at - 1;
	return number;
}

static int find_picture(struct catalogue *cat, int64_t dir, const char *name, struct derived *out)
{
	const char *dot = strrchr(name, '.');
	const enum picture_type type = dot ? picture_from_extension(dot + 1) : PICTURE_UNKNOWN;
	const size_t len = dot ? (size_t)(dot - name) : 0;
	struct source s;
	size_t stem;

	if (type == PICTURE_UNKNOWN)
		return -ENOENT;
	if (find_source(cat, dir, name, len, &s) == 0 && s.ordered == 1 &&
		find_image(cat, &s, 1, type, out) == 0)
		return 0;
	const int number = split_number(name, len, &stem);
	if (number == 0 || find_source(cat, dir, name, stem, &s) < 0 || s.ordered == 1)
		return -ENOENT;
	return find_image(cat, &s, number, type, out);
}

int derived_lookup(struct catalogue *cat, int64_t dir, const char *name, struct derived *out)
{
	if (strlen(name) > 255)
		return -ENAMETOOLONG;
	db_lock(cat->db);
	int rc = find_text(cat, dir, name, out);
	if (rc == -ENOENT)
		rc = find_picture(cat, dir, name, out);
	db_unlock(cat->db);
	return rc;
}

/* ---- listing ---- */

struct listing {
	struct catalogue *cat;
	int64_t dir;
	derived_list_fn *fn;
	void *arg;
};

/* Gives one name, unless a user's file or a longer stem has it. */
static bool give(struct listing *l, const char *name, const struct derived *d)
{
	struct derived winner;
	struct node own;

	if (strlen(name) > 255 || tree_lookup(l->cat, l->dir, name, &own) == 0)
		return true;
	if (derived_lookup(l->cat, l->dir, name, &winner) < 0 || winner.node != d->node)
		return true;
	return l->fn(l->arg, name, d);
}

static bool give_pictures(struct listing *l, const struct source *s)
{
	char name[DERIVED_NAME_SIZE];
	struct image *images;
	size_t n;
	bool go_on = true;

	if (s->generation == 0 || image_list(l->cat, s->generation, &images, &n) < 0)
		return true;
	for (size_t i = 0; go_on && i < n; i++) {
		const struct image *im = &images[i];
		const char *extension = picture_extension(im->type);
		const struct derived d = {.kind = DERIVED_PICTURE,
			.node = s->node,
			.request = s->request,
			.image = im->id,
			.number = im->number,
			.since_ms = im->listed_ms};

		if (im->size < 0 || im->removed || !extension ||
			is_hidden(s, PICTURE_BIT + im->number) ||
			(s->ordered == 1 && im->number != 1))
			continue;
		if (s->ordered == 1)
			snprintf(name, sizeof name, "%s.%s", s->stem, extension);
		else
			snprintf(name, sizeof name, "%s-%d.%s", s->stem, im->number, extension);
		go_on = give(l, name, &d);
	}
	images_free(images, n);
	return go_on;
}

static bool give_all(struct listing *l, const struct source *s)
{
	char name[DERIVED_NAME_SIZE];
	struct derived d;

	if (has_status(s)) {
		d = status_of(s);
		snprintf(name, sizeof name, "%s.status", s->stem);
		if (!give(l, name, &d))
			return false;
	}
	if (has_error(s)) {
		d = error_of(s);
		snprintf(name, sizeof name, "%s.error", s->stem);
		if (!give(l, name, &d))
			return false;
	}
	return give_pictures(l, s);
}

/* Collects first: giving runs the same queries for other names. */
static int list_sources(struct listing *l, struct db_rows *r)
{
	struct source *sources = NULL;
	size_t n = 0, alloc = 0;

	while (db_next(r)) {
		if (n == alloc) {
			alloc = alloc ? alloc * 2 : 64;
			sources = xrealloc(sources, alloc * sizeof *sources);
		}
		read_source(r, &sources[n++]);
	}
	const int rc = db_done(r);
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (!give_all(l, &sources[i]))
			break;
	free(sources);
	return rc;
}

int derived_list(struct catalogue *cat, int64_t dir, derived_list_fn *fn, void *arg)
{
	struct listing l = {cat, dir, fn, arg};

	db_lock(cat->db);
	const int rc = list_sources(&l,
		db_query(cat->db,
			"SELECT " SOURCE_COLUMNS
			" FROM node n LEFT JOIN request r ON r.id = n.request"
			" WHERE n.parent = ? AND n.mode & 61440 = 32768 AND n.name GLOB '*.prompt'"
			" AND n.name NOT GLOB '.*' AND (n.request <> 0 OR n.draft_ms IS NOT NULL)"
			" ORDER BY n.name",
			"i", dir));
	db_unlock(cat->db);
	return rc;
}

int derived_of(struct catalogue *cat, int64_t node, derived_list_fn *fn, void *arg)
{
	struct listing l = {cat, 0, fn, arg};
	struct node n;

	db_lock(cat->db);
	int rc = tree_get(cat, node, &n);
	if (rc == 0) {
		l.dir = n.parent;
		rc = list_sources(&l,
			db_query(cat->db,
				"SELECT " SOURCE_COLUMNS
				" FROM node n LEFT JOIN request r ON r.id = n.request"
				" WHERE n.id = ? AND n.name GLOB '*.prompt' AND n.name NOT GLOB '.*'",
				"i", node));
	}
	db_unlock(cat->db);
	return rc;
}

int derived_dismiss(struct catalogue *cat, const struct derived *d)
{
	const int bit = d->kind == DERIVED_STATUS  ? STATUS_BIT
		: d->kind == DERIVED_ERROR	   ? ERROR_BIT
		: d->kind == DERIVED_PICTURE	   ? PICTURE_BIT + d->number
						   : -1;

	if (bit < 0 || bit >= 32)
		return bit < 0 ? 0 : -EPERM;
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE node SET hidden = hidden | ? WHERE id = ?", "ii",
		(int64_t)1 << bit, d->node);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

#include "engine/references.h"
#include "base/files.h"
#include "base/log.h"
#include "base/picture.h"
#include "catalogue/derived.h"
#include "catalogue/file.h"
#include "catalogue/tree.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <strings.h>

struct taking {
	struct engine *e;
	struct catalogue *cat;
	int64_t node; /* the prompt */
	const char *key;
	int dir; /* refs/KEY; -1 until the first */
	struct reference_set *set;
};

/* What a person would call a picture, whether the API takes it or not. */
static bool looks_like_picture(const char *name)
{
	static const char *const known[] = {"png", "jpg", "jpeg", "webp", "gif", "heic", "heif",
		"avif", "bmp", "tif", "tiff", "svg", "ico", "raw", "psd"};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < ARRAY_SIZE(known); i++)
		if (strcasecmp(dot + 1, known[i]) == 0)
			return true;
	return false;
}

static int copy_in(struct taking *t, int from, const char *file)
{
	CLEANUP_CLOSE int to = -1;

	if (t->dir < 0)
		t->dir = request_refs_create(t->cat, t->key);
	if (t->dir < 0)
		return t->dir;
	to = openat(t->dir, file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	const int rc = files_copy(from, to);
	return rc < 0 ? rc : fsync(to) < 0 ? -errno : 0;
}

/* Takes the content of one picture, fd borrowed. optional: what is no picture, by name and content,
 * is left aside. */
static int take_content(
	struct taking *t, int fd, int64_t size, const char *name, bool optional, char **error)
{
	unsigned char head[64];
	const ssize_t got = files_pread_full(fd, head, sizeof head, 0);

	if (got < 0)
		return fail(error, (int)got, "reference \"%s\" cannot be read", name);

	const enum picture_type type = picture_probe(head, (size_t)got).type;
	if (type == PICTURE_UNKNOWN) {
		if (optional && !looks_like_picture(name))
			return 0;
		return fail(error, -EINVAL,
			"reference \"%s\" is not a PNG, JPEG or WebP picture; convert it first",
			name);
	}
	if (size > WIRE_REFERENCE_BYTES_MAX)
		return fail(
			error, -EINVAL, "reference \"%s\" is over 50 MB; make it smaller", name);

	struct reference_set *set = t->set;
	CLEANUP_FREE char *file = xasprintf("%zu.%s", set->count + 1, picture_extension(type));
	const int rc = copy_in(t, fd, file);
	if (rc < 0)
		return fail(error, rc, "reference \"%s\" cannot be kept: %s", name, strerror(-rc));
	set->items = xrealloc(set->items, (set->count + 1) * sizeof *set->items);
	set->items[set->count++] = (struct request_reference){
		.file = xstrdup(file),
		.name = xstrdup(name),
		.mime = xstrdup(picture_mime(type)),
		.size = size,
	};
	return 0;
}

static int take(
	struct taking *t, const struct node *n, const char *name, bool optional, char **error)
{
	/* Half a picture would be paid for as well as a whole one. */
	if (file_is_midway(t->cat, n->id))
		return fail(error, -EINPROGRESS, "reference \"%s\" is still being written", name);

	CLEANUP_CLOSE int fd = S_ISREG(n->st.st_mode) ? file_spool_open(t->cat, n->id) : -EISDIR;

	if (fd < 0)
		return optional && fd == -EISDIR
			       ? 0
			       : fail(error, -EINVAL, "reference \"%s\" is not a file", name);
	return take_content(t, fd, n->st.st_size, name, optional, error);
}

/* ---- generated pictures: they may have to be downloaded first ---- */

struct awaited {
	struct engine *e;
	struct picture *picture;
	int64_t node;
	char *name;
};

/* It is here: the prompt may go on. It is not: the prompt is tried again in its own time. */
static void arrived(void *arg, int fd_or_error)
{
	struct awaited *a = arg;

	if (fd_or_error >= 0)
		engine_settle(a->e, a->node);
	else
		log_warning("reference \"%s\" cannot be downloaded: %s", a->name,
			strerror(-fd_or_error));
	picture_close(a->picture);
	free(a->name);
	free(a);
}

static int take_picture(struct taking *t, int64_t image, const char *name, char **error)
{
	struct picture *p;
	struct image i;
	bool whole = false;
	int rc = image_get(t->cat, image, &i);

	if (rc < 0)
		return rc;
	const int64_t size = i.size;
	image_release(&i);
	rc = picture_open(t->e, image, &p);
	if (rc < 0)
		return rc;
	const int fd = picture_fd(p, 0, (size_t)size, &whole);
	if (fd >= 0 && whole) {
		rc = take_content(t, fd, size, name, false, error);
		picture_close(p);
		return rc;
	}

	struct awaited *a = xmalloc(sizeof *a);
	*a = (struct awaited){t->e, p, t->node, xstrdup(name)};
	picture_wait(p, 0, (size_t)size, arrived, a);
	return fail(error, -EINPROGRESS, "reference \"%s\" has to be downloaded first", name);
}

/* ---- those that the front matter names ---- */

/* The image of a generated picture's name, "../bottle.png"; 0 if it is none. */
static int64_t find_generated(struct taking *t, int64_t from, const char *name)
{
	const char *slash = strrchr(name, '/');
	CLEANUP_FREE char *folder = slash ? xstrndup(name, (size_t)(slash - name)) : xstrdup(".");
	struct derived d;
	struct node dir;

	if (tree_resolve(t->cat, from, folder, &dir) < 0 || !S_ISDIR(dir.st.st_mode) ||
		derived_lookup(t->cat, dir.id, slash ? slash + 1 : name, &d) < 0)
		return 0;
	return d.kind == DERIVED_PICTURE ? d.image : 0;
}

static int take_one_named(struct taking *t, int64_t from, const char *name, char **error)
{
	struct node n;
	int rc = tree_resolve(t->cat, from, name, &n);
	const int64_t image = rc == -ENOENT ? find_generated(t, from, name) : 0;

	if (image)
		return take_picture(t, image, name, error);
	if (rc == -EXDEV)
		return fail(error, -EINVAL,
			"reference \"%s\" is outside of /requests; copy it in first", name);
	if (rc < 0)
		return fail(error, -EINVAL, "reference \"%s\" is not there; %s", name,
			strchr(name, ',') ? "write several in brackets: [a.png, b.png]"
					  : "put it there and save the prompt again");
	return take(t, &n, name, false, error);
}

static int take_named(struct taking *t, const struct prompt *p, int64_t from, char **error)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < p->n_references; i++)
		rc = take_one_named(t, from, p->references[i], error);
	return rc;
}

/* ---- those in references/ ---- */

struct names {
	struct {
		char *name;
		int64_t image; /* 0: a file of the user's */
	} items[PROMPT_REFERENCES_MAX + 1];
	size_t count;
};

static bool add_name(struct names *names, const char *name, int64_t image)
{
	if (name[0] != '.' && names->count <= PROMPT_REFERENCES_MAX) {
		names->items[names->count].name = xstrdup(name);
		names->items[names->count++].image = image;
	}
	return names->count <= PROMPT_REFERENCES_MAX;
}

static bool collect(void *arg, int64_t id, const char *name, mode_t mode)
{
	(void)id;
	(void)mode;
	return add_name(arg, name, 0);
}

static bool collect_picture(void *arg, const char *name, const struct derived *d)
{
	return d->kind != DERIVED_PICTURE || add_name(arg, name, d->image);
}

static int take_listed(struct taking *t, int64_t dir, const struct names *names, char **error)
{
	struct node n;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < names->count; i++) {
		const char *name = names->items[i].name;

		if (names->items[i].image)
			rc = take_picture(t, names->items[i].image, name, error);
		else if (tree_resolve(t->cat, dir, name, &n) == 0)
			rc = take(t, &n, name, true, error);
	}
	return rc;
}

static int take_folder(struct taking *t, int64_t folder, char **error)
{
	struct names names = {.count = 0};
	struct node dir;
	int rc = tree_resolve(t->cat, folder, "references", &dir);

	if (rc < 0 || !S_ISDIR(dir.st.st_mode))
		return 0;
	rc = tree_list(t->cat, dir.id, collect, &names);
	if (rc == 0)
		rc = derived_list(t->cat, dir.id, collect_picture, &names);
	if (rc == 0)
		rc = take_listed(t, dir.id, &names, error);
	for (size_t i = 0; i < names.count; i++)
		free(names.items[i].name);
	if (rc == 0 && t->set->count > PROMPT_REFERENCES_MAX)
		rc = fail(error, -EINVAL, "there are over %d reference pictures",
			PROMPT_REFERENCES_MAX);
	return rc;
}

int references_snapshot(struct engine *e, int64_t node, const struct prompt *p, int64_t folder,
	int64_t named_from, const char *key, struct reference_set *out, char **error)
{
	struct taking t = {.e = e, .cat = e->cat, .node = node, .key = key, .dir = -1, .set = out};

	int rc = take_named(&t, p, named_from, error);
	if (rc == 0)
		rc = take_folder(&t, folder, error);
	if (t.dir >= 0) {
		if (rc == 0)
			rc = files_sync_dir(t.dir);
		close(t.dir);
	}
	return rc;
}

void references_release(struct reference_set *set)
{
	request_references_free(set->items, set->count);
	*set = (struct reference_set){0};
}

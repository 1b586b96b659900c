#include "engine/references.h"
#include "base/files.h"
#include "base/picture.h"
#include "catalogue/file.h"
#include "catalogue/tree.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <strings.h>

struct taking {
	struct catalogue *cat;
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

/* Takes one file. optional: what is no picture, by name and content, is left aside. */
static int take(struct taking *t, const struct node *n, const char *name, bool optional,
	char **error)
{
	unsigned char head[64];
	CLEANUP_CLOSE int fd = S_ISREG(n->st.st_mode) ? file_spool_open(t->cat, n->id) : -EISDIR;

	if (fd < 0)
		return optional && fd == -EISDIR
			? 0
			: fail(error, -EINVAL, "reference \"%s\" is not a file", name);
	const ssize_t got = files_pread_full(fd, head, sizeof head, 0);
	if (got < 0)
		return fail(error, (int)got, "reference \"%s\" cannot be read", name);

	const enum picture_type type = picture_probe(head, (size_t)got).type;
	if (type == PICTURE_UNKNOWN) {
		if (optional && !looks_like_picture(name))
			return 0;
		return fail(error, -EINVAL,
			"reference \"%s\" is not a PNG, JPEG or WebP picture; convert it first", name);
	}
	if (n->st.st_size > WIRE_REFERENCE_BYTES_MAX)
		return fail(error, -EINVAL, "reference \"%s\" is over 50 MB; make it smaller", name);

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
		.size = n->st.st_size,
	};
	return 0;
}

static int take_named(struct taking *t, const struct prompt *p, int64_t from, char **error)
{
	for (size_t i = 0; i < p->n_references; i++) {
		const char *name = p->references[i];
		struct node n;
		int rc = tree_resolve(t->cat, from, name, &n);

		if (rc == -EXDEV)
			return fail(error, -EINVAL,
				"reference \"%s\" is outside of /requests; copy it in first", name);
		if (rc < 0)
			return fail(error, -EINVAL,
				"reference \"%s\" is not there; put it there and save the prompt "
				"again",
				name);
		rc = take(t, &n, name, false, error);
		if (rc < 0)
			return rc;
	}
	return 0;
}

struct names {
	char *items[PROMPT_REFERENCES_MAX + 1];
	size_t count;
};

static bool collect(void *arg, int64_t id, const char *name, mode_t mode)
{
	struct names *names = arg;

	(void)id;
	(void)mode;
	if (name[0] == '.')
		return true;
	if (names->count <= PROMPT_REFERENCES_MAX)
		names->items[names->count++] = xstrdup(name);
	return names->count <= PROMPT_REFERENCES_MAX;
}

static int take_folder(struct taking *t, int64_t folder, char **error)
{
	struct names names = {.count = 0};
	struct node dir, n;
	int rc = tree_lookup(t->cat, folder, "references", &dir);

	if (rc < 0 || !S_ISDIR(dir.st.st_mode))
		return 0;
	rc = tree_list(t->cat, dir.id, collect, &names);
	for (size_t i = 0; i < names.count; i++) {
		if (rc >= 0 && tree_resolve(t->cat, dir.id, names.items[i], &n) == 0)
			rc = take(t, &n, names.items[i], true, error);
		free(names.items[i]);
	}
	if (rc >= 0 && t->set->count > PROMPT_REFERENCES_MAX)
		rc = fail(error, -EINVAL, "there are over %d reference pictures",
			PROMPT_REFERENCES_MAX);
	return rc < 0 ? rc : 0;
}

int references_snapshot(struct catalogue *cat, const struct prompt *p, int64_t folder,
	int64_t named_from, const char *key, struct reference_set *out, char **error)
{
	struct taking t = {.cat = cat, .key = key, .dir = -1, .set = out};

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

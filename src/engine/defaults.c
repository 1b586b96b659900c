#include "engine/defaults.h"
#include "catalogue/file.h"
#include <errno.h>

static const char file_name[] = "defaults.yaml";

void defaults_release(struct defaults *d)
{
	for (size_t i = 0; i < d->count; i++) {
		free(d->labels[i]);
		buf_release(&d->texts[i]);
	}
}

static int read_one(struct catalogue *cat, int64_t file, int64_t folder, const char *label,
	struct defaults *d, char **error)
{
	/* Half of it is other settings. */
	if (file_is_midway(cat, file))
		return fail(error, -EINPROGRESS, "%s is still being written", label);

	const size_t k = d->count++;

	buf_init(&d->texts[k], DEFAULTS_MAX);
	d->folders[k] = folder;
	d->labels[k] = xstrdup(label);
	const int rc = file_content(cat, file, &d->texts[k]);
	if (rc == -EFBIG)
		return fail(error, -EINVAL, "%s is over 64 KiB", label);
	if (rc < 0)
		return fail(error, rc, "%s cannot be read: %s", label, strerror(-rc));
	d->sources[k] = (struct prompt_source){d->labels[k], d->texts[k].data, d->texts[k].len};
	return 0;
}

/* up: the way from the prompt to the folder, "../". */
static int look_into(
	struct catalogue *cat, int64_t folder, const char *up, struct defaults *d, char **error)
{
	CLEANUP_FREE char *label = xasprintf("%s%s", up, file_name);
	struct node file;

	if (tree_lookup(cat, folder, file_name, &file) < 0)
		return 0;
	const int rc = tree_resolve(cat, folder, file_name, &file);
	if (rc == -EXDEV)
		return fail(error, -EINVAL, "%s leads out of /requests; copy the file in", label);
	if (rc < 0)
		return fail(error, -EINVAL, "%s leads nowhere: %s", label, strerror(-rc));
	return S_ISREG(file.st.st_mode) ? read_one(cat, file.id, folder, label, d, error) : 0;
}

int defaults_read(struct catalogue *cat, int64_t folder, struct defaults *d, char **error)
{
	char *up = xstrdup("");
	struct node dir;
	int rc = 0;

	for (; rc == 0 && folder && d->count < DEFAULTS_LEVELS; folder = dir.parent) {
		if (tree_get(cat, folder, &dir) < 0)
			break;
		rc = look_into(cat, folder, up, d, error);

		char *further = xasprintf("../%s", up);
		free(up);
		up = further;
	}
	free(up);
	return rc;
}

/*
 * references.h - the reference pictures of a prompt, as they are at its commit.
 *
 * A prompt's references are the names in its front matter and every picture in the folder
 * `references` beside it. They are copied into the state directory (refs/KEY/), so that what is
 * sent is what was there when the prompt was committed. A generated picture (bottle.png of
 * bottle.prompt) is one like any other; it is downloaded first when need be.
 */
#ifndef ENGINE_REFERENCES_H
#define ENGINE_REFERENCES_H

#include "catalogue/request.h"
#include "engine/internal.h"

struct reference_set {
	struct request_reference *items;
	size_t count;
};

/*
 * Resolves and copies, durably. named_from is the folder that the front matter's names are relative
 * to, folder the prompt's own. -EINVAL with *error naming the file: missing, not a picture that the
 * API takes (by its content), too large, or leading out of /requests; -EINPROGRESS while one is
 * being downloaded (the prompt `node` is settled again when it is here); -ENOSPC, -EIO. On
 * failure some files may be in refs/KEY: remove it.
 */
int references_snapshot(struct engine *e, int64_t node, const struct prompt *p, int64_t folder,
	int64_t named_from, const char *key, struct reference_set *out, char **error);
void references_release(struct reference_set *set);

#endif

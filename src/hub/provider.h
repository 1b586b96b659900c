/*
 * provider.h - what makes the pictures. An implementation embeds struct provider.
 *
 * generate() makes picture `index` (0 to n-1) of an order: appends an image file's bytes to out and
 * returns 0, or a negative errno with *error, a sentence for the order's owner. Several workers call
 * it at once. It ends by itself within a bounded time.
 */
#ifndef HUB_PROVIDER_H
#define HUB_PROVIDER_H

#include "base/buf.h"
#include "wire/wire.h"

enum { PROVIDER_PICTURE_MAX = 64 * 1024 * 1024 };

struct provider_job {
	const struct order *order;
	const char *const *references; /* paths of files whose content is PNG, JPEG or WebP */
	int n_references;
};

struct provider {
	const char *extension; /* of what it makes: "png" */
	int (*generate)(struct provider *p, const struct provider_job *job, int index,
		struct buf *out, char **error);
	void (*destroy)(struct provider *p);
};

/* The built-in one: draws with cairo, deterministic in prompt, size and index, and says on each
 * picture that no model drew it. A picture of less than `bytes` is filled up to exactly so many with a
 * PNG chunk of noise, which viewers pass over (when the chunk's 12 bytes fit; 0: never). */
struct provider *sketch_create(size_t bytes);

#endif

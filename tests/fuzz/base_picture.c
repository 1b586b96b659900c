/*
 * The first bytes of a picture. They come bit by bit: what was seen in the first of them is still so
 * when there are more.
 */
#include "base/picture.h"
#include "fuzz.h"

static void later_holds(const struct picture_info *early, const struct picture_info *later)
{
	HOLDS(early->type == PICTURE_UNKNOWN || early->type == later->type);
	HOLDS(!early->width || early->width == later->width);
	HOLDS(!early->height || early->height == later->height);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct picture_info last = picture_probe(data, 0);

	for (size_t len = 1; len <= size; len += len < 64 ? 1 : 61) {
		uint8_t *head = xmalloc(len);

		memcpy(head, data, len);
		const struct picture_info info = picture_probe(head, len);
		later_holds(&last, &info);
		last = info;
		free(head);
	}
	const struct picture_info whole = picture_probe(data, size);
	later_holds(&last, &whole);
	if (whole.type == PICTURE_UNKNOWN) {
		HOLDS(!whole.width && !whole.height && !picture_extension(whole.type));
		return 0;
	}
	HOLDS(picture_from_extension(picture_extension(whole.type)) == whole.type);
	HOLDS(picture_from_extension(picture_mime(whole.type)) == whole.type);
	fuzz_accepted += whole.width && whole.height;
	return 0;
}

#include "base/picture.h"

static uint32_t big(const unsigned char *p, int n)
{
	uint32_t v = 0;

	while (n-- > 0)
		v = v << 8 | *p++;
	return v;
}

static uint32_t little(const unsigned char *p, int n)
{
	uint32_t v = 0;

	for (int i = 0; i < n; i++)
		v |= (uint32_t)p[i] << (8 * i);
	return v;
}

/* PNG: the signature, then always the IHDR chunk. */
static struct picture_info png(const unsigned char *p, size_t len)
{
	struct picture_info info = {.type = PICTURE_PNG};

	if (len >= 24 && memcmp(p + 12, "IHDR", 4) == 0) {
		info.width = big(p + 16, 4);
		info.height = big(p + 20, 4);
	}
	return info;
}

static bool is_frame(unsigned char marker)
{
	return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 &&
		marker != 0xCC;
}

/* Markers without a length: TEM, the restarts, and a second start of image. */
static bool stands_alone(unsigned char marker)
{
	return marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8);
}

/* JPEG: segments with lengths up to the frame header (SOFn), which precedes the scan (SOS). */
static struct picture_info jpeg(const unsigned char *p, size_t len)
{
	struct picture_info info = {.type = PICTURE_JPEG};
	size_t at = 2;

	while (at + 9 <= len && p[at] == 0xFF) {
		const unsigned char marker = p[at + 1];
		const uint32_t length = big(p + at + 2, 2);

		if (marker == 0xFF) {
			at++;
		} else if (stands_alone(marker)) {
			at += 2;
		} else if (marker == 0x00 || marker == 0xD9 || marker == 0xDA || length < 2) {
			break;
		} else if (is_frame(marker)) {
			info.height = big(p + at + 5, 2);
			info.width = big(p + at + 7, 2);
			break;
		} else {
			at += 2 + length;
		}
	}
	return info;
}

/* WebP: the first chunk is the extended header, or the lossless or lossy picture itself. */
static struct picture_info webp(const unsigned char *p, size_t len)
{
	struct picture_info info = {.type = PICTURE_WEBP};

	if (len >= 30 && memcmp(p + 12, "VP8X", 4) == 0) {
		info.width = little(p + 24, 3) + 1;
		info.height = little(p + 27, 3) + 1;
	} else if (len >= 25 && memcmp(p + 12, "VP8L", 4) == 0 && p[20] == 0x2F) {
		const uint32_t bits = little(p + 21, 4);

		info.width = (bits & 0x3FFF) + 1;
		info.height = (bits >> 14 & 0x3FFF) + 1;
	} else if (len >= 30 && memcmp(p + 12, "VP8 ", 4) == 0 &&
		memcmp(p + 23, "\x9d\x01\x2a", 3) == 0) {
		info.width = little(p + 26, 2) & 0x3FFF;
		info.height = little(p + 28, 2) & 0x3FFF;
	}
	return info;
}

struct picture_info picture_probe(const void *bytes, size_t len)
{
	const unsigned char *p = bytes;

	if (len >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0)
		return png(p, len);
	if (len >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0)
		return jpeg(p, len);
	if (len >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0)
		return webp(p, len);
	return (struct picture_info){0};
}

static const struct {
	const char *extension, *mime;
} types[] = {
	[PICTURE_UNKNOWN] = {NULL, NULL},
	[PICTURE_PNG] = {"png", "image/png"},
	[PICTURE_JPEG] = {"jpg", "image/jpeg"},
	[PICTURE_WEBP] = {"webp", "image/webp"},
};

const char *picture_extension(enum picture_type type)
{
	return types[type].extension;
}

const char *picture_mime(enum picture_type type)
{
	return types[type].mime;
}

enum picture_type picture_from_extension(const char *extension)
{
	for (size_t i = 1; i < ARRAY_SIZE(types); i++)
		if (strcmp(types[i].extension, extension) == 0 ||
			strcmp(types[i].mime, extension) == 0)
			return (enum picture_type)i;
	return PICTURE_UNKNOWN;
}

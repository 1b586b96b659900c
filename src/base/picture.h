/*
 * picture.h - what a picture's first bytes say: its type and its size in pixels.
 *
 * The type is decided by content, never by a name or a Content-Type. Pure; any thread.
 */
#ifndef BASE_PICTURE_H
#define BASE_PICTURE_H

#include "base/util.h"

enum picture_type { PICTURE_UNKNOWN, PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP };

struct picture_info {
	enum picture_type type;
	uint32_t width, height; /* pixels; 0 when the bytes given do not reach that far */
};

/* How many first bytes are worth asking for (a JPEG's size may stand behind its metadata). */
enum { PICTURE_HEAD_BYTES = 65536 };

struct picture_info picture_probe(const void *bytes, size_t len);
const char *picture_extension(enum picture_type type); /* "png", "jpg", "webp"; NULL for unknown */
const char *picture_mime(enum picture_type type);      /* "image/png" …; NULL for unknown */
/* The type that a stored extension or MIME type names, written exactly as above (so that names that
 * are listed have no second spelling); PICTURE_UNKNOWN if none. */
enum picture_type picture_from_extension(const char *extension);

#endif

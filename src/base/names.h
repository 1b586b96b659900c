/*
 * names.h - checks and choices about names: UTF-8, ids from a hub, suffixes, the nearest name.
 *
 * Pure functions without state; any thread.
 */
#ifndef BASE_NAMES_H
#define BASE_NAMES_H

#include "base/util.h"

/* Whether the bytes are well-formed UTF-8 (no overlong forms, no surrogates, NUL allowed). */
bool names_is_utf8(const void *bytes, size_t len);
/* How many Unicode code points well-formed UTF-8 holds. */
size_t names_utf8_length(const char *text, size_t len);
/* Makes a text fit to be shown: each byte that is not of well-formed UTF-8 becomes a '?'. */
void names_make_utf8(char *text);
/* How many bytes of a text may be shown when at most `most` are wanted: no character is cut. */
size_t names_utf8_cut(const char *text, size_t most);

/* Whether id may become a path component and part of a URL: [A-Za-z0-9_-]{1,128}. Ids from a hub
 * that fail this are refused. */
bool names_is_hub_id(const char *id);
/* The stricter form that a look-up under /generations asks the hub about: {8,128}. */
bool names_is_lookup_id(const char *id);

/* Whether name ends in suffix and has something before it. */
bool names_has_suffix(const char *name, const char *suffix);
/* Whether name is a committable prompt's name: ends in ".prompt", no leading dot, a stem. */
bool names_is_prompt(const char *name);

/* The candidate nearest to name by edit distance (a transposition counts once, case does not),
 * or NULL when none is near enough to be a slip of the hand. candidates ends with NULL. */
const char *names_nearest(const char *name, const char *const *candidates);

#endif

/*
 * json.h - small conveniences over jansson, for this folder only.
 */
#ifndef WIRE_JSON_H
#define WIRE_JSON_H

#include "base/util.h"
#include <jansson.h>

/* Parses one JSON text of at most WIRE_BODY_MAX bytes; NULL with *error. */
json_t *json_parse(const char *text, size_t len, char **error);
/* A member that is a string, copied; NULL for anything else. */
char *json_text(const json_t *object, const char *name);
/* A member that is a number, rounded down, not negative and at most 10^15; fallback otherwise. */
int64_t json_count(const json_t *object, const char *name, int64_t fallback);
/* The same of what something costs: a fraction counts as a whole one, so that nothing is called free and
 * no budget lasts longer than it should. */
int64_t json_cost(const json_t *object, const char *name, int64_t fallback);
/* A member that is a time in ISO form, in ms; 0 otherwise. */
int64_t json_time(const json_t *object, const char *name);
/* A value to be read by people, owned, with a newline at the end: indented, unless that would make
 * it many times longer (what is nested deep), then in one line. NULL when there is no value. */
char *json_pretty(const json_t *value);
/* Serialises and drops. */
char *json_dump_free(json_t *value, size_t flags);

#define CLEANUP_JSON __attribute__((cleanup(json_cleanup)))
static inline void json_cleanup(json_t **value)
{
	json_decref(*value);
}

#endif

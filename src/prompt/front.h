/*
 * front.h - front matter (or a defaults.yaml) → fields with their places. For this folder only.
 *
 * A field's place counts in the file: the line and column (in characters) where its value stands.
 */
#ifndef PROMPT_FRONT_H
#define PROMPT_FRONT_H

#include "prompt/prompt.h"

enum front_field { FRONT_MODEL, FRONT_SIZE, FRONT_QUALITY, FRONT_N, FRONT_FIELDS };

struct front {
	char *values[FRONT_FIELDS]; /* NULL: not given */
	struct prompt_mark at[FRONT_FIELDS];
	char **references;
	size_t n_references;
	bool has_references;
	struct prompt_mark references_at;
};

void front_release(struct front *f);

/* Reads YAML. first_line is the file's line (1-based) on which text begins. -EINVAL with *error. */
int front_parse(const char *label, const char *text, size_t len, int first_line, struct front *out,
	char **error);

/* The line and the column (in characters) of a byte of a text, from 1. Lines end with LF, as in an
 * editor: YAML knows other ends. */
void front_place(const char *text, size_t at, int *line, int *column);

/* The name of a field as it is written. */
const char *front_name(enum front_field field);

#endif

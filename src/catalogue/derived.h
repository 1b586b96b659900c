/*
 * derived.h - the names beside a prompt that are not rows: cat.status, cat.wait, cat.error and its
 * pictures.
 *
 * For `cat.prompt` with a latest request (or a draft note) these names exist in its folder:
 *	cat.status	always
 *	cat.error	when the note is there, or the state is refused, failed, held or unknown
 *	cat.EXT		the picture, when one was ordered
 *	cat-K.EXT	picture K, when several were
 * and cat.wait for any cat.prompt, by look-up only. Pictures are there once listed and not removed.
 * A user's own file of the same name wins: it hides the derived name. When two prompts would
 * derive the same name (cat.prompt's second picture, cat-2.prompt's only one), the longer stem wins.
 * Dismissed names stay away until the file's next commit.
 */
#ifndef CATALOGUE_DERIVED_H
#define CATALOGUE_DERIVED_H

#include "catalogue/generation.h"
#include "catalogue/request.h"

enum derived_kind { DERIVED_STATUS, DERIVED_WAIT, DERIVED_ERROR, DERIVED_PICTURE };

struct derived {
	enum derived_kind kind;
	int64_t node;	  /* the prompt */
	int64_t request;  /* its latest; 0 when there is only a draft note */
	int64_t image;	  /* DERIVED_PICTURE: the image's row */
	int number;	  /* DERIVED_PICTURE: 1 … */
	int64_t since_ms; /* wall time at which the name came to be; 0 for .wait */
	bool noted;	  /* by a draft note: whose close failed looks for it at once */
};

/* -ENOENT when name is no derived name in dir now. Does not look for a user's own file: ask
 * tree_lookup() first. */
int derived_lookup(struct catalogue *cat, int64_t dir, const char *name, struct derived *out);
/* All of a folder, .wait excepted, those that a user's file hides left out. fn must not call back
 * into the catalogue. */
typedef bool derived_list_fn(void *arg, const char *name, const struct derived *d);
int derived_list(struct catalogue *cat, int64_t dir, derived_list_fn *fn, void *arg);
/* All derived names of one prompt (its own stem's), .wait excepted, for announcements. */
int derived_of(struct catalogue *cat, int64_t node, derived_list_fn *fn, void *arg);
/* Removes a derived name from /requests; the picture stays under /generations. */
int derived_dismiss(struct catalogue *cat, const struct derived *d);

#endif

/*
 * words.h - what is said to people about a request: one line, or what/why/charged/next.
 *
 * Pure functions of a row as read (and of the wall clock); any thread. Texts are owned.
 */
#ifndef ENGINE_WORDS_H
#define ENGINE_WORDS_H

#include "catalogue/generation.h"
#include "catalogue/request.h"

/* Things about the present that a line may need. */
struct words_context {
	int64_t now_ms;	      /* wall */
	const char *waiting;  /* why a queued request is not sent now, or NULL */
	const char *hub_word; /* the hub's own word for a running one, or NULL */
	int64_t hub_since_ms; /* since when */
	int pictures;	      /* listed */
	int missing;	      /* that the hub gave and that cannot be reached */
	const char *log;      /* where it stands why, from the mount down */
	const char *control;  /* the control file, as a shell finds it from anywhere */
};

/* "succeeded: 1 picture, 8 credits, gpt-image-2, 12 s\n" */
char *words_status(const struct request *r, const struct words_context *c);
/* The line of progress while it moves: "processing 12 s\n"; words_status() once it rests. */
char *words_progress(const struct request *r, const struct words_context *c);
/* Four labelled lines; NULL when there is no error to speak of. */
char *words_error(const struct request *r, const char *control);
/* Why nothing is sent, by the value of the setting "paused"; not owned. */
const char *words_paused(const char *setting);
char *words_draft_status(const char *text);
/* err EINVAL: the text or what it draws in is to be mended; any other: it may not be whole, or this
 * machine has trouble with it. goes_on: it is tried again by itself. */
char *words_draft_error(const char *path, int err, const char *text, bool goes_on,
	const char *control);
/* The positive errno with which following it ends; 0 after a success. */
int words_errno(const struct request *r);

#endif

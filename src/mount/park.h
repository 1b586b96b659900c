/*
 * park.h - FUSE requests that wait without holding a worker, each answered exactly once: by its
 * result, by INTERRUPT (EINTR, at the first one: the kernel sends no second), or by its deadline.
 *
 *	token = park_add(park, req, &what);		0: interrupted already, and answered
 *	start what will complete, with the token as its argument
 *	… later, on any thread: p = park_take(park, token)	NULL: somebody else answered
 *	fuse_reply_…(p->req, …); parked_free(p);
 *
 * Who takes a request out owns its reply. Tokens are never reused, so a late completion is harmless.
 *
 * libfuse (3.14, fuse_lowlevel.c: do_interrupt, fuse_req_interrupt_func) calls the interrupt
 * callback with the request's own lock held, at once if the INTERRUPT has come already. So park's
 * lock is never held while fuse_req_interrupt_func() is called, and a request is `arming` until that
 * call is over: a completion waits for it, an interrupt is remembered.
 */
#ifndef MOUNT_PARK_H
#define MOUNT_PARK_H

#include "base/list.h"
#include "base/util.h"
#include <fuse_lowlevel.h>

struct park;

enum parked_kind { PARKED_LOOKUP, PARKED_READ, PARKED_WAIT };

struct parked {
	struct list link;
	uint64_t token;
	fuse_req_t req;
	enum parked_kind kind;
	int64_t deadline_ms; /* monotonic; 0: none */
	int64_t node;	     /* PARKED_WAIT */
	size_t size;	     /* of a read */
	off_t off;
	uint64_t fh;
	bool arming, interrupted; /* private */
};

/* The park of a session's userdata (mount.c): the callback's one argument is the token. */
struct mount;
struct park *mount_park(struct mount *m);

struct park *park_create(void);
void park_destroy(struct park *park);

/* what: kind, deadline, node, size, off, fh. Copied. */
uint64_t park_add(struct park *park, fuse_req_t req, const struct parked *what);
struct parked *park_take(struct park *park, uint64_t token);
void parked_free(struct parked *p);

/* Takes one waiting read of that node (0: of any, past its deadline now_ms); NULL when none. A pass
 * over all: repeat with the same `before`, a token from park_next_token(), so that what is parked
 * anew meanwhile is not met again. */
struct parked *park_take_of_node(struct park *park, int64_t node, uint64_t before);
struct parked *park_take_due(struct park *park, int64_t now_ms, uint64_t before);
uint64_t park_next_token(struct park *park);
/* Whether a look-up is waiting. */
bool park_has_lookup(struct park *park);
/* The soonest deadline, INT64_MAX without one. */
int64_t park_next_deadline(struct park *park);
/* Answers all with an error. */
void park_end(struct park *park, int error);

#endif

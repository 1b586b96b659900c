/*
 * life.h - the states of a request and the one function that changes them.
 *
 *	queued → held, sending, refused, canceled; unknown (it waited to be sent again under its key,
 *		and the hub no longer knows keys)
 *	held → queued, canceled
 *	sending → running, failed, refused, unknown; back to queued (it provably never left, 429, or
 *		the hub is idempotent); held (402)
 *	running → succeeded, failed
 *	failed, refused → queued (retry)	unknown → queued (retry), canceled
 *	succeeded, canceled: final
 *
 * What holds in each state (checked at every move):
 *	queued, held, canceled	no generation
 *	held			a hold that is not HOLD_NONE
 *	sending			sent_ms is set, and was durable before the POST could leave
 *	running, succeeded	a generation
 *	refused, failed, unknown a reason that is not OUTCOME_OK
 * (a request that was tried before keeps no generation when it is queued again)
 */
#ifndef ENGINE_LIFE_H
#define ENGINE_LIFE_H

#include "catalogue/request.h"
#include "engine/engine.h"

bool life_may(enum request_state from, enum request_state to);
/* Nothing more happens by itself in this state (final, or it waits for the user). */
bool life_rests(enum request_state state);
const char *life_name(enum request_state state);

/* What is to be written in the transaction of a move: the record of money, the hub's id. write may
 * fill in fields of r; its -errno undoes the whole move. */
struct life_with {
	int (*write)(struct engine *e, struct request *r, void *arg);
	void *arg;
};

/*
 * Moves r (as read, r->state being where it is) to a state: checks the table and the invariants,
 * writes the row, the log line and `with` (may be NULL) in one transaction of that durability, and
 * tells events.changed once it is committed; so it is not called inside another transaction.
 * Fields of r the caller changed before (reason, text, generation, charged, …) are written with it.
 * Any thread. -ESTALE when the row has moved meanwhile (r is then out of date and nothing was
 * written), -EINVAL when the table does not know the way or an invariant is broken, or the
 * catalogue's error; r->state is unchanged then, and r is to be read again before another try.
 */
int life_move(struct engine *e, struct request *r, enum request_state to,
	enum db_durability durability, const struct life_with *with, const char *log_format, ...)
	PRINTF_LIKE(6, 7);

#endif

#include "engine/life.h"
#include "base/log.h"
#include "engine/internal.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define TO(state) (1u << REQUEST_##state)

static const struct {
	const char *name;
	unsigned ways;
	bool rests;
} states[REQUEST_STATES] = {
	[REQUEST_QUEUED] = {"queued",
		TO(HELD) | TO(SENDING) | TO(REFUSED) | TO(UNKNOWN) | TO(CANCELED), false},
	[REQUEST_HELD] = {"held", TO(QUEUED) | TO(CANCELED), true},
	[REQUEST_SENDING] = {"sending",
		TO(RUNNING) | TO(FAILED) | TO(REFUSED) | TO(UNKNOWN) | TO(QUEUED) | TO(HELD), false},
	[REQUEST_RUNNING] = {"running", TO(SUCCEEDED) | TO(FAILED), false},
	[REQUEST_SUCCEEDED] = {"succeeded", 0, true},
	[REQUEST_FAILED] = {"failed", TO(QUEUED), true},
	[REQUEST_REFUSED] = {"refused", TO(QUEUED), true},
	[REQUEST_UNKNOWN] = {"unknown", TO(QUEUED) | TO(CANCELED), true},
	[REQUEST_CANCELED] = {"canceled", 0, true},
};

bool life_may(enum request_state from, enum request_state to)
{
	return (states[from].ways & 1u << to) != 0;
}

bool life_rests(enum request_state state)
{
	return states[state].rests;
}

const char *life_name(enum request_state state)
{
	return states[state].name;
}

/* The invariants of the header's table; the name of the one that is broken, or NULL. */
static const char *broken(const struct request *r, enum request_state state)
{
	switch (state) {
	case REQUEST_QUEUED:
	case REQUEST_CANCELED:
		return r->generation ? "an unsent request with a generation" : NULL;
	case REQUEST_HELD:
		return r->generation	      ? "a held request with a generation"
			: r->hold == HOLD_NONE ? "held by nothing"
					       : NULL;
	case REQUEST_SENDING:
		return r->sent_ms ? NULL : "sending without a time";
	case REQUEST_RUNNING:
	case REQUEST_SUCCEEDED:
		return r->generation ? NULL : "running without a generation";
	default:
		return r->reason == OUTCOME_OK ? "stopped without a reason" : NULL;
	}
}

/* The transaction: what goes with the move, the invariants, the row, the log line. */
static int write_move(struct engine *e, struct request *r, enum request_state from,
	enum db_durability durability, const struct life_with *with, const char *line)
{
	catalogue_begin(e->cat, durability);
	int rc = with ? with->write(e, r, with->arg) : 0;
	const char *bad = rc == 0 ? broken(r, r->state) : NULL;

	if (bad) {
		log_error("request %lld: %s to %s: %s", (long long)r->id, life_name(from),
			life_name(r->state), bad);
		rc = -EINVAL;
	}
	if (rc == 0)
		rc = request_change(e->cat, r, from, durability, line);
	return catalogue_end(e->cat, rc);
}

static int move(struct engine *e, struct request *r, enum request_state to,
	enum db_durability durability, const struct life_with *with, const char *line)
{
	const enum request_state from = r->state;

	if (!life_may(from, to)) {
		log_error("request %lld: %s to %s: no such way", (long long)r->id, life_name(from),
			life_name(to));
		return -EINVAL;
	}
	r->state = to;
	const int rc = write_move(e, r, from, durability, with, line);
	if (rc < 0) {
		r->state = from;
		return rc;
	}
	/* Committed: only now may anybody hear of it, or lose what an undone move would need. */
	log_debug("%s: %s", r->path, line);
	if (to == REQUEST_SUCCEEDED || to == REQUEST_CANCELED)
		request_refs_remove(e->cat, r->key);
	engine_tell(e, CHANGE_REQUEST, r->node, r->id, r->generation, 0);
	return 0;
}

int life_move(struct engine *e, struct request *r, enum request_state to,
	enum db_durability durability, const struct life_with *with, const char *log_format, ...)
{
	va_list args;

	va_start(args, log_format);
	CLEANUP_FREE char *line = xvasprintf(log_format, args);
	va_end(args);
	return move(e, r, to, durability, with, line);
}

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
	[REQUEST_QUEUED] = {"queued", TO(HELD) | TO(SENDING) | TO(REFUSED) | TO(CANCELED), false},
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

int life_move(struct engine *e, struct request *r, enum request_state to,
	enum db_durability durability, const char *log_format, ...)
{
	const enum request_state from = r->state;
	const char *bad = life_may(from, to) ? broken(r, to) : "no such way";
	CLEANUP_FREE char *line = NULL;
	va_list args;

	if (bad) {
		log_error("request %lld: %s to %s: %s", (long long)r->id, life_name(from),
			life_name(to), bad);
		return -EINVAL;
	}
	va_start(args, log_format);
	if (vasprintf(&line, log_format, args) < 0)
		line = NULL;
	va_end(args);

	r->state = to;
	int rc = request_change(e->cat, r, from, durability, line);
	if (rc < 0) {
		r->state = from;
		return rc;
	}
	log_debug("%s: %s", r->path, line ? line : life_name(to));
	if (to == REQUEST_SUCCEEDED || to == REQUEST_CANCELED)
		request_refs_remove(e->cat, r->key);
	engine_tell(e, CHANGE_REQUEST, r->node, r->id, r->generation, 0);
	return 0;
}

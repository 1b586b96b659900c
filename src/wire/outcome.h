/*
 * outcome.h - everything a call to a hub can come to, and what each means in one table.
 *
 * Both programs use it: imagehubd to choose HTTP status and code, imagehubfs to choose errno,
 * state and words. See API.md, "Errors". Pure; any thread.
 */
#ifndef WIRE_OUTCOME_H
#define WIRE_OUTCOME_H

#include "base/util.h"

enum outcome {
	OUTCOME_OK,
	/* The hub's documented answers. */
	OUTCOME_INVALID_REQUEST,   /* 400 invalid_request       EINVAL */
	OUTCOME_MISSING_KEY,	   /* 401 missingApiKey         ENOKEY */
	OUTCOME_INVALID_KEY,	   /* 401 invalidApiKey         EKEYREJECTED */
	OUTCOME_EXPIRED_KEY,	   /* 401 expiredApiKey         EKEYEXPIRED */
	OUTCOME_NO_CREDITS,	   /* 402 insufficientCredits   EDQUOT */
	OUTCOME_NOT_FOUND,	   /* 404 notFound              ENOENT */
	OUTCOME_GENERATION_FAILED, /* 500 generationFailed      EIO */
	/* Undocumented, and survived. */
	OUTCOME_FORBIDDEN,	      /* 403                    EACCES */
	OUTCOME_TOO_LARGE,	      /* 413                    EFBIG */
	OUTCOME_IDEMPOTENCY_MISMATCH, /* 422 idempotencyMismatch EINVAL (imagehubd's own) */
	OUTCOME_RATE_LIMITED,	      /* 429                    EAGAIN */
	OUTCOME_REFUSED,	      /* any other 4xx          EINVAL */
	OUTCOME_SERVER_ERROR,	      /* 5xx without a documented code   EIO */
	OUTCOME_UNREADABLE,	      /* 2xx, but not an answer of this API; also 1xx and 3xx  EPROTO */
	OUTCOME_HOSTILE,	      /* an answer that breaks a rule of safety  EPROTO */
	/* The network's. */
	OUTCOME_NO_HOST,	/* the name does not resolve       EHOSTUNREACH */
	OUTCOME_NO_CONNECTION,	/* refused or unreachable          ECONNREFUSED */
	OUTCOME_TLS,		/* TLS failed                      ECONNABORTED */
	OUTCOME_TIMEOUT,	/* no answer in time               ETIMEDOUT */
	OUTCOME_CUT,		/* the connection ended early      ECONNRESET */
	OUTCOME_LOCAL,		/* this machine's own trouble: memory, a file  EIO */
	OUTCOME_COUNT,
};

struct outcome_fact {
	int http;	    /* the status imagehubd answers with; 0 if it never does */
	const char *code;   /* the API's code, NULL if it has none */
	int err;	    /* positive errno in the mount */
	const char *word;   /* one short phrase for people: "not enough credits" */
	const char *advice; /* what to do next, a whole sentence */
};

const struct outcome_fact *outcome_fact(enum outcome outcome);
/* The outcome of an HTTP answer: a documented code decides, else the status. A 5xx without one is
 * OUTCOME_SERVER_ERROR, whatever its body: gateways answer with JSON errors of their own
 * ({"error":{"code":"504",…}}) while the hub behind them goes on. Never OUTCOME_OK. */
enum outcome outcome_from_http(int status, const char *code);
/* A stable name ("invalid_key") for the database and logs, and back; OUTCOME_LOCAL if unknown. */
const char *outcome_name(enum outcome outcome);
enum outcome outcome_from_name(const char *name);

#endif

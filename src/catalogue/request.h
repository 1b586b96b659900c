/*
 * request.h - rows of requests: one for each commit of a prompt.
 *
 * This is storage. Which state may follow which, and what is said about it, is engine/life.h's; only
 * that file calls request_change().
 */
#ifndef CATALOGUE_REQUEST_H
#define CATALOGUE_REQUEST_H

#include "catalogue/catalogue.h"

enum request_state { /* DESIGN.md, section 4; a draft has no request yet */
	REQUEST_QUEUED,
	REQUEST_HELD,
	REQUEST_SENDING,
	REQUEST_RUNNING,
	REQUEST_SUCCEEDED,
	REQUEST_FAILED,
	REQUEST_REFUSED,
	REQUEST_UNKNOWN,
	REQUEST_CANCELED,
	REQUEST_STATES,
};

enum hold {
	HOLD_NONE,
	HOLD_BUDGET,	/* over --max-spend for the day */
	HOLD_BALANCE,	/* over the known balance */
	HOLD_PRICE,	/* the model's price is not known */
	HOLD_CREDITS,	/* the hub answered 402 */
	HOLD_PAUSED,	/* the user paused the queue */
};

enum { REQUEST_HASH_SIZE = 32, REQUEST_KEY_SIZE = 40 };

struct request {
	int64_t id;
	int64_t node;		 /* the prompt file; it may be gone */
	char *path;		 /* its path at the commit, "requests/cat.prompt"; or, once it was moved and
				  * is gone, its last */
	unsigned char hash[REQUEST_HASH_SIZE]; /* SHA-256 of the file's bytes: the same saved again
						* spends nothing */
	struct order order;	 /* as sent; model NULL until it was chosen at the first dispatch */
	int n_references;
	char key[REQUEST_KEY_SIZE]; /* begins its Idempotency-Key; the name of its folder in refs/ */
	int retries;		 /* by the user after a failure: each has an Idempotency-Key of its
				  * own, KEY-RETRIES */
	enum request_state state;
	enum hold hold;
	bool approved;		 /* the user let it pass budget and balance */
	enum outcome reason;	 /* why it is refused, failed, unknown; while it is queued, held or
				  * sending: why the answer to an earlier try was lost, when it goes
				  * again on the strength of its key; OUTCOME_OK otherwise */
	char *text;		 /* the hub's or network's own words for it, or NULL */
	int64_t generation;	 /* row of its generation; 0 until the hub gave an id */
	int64_t price_low, price_high; /* estimate in credits; -1 not known */
	int64_t charged;	 /* credits, by the hub's word; 0 also when its POST never left; -1 not
				  * known (so nothing, when it was never sent) */
	int64_t balance_before, balance_after; /* evidence around a POST; -1 not known */
	int attempts;		 /* POSTs since the commit or the user's retry whose answer was
				  * lost, and the one under way */
	int64_t not_before_ms;	 /* a retry waits until then; 0: none */
	int64_t created_ms, sent_ms, changed_ms; /* wall; sent 0 until it was */
};

struct request_reference {
	char *file; /* below refs/KEY/ */
	char *name; /* as the user wrote it */
	char *mime;
	int64_t size;
};

/* Whether credits may be gone for it without the hub's word. */
static inline bool request_may_be_charged(const struct request *r)
{
	return r->sent_ms != 0 && r->charged < 0;
}

void request_release(struct request *r);
void request_references_free(struct request_reference *refs, size_t count);

/* Inserts r (id and times are filled in) with its references, makes it the node's latest, clears
 * the node's draft note, dismissals and pending, and writes the log line. Durable by the next
 * catalogue_sync(). */
int request_insert(struct catalogue *cat, struct request *r, const struct request_reference *refs,
	size_t n_refs, const char *log_line);
int request_get(struct catalogue *cat, int64_t id, struct request *out);
/* The part of a request that the attributes of files need, without its text. */
struct request_brief {
	enum request_state state;
	int64_t generation, changed_ms;
};
int request_brief(struct catalogue *cat, int64_t id, struct request_brief *out);
int request_of_generation(struct catalogue *cat, int64_t generation, struct request *out);
/* The latest request of the file that had that path last: made of it there or, when it was moved there
 * since, elsewhere. */
int request_latest_at(struct catalogue *cat, const char *path, struct request *out);
/* To be called before a file loses its name, in that transaction: its latest request is found by the
 * path that it has now, where it is a prompt's. */
struct node;
int request_leaves(struct catalogue *cat, const struct node *n);
/* Makes a request the latest of that node, which has taken the place of the one that it was made of;
 * nothing is pending then, and a draft's note is gone. */
int request_give(struct catalogue *cat, int64_t id, int64_t node);
/* Ids of the requests still running whose generation this is, after the id `after`; at most max;
 * returns how many. One, but where the hub answered two orders with one id. */
int request_running_of_generation(struct catalogue *cat, int64_t generation, int64_t after,
	int64_t *ids, int max);
int request_references(struct catalogue *cat, int64_t id, struct request_reference **refs,
	size_t *count);

/*
 * Writes every changeable column of r where the row is still in state `from`; -ESTALE when it is
 * not (somebody else moved it). Sets changed_ms. With log_line (may be NULL) in one transaction.
 */
int request_change(struct catalogue *cat, struct request *r, enum request_state from,
	enum db_durability durability, const char *log_line);

/* Ids in a state with not_before_ms <= now_ms, oldest first, after the id `after`; at most max;
 * returns how many. now_ms INT64_MAX for all. */
int request_list(struct catalogue *cat, enum request_state state, int64_t now_ms, int64_t after,
	int64_t *ids, int max);
/* Ids of what is held by that and costs at most so much, by the lower and the upper estimate; otherwise as
 * request_list(). */
int request_held(struct catalogue *cat, enum hold hold, int64_t low_most, int64_t high_most,
	int64_t after, int64_t *ids, int max);
/* Ids of one prompt's queued and held requests after the id `after`, oldest first; at most max;
 * returns how many. */
int request_unsent_of_node(struct catalogue *cat, int64_t node, int64_t after, int64_t *ids, int max);
/* The soonest not_before_ms among the queued that wait, 0 if none. */
int64_t request_next_due(struct catalogue *cat);
int request_counts(struct catalogue *cat, int64_t counts[REQUEST_STATES]);

/*
 * The record of money (charge.c), one row for each POST that may have left: made in the transaction
 * to REQUEST_SENDING with the estimate, settled by the answer. What is not settled counts in full.
 */
int request_charge_open(struct catalogue *cat, int64_t request, int64_t estimate);
/* Settles the latest, when it is open. */
int request_charge_settle(struct catalogue *cat, int64_t request, int64_t credits);
/* Settles with nothing the open ones before the latest: by their key they are one charge with it. */
int request_charge_merge(struct catalogue *cat, int64_t request);
/* How many are open: POSTs of which it is not known whether they were charged. */
int64_t request_charges_open(struct catalogue *cat, int64_t request);
/* Credits charged or possibly charged since a wall time (counted from its quarter of an hour on), what is
 * in flight included. Its cost does not grow with their number. */
int64_t request_spent_since(struct catalogue *cat, int64_t since_ms);
/* Credits that what is in flight may still take from the balance. */
int64_t request_in_flight(struct catalogue *cat);

/* refs/KEY/: -errno or 0. Removing what is not there is no error. */
int request_refs_create(struct catalogue *cat, const char *key); /* returns a dirfd */
void request_refs_remove(struct catalogue *cat, const char *key);
char *request_refs_path(struct catalogue *cat, const char *key, const char *file); /* owned */

#endif

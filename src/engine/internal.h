/*
 * internal.h - what the engine's files share. Not for other folders.
 *
 * One thread, the engine's, owns everything marked (thread). Other threads reach it by
 * engine_post(). `lock` is a leaf: nothing is called with it held.
 *
 *	commit.c	the commit rule: a file of /requests → a queued request
 *	submit.c	the queue: holds, the budget, the paid POST and its outcome
 *	follow.c	polls; success; the pictures' sizes
 *	account.c	models, balance, whether the hub answers
 *	pictures.c	downloads and the disk cache (cache.h)
 *	adopt.c		generations that others started
 *	control.c	the verbs
 *	words.c		everything said to people; text.c serves it
 */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include "base/list.h"
#include "catalogue/catalogue.h"
#include "catalogue/generation.h"
#include "catalogue/request.h"
#include "engine/engine.h"
#include "engine/timer.h"
#include "net/net.h"
#include "prompt/prompt.h"
#include <pthread.h>

struct pictures;

/* A call to the hub for the account or the models that is repeated until it succeeds. */
struct refresh {
	struct engine *e;
	struct timer timer;
	struct net_call *call;
	int64_t delay_ms; /* the next pause after a failure */
	bool answered;	  /* the hub itself has answered since the start, well or not */
};

struct engine {
	struct engine_config config; /* strings owned */
	char *control;		     /* the control file, as messages call it */
	struct catalogue *cat;
	struct engine_events events;
	struct net *net; /* (thread) */
	struct timers timers; /* (thread) */
	pthread_t thread;
	bool running;

	pthread_mutex_t lock;
	struct list commands; /* under lock */
	bool stopping;	      /* under lock */
	int64_t grace_ms;     /* under lock */

	/* What is known of the hub, under lock; words.c shows it. */
	enum outcome hub_outcome; /* of the last call for models or balance */
	char *hub_message;	  /* NULL when it answered well */
	enum outcome balance_outcome;
	bool balance_heard;
	bool hub_heard;		  /* any answer yet */
	char *control_error;	  /* what was wrong with the last line written to /control */
	char *gate_why;		  /* why nothing is sent just now, or NULL */

	/* The models now known, under lock, replaced as a whole. */
	struct wire_models models;

	/* The queue (thread). */
	bool kicked;		  /* look at the queue in this turn */
	struct timer gate;	  /* armed: nothing is sent before it fires */
	int64_t gate_delay_ms;	  /* back-off while the hub cannot be reached */
	int sending;		  /* POSTs under way */
	struct list flights;	  /* generations followed: struct flight */
	int n_flights;
	void *flight_tree;	  /* the same by generation, tsearch(3) */
	struct list errands;	  /* arguments of calls that only net's `done` would free */
	struct timer midnight;	  /* a new day's budget */
	bool idempotent;	  /* the hub announced it (setting "idempotent") */

	struct list settling;	  /* files waiting for their settle time: struct settle */
	struct refresh models_refresh, balance_refresh;
	struct list adoptions;	  /* look-ups waiting for the hub: struct adoption */

	struct pictures *pictures;
};

/* engine.c */
void engine_tell(struct engine *e, enum engine_change what, int64_t node, int64_t request,
	int64_t generation, int64_t image);
/* Has the thread call run(e, id, arg). Any thread; never fails; dropped when stopping. */
void engine_post(struct engine *e, void (*run)(struct engine *e, int64_t id, void *arg), int64_t id,
	void *arg);
/* The queue may have something to do. Any thread. */
void engine_kick(struct engine *e);

/* commit.c: force also commits content that was submitted before (`again`). A negative errno with
 * *error when nothing was queued because of the text; 1 when a request was queued, else 0. */
int commit_node(struct engine *e, int64_t node, bool force, char **error);
void commit_recover(struct engine *e);
void commit_release(struct engine *e);

/* control.c: withdraws what was made of a prompt and is not sent, but for the request `but`. */
void control_withdraw(struct engine *e, int64_t node, int64_t but, const char *why);
/* The same for prompts that were removed just before the last end of the program. (thread) */
void control_recover(struct engine *e);

/* submit.c (thread) */
void submit_queue(struct engine *e);
void submit_recover(struct engine *e);
/* A balance read after requests became unknown: kept with them. (thread) */
void submit_evidence(struct engine *e, int64_t balance);
void submit_gate_opened(struct timer *timer);
/* Puts held requests back that may go now: more credits, a price, a new day. Any thread. */
void submit_unhold(struct engine *e);

/* follow.c (thread) */
void follow_recover(struct engine *e);
/* Takes a generation's first answer (a POST's, an adoption's): inserts or updates its row and
 * follows it to its end. Inside a transaction of the caller's; -errno. */
int follow_insert(struct engine *e, const struct wire_generation *w, const char *body,
	const struct request *r, int64_t *generation);
/* Follows from there: polls while it is pending, lists its pictures at success. w may be NULL: poll
 * at once. */
void follow_start(struct engine *e, int64_t generation, int64_t request,
	const struct wire_generation *w);
void follow_release(struct engine *e);
/* Asks for fresh picture URLs now and calls done(arg, ok) (expired URLs). */
void follow_renew(struct engine *e, int64_t generation, void (*done)(void *arg, bool ok), void *arg);

/* account.c */
void account_start(struct engine *e);
void account_release(struct engine *e);
void account_want_models(struct engine *e);  /* (thread) */
void account_want_balance(struct engine *e); /* (thread) */
/* The answer of GET credits: keeps what it says. (thread) */
void account_balance_reply(struct engine *e, const struct net_reply *reply);
/* A balance that came with another answer. (thread) */
void account_balance(struct engine *e, const struct wire_balance *b);
/* Holds a parsed prompt against the models known now (prompt_check). Any thread. */
int account_check(struct engine *e, const struct prompt *p, size_t n_references, char **error);
/* What an order would take: the model (the hub's first when it names none) and its price. -EAGAIN
 * while no models are known, -EINVAL with *error when the models do not allow it. Any thread. */
struct quote {
	char *model; /* owned by the caller */
	bool priced;
	int64_t price_low, price_high; /* credits; -1 when not priced */
};
int account_quote(struct engine *e, const struct order *o, size_t n_references, struct quote *q,
	char **error);
/* Whether the hub itself, not the network, has said that there is no list of models. (thread) */
bool account_models_answered(const struct engine *e);
int64_t account_known_balance(struct engine *e, int64_t *as_of_ms); /* -1 */

/* adopt.c (thread) */
void adopt_release(struct engine *e, int error);

/* pictures.c */
struct pictures *pictures_create(struct engine *e, char **error);
void pictures_start(struct engine *e);	 /* (thread) */
void pictures_release(struct engine *e); /* (thread): ends downloads, answers waiters */
void pictures_destroy(struct pictures *p);
/* The picture is listed: downloads it now when config.eager. (thread) */
void pictures_listed(struct engine *e, int64_t image);
/* Downloads a picture whose size the server did not tell: calls done(arg, size, type, width,
 * height) with size -1 on failure. (thread) */
struct picture_measured {
	int64_t size;
	struct picture_info info;
	const char *message; /* on failure */
};
void pictures_measure(struct engine *e, int64_t image,
	void (*done)(void *arg, const struct picture_measured *m), void *arg);
void pictures_forget(struct engine *e, int64_t image); /* any thread: removes its cache file */

/* The next pause of a back-off: ×1.5 up to most, with ±20 % of chance. */
int64_t backoff_next(int64_t delay_ms, int64_t most_ms);
int64_t backoff_jitter(int64_t delay_ms);

#endif

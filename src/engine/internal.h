/*
 * internal.h - what the engine's files share. Not for other folders.
 *
 * One thread, the engine's, owns everything marked (thread). Other threads reach it by
 * engine_post(). `lock` is a leaf: nothing is called with it held.
 *
 *	commit.c	the commit rule: a file of /requests → a queued request; settle.c: when
 *	judge.c		whether a queued request may be sent: pause, price, budget, balance
 *	submit.c	the queue and the sending: the gate, the intent, the paid POST
 *	answer.c	what came of a POST; start-up
 *	follow.c	polls (flight.h): record.c, landing.c
 *	account.c	models, balance, whether the hub answers
 *	pictures.c	pictures (picture.h): readers; fetch.c, keep.c, ahead.c, cache.c
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
	int64_t sleeps_until_ms; /* under lock: monotonic; 0 while the thread is awake */
	int64_t by_ms;	      /* (thread): when the command that runs has to be done, as posted */
	bool stopping;	      /* under lock */
	int64_t grace_ms;     /* under lock */

	/* What is known of the hub, under lock; words.c shows it. */
	enum outcome hub_outcome; /* of the last call for models or balance */
	char *hub_message;	  /* NULL when it answered well */
	enum outcome balance_outcome;
	bool balance_heard;
	bool hub_heard;		  /* any answer yet */
	char *control_said;	  /* what became of the last line written to /control, or NULL */
	char *gate_why;		  /* why nothing is sent just now, or NULL */
	bool short_of_credits;	  /* the next one waits for what is under way to be charged */

	/* The models now known, under lock, replaced as a whole. */
	struct wire_models models;

	/* The queue (thread). */
	bool kicked;		  /* look at the queue in this turn */
	struct timer gate;	  /* armed: nothing is sent before it fires */
	int64_t gate_delay_ms;	  /* back-off while the hub cannot be reached; then one at a time */
	struct timer due;	  /* the next request whose own moment comes */
	int sending;		  /* POSTs under way */
	struct list postings;	  /* POSTs under way, and answers not yet written: struct posting */
	struct list flights;	  /* generations followed: struct flight */
	int n_flights;
	void *flight_tree;	  /* the same by generation, tsearch(3) */
	int64_t poll_line_ms;	  /* when the last poll in line has its turn (monotonic) */
	struct list errands;	  /* arguments of calls that only net's `done` would free */
	struct timer midnight;	  /* a new day's budget */
	struct timer sync_again;  /* after a sync that failed */
	bool idempotent;	  /* its last good answer announced it (setting "idempotent") */
	bool keys_heard;	  /* such an answer came since the start */
	int64_t key_since_ms;	  /* wall: since when this API key is used */
	bool evidence_wanted;	  /* requests may be unknown without a balance after */
	int64_t lost_ms;	  /* monotonic: when the last one became so */
	bool held_anew;		  /* one was refused for its credits: the next balance is news */

	void *settling;		  /* files waiting for their settle time: tsearch(3), by node */
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
/* The same, at by_ms (monotonic) at the latest: a thread that wakes by then is not woken. run finds
 * the moment in e->by_ms. */
void engine_post_by(struct engine *e, void (*run)(struct engine *e, int64_t id, void *arg),
	int64_t id, void *arg, int64_t by_ms);
/*
 * Makes durable what was committed so far, by one sync for all who want one at the same time and without
 * the database's lock, which a DB_FULL transaction would hold meanwhile: a thousand closes would wait
 * for it. -errno when it failed; it is tried again by itself then. Any thread, outside of transactions.
 */
int engine_sync(struct engine *e);
/* The queue may have something to do. Any thread. */
void engine_kick(struct engine *e);

/* commit.c: force also commits content that was submitted before (`again`). A negative errno with
 * *error when nothing was queued because of the text; 1 when a request was queued, else 0. */
int commit_node(struct engine *e, int64_t node, bool force, char **error);
void commit_recover(struct engine *e);

/* settle.c */
/* Looks at it again in a few seconds: this machine was at fault. Any thread. */
void settle_retry(struct engine *e, int64_t node);
void settle_release(struct engine *e); /* (thread) */

/* control.c: withdraws what was made of a prompt and is not sent. Not in a transaction. */
void control_withdraw(struct engine *e, int64_t node, const char *why);

/* judge.c: what is to become of a queued request now. Fills in what the verdict goes by: model,
 * price, balance; hold, reason and text for those that stop it. (thread) */
enum verdict {
	VERDICT_SEND,
	VERDICT_HOLD,
	VERDICT_REFUSE,
	VERDICT_CANCEL,	 /* its file was removed */
	VERDICT_UNKNOWN, /* it may have arrived before, and this hub knows no keys (any more) */
	VERDICT_LATER,	 /* it waits for something of its own; the next may go */
	VERDICT_WAIT,	 /* the queue waits: for models, for the balance */
};
enum verdict judge(struct engine *e, struct request *r);
/* Puts held requests back that may go now: a price, a new day, the end of a pause, credits; rose:
 * the balance has just become more. Any thread. */
void submit_unhold(struct engine *e, bool rose);
/* The same for those over the day's budget, of which something has become free again. */
void submit_budget_freed(struct engine *e);

/* submit.c (thread) */
void submit_init(struct engine *e);
void submit_queue(struct engine *e);
/* Nothing is sent for so long, nor for less than an earlier call said. */
void submit_pause(struct engine *e, int64_t wait_ms, const char *why);
void submit_back_off(struct engine *e, const char *why);
void submit_resume(struct engine *e);
/* A good answer of the hub, body and all: it announces that it knows repeated requests by their key,
 * or it does not (any more). A gateway's error, or an answer that was cut, says nothing of the hub. */
void submit_heard(struct engine *e, const struct net_reply *reply);

/* answer.c (thread) */
/* The argument for net_post_order() of a request: given to answer_post(), or to answer_drop() when
 * no call was made. */
struct posting *answer_expect(struct engine *e, const struct request *r);
void answer_drop(struct posting *p);
void answer_post(void *arg, const struct net_reply *reply);
/* Instead of an answer: its intent was committed, and the POST was not let out. */
void answer_unsent(struct posting *p, const char *why);
/* What was `sending` when the program ended. */
void answer_recover(struct engine *e);
/* A request has become unknown: asks for the balance after. */
void answer_lost(struct engine *e);
/* A balance that was asked for at asked_ms (monotonic): evidence for what became unknown before. */
void answer_evidence(struct engine *e, int64_t balance, int64_t asked_ms);
/* A last try to write what could not be written; after the thread has ended. */
void answer_release(struct engine *e);
/* With a move to a state that ends or gives back a try: settles its charge by r->charged. */
extern const struct life_with answer_settle;

/* follow.c, record.c (thread) */
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
/* Requests wait for credits: it is asked for from time to time, so that they go on by themselves. (thread) */
void account_watch_balance(struct engine *e);
bool account_balance_failed(const struct engine *e); /* the last question had no answer (thread) */
/* The answer of GET credits: keeps what it says. (thread) */
void account_balance_reply(struct engine *e, const struct net_reply *reply);
/* A balance that came with an answer, whose call began at asked_ms (monotonic). (thread) */
void account_balance(struct engine *e, const struct wire_balance *b, int64_t asked_ms);
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
/* Whether what is known since then (wall) is older than that; a clock that was set back makes it so. */
bool account_is_old(int64_t as_of_ms, int64_t age_ms);

/* adopt.c (thread) */
void adopt_release(struct engine *e, int error);

/* pictures.c */
struct pictures *pictures_create(struct engine *e, char **error);
int pictures_start(struct engine *e);	 /* its own thread; a negative errno */
void pictures_release(struct engine *e); /* ends it and the downloads, answers waiters */
void pictures_destroy(struct pictures *p);
/* At the end of each turn of the loop. (thread) */
void pictures_turn(struct engine *e);
/* The turn should not wait for the network. (thread) */
bool pictures_are_due(const struct engine *e);
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

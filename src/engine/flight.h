/*
 * flight.h - a generation that is followed, what the files that follow it share. Not for other folders.
 *
 *	follow.c	polling; starting and recovering flights
 *	record.c	what the hub says of a generation, written down
 *	landing.c	success: the pictures' sizes; the end of the request, and of the flight
 *
 * All on the engine's thread.
 */
#ifndef ENGINE_FLIGHT_H
#define ENGINE_FLIGHT_H

#include "engine/internal.h"

struct flight;

/* One picture being measured. */
struct probe {
	struct flight *flight;
	int64_t image;
	int number;
	int tries;
	int64_t delay_ms;
	struct timer timer;
	struct net_call *call;
	unsigned char *head;
	size_t head_len;
	bool listed;
};

struct flight {
	struct list link;
	struct engine *e;
	int64_t generation, request; /* rows; request 0: nobody's here */
	char *hub_id, *poll_url;
	char *status;	     /* the hub's word and price as they are written down: a poll that brings
			      * the same asks the catalogue nothing */
	int64_t credits;
	struct timer timer;
	struct net_call *call;
	int64_t delay_ms;
	bool paced;	     /* the timer is set to its turn in the line of polls */
	bool other_key;	     /* it was ordered, or found, with another API key than the one of now */
	int missing;	     /* 404 in a row */
	int64_t missing_since_ms; /* monotonic: the first of them */
	struct probe *probes; /* at success; one for each picture */
	size_t n_probes;
	struct net_call *balance; /* asked at success, so that the price is known with it */
	bool concluded;	     /* the request has its final state */
};

/* follow.c */
void flight_end(struct flight *f); /* frees it */
static inline void flight_tell(struct flight *f)
{
	engine_tell(f->e, CHANGE_GENERATION, 0, f->request, f->generation, 0);
}

/* record.c */
/* The word that is written down of it is the flight's from now on. */
void record_taken(struct flight *f, const struct generation *g);
/* Writes an answer down when it is news: 1; 0 when it is none; -errno. */
int record_answer(struct flight *f, const struct wire_generation *w, const char *body);

/* Says in the place of the hub's word what is the matter, until the hub has one again; and in the log. */
void record_word(struct flight *f, const char *word);

/* landing.c */
/* Of a generation that has succeeded: measures its pictures, then ends the request. May free f. To be
 * called again when the end could not be written. */
void landing_succeeded(struct flight *f);
/* Ends the request as failed. w NULL: the hub no longer knows it. May free f. */
void landing_failed(struct flight *f, const struct wire_generation *w, const char *why);
/* Cancels what measures its pictures. */
void landing_release(struct flight *f);

#endif

/*
 * picture.h - what the files of pictures share. Not for other folders.
 *
 *	pictures.c	the table, and readers
 *	fetch.c		downloads, on the engine's thread
 *	keep.c		a finished download becomes a durable file of the cache, on a thread of its
 *			own; checking the cache
 *	ahead.c		which pictures are fetched before they are asked for (ahead.h)
 *
 * A picture is in the table while somebody has it open, it is being fetched, or it is being made a
 * file of the cache ("kept"):
 *
 *	state		what holds					leaves by
 *	absent		no descriptor					a reader's wait → fetching
 *	fetching	temporary file, `have` bytes are in it		all bytes, checked → here;
 *			(none yet while the request goes out)		trouble → absent, waiters told
 *	here		all bytes; the file is temporary until kept	eviction after the last close
 *
 * A kept picture stays in the table for a while after its last close (idle_most of them, without a
 * reference), so that opening it again asks neither the catalogue nor the disk.
 *
 * Readers come from any thread: they look at `have` and take the descriptor under `lock`, or leave a
 * waiter, which is called when its bytes are here. The engine's thread alone starts downloads and
 * writes. The descriptor of a whole picture stays open until the picture leaves the table; that of a
 * download that fails is closed behind the last reader who is using it. Nothing else is called with
 * `lock` held but the cache's look-up of a file.
 */
#ifndef ENGINE_PICTURE_H
#define ENGINE_PICTURE_H

#include "base/buf.h"
#include "catalogue/generation.h"
#include "engine/ahead.h"
#include "engine/cache.h"
#include "engine/internal.h"

enum { BEGUN_MOST = 64 };
enum picture_state { PICTURE_ABSENT, PICTURE_FETCHING, PICTURE_HERE };

struct picture {
	struct engine *e;
	int64_t image;	 /* the table's key */
	int64_t size;	 /* bytes; -1 while it is being measured */
	enum picture_type type;
	int refs;	 /* under lock, as all below; 0 while idle */
	enum picture_state state;
	struct list fetch; /* in pictures' fetches from the claim to the end; with a reference */
	bool asked;	 /* somebody waits or has waited for it */
	bool kept;	 /* fd is the cache's own file */
	bool forgotten;	 /* removed by its owner: for those who have it open, and nobody else */
	int fd;
	int64_t have;
	int users;	 /* of fd while it is not all here: picture_fd() to picture_fd_done() */
	int *retired;	 /* descriptors of downloads that failed meanwhile */
	int n_retired;
	struct list waiters;
	struct list idle; /* in pictures' idle, while it has no reference */

	struct list keeping; /* in the keeper's queue, under its lock */

	/* The download (thread). */
	struct net_call *call;
	struct list fileless; /* in pictures' fileless while its temporary file is to be made */
	struct list arrived; /* in pictures' arrived while `bytes` holds some */
	struct buf bytes;    /* come in this turn, not in the file yet */
	unsigned char head[64];
	size_t head_len;
	int fresh_urls;	 /* asked for */
	int expired_err; /* what its reader is told when there is none */
	bool ahead;	 /* it was begun before anybody asked */
	const char *trouble; /* why our own side ended the download */
	void (*measured)(void *arg, const struct picture_measured *m);
	void *measured_arg;
};

struct keeper;

struct pictures {
	struct cache *cache;
	struct ahead *ahead; /* NULL: nothing is fetched ahead */
	struct keeper *keeper;
	pthread_mutex_t lock; /* leaf */
	void *table;	      /* under lock: tsearch(3), by image */
	struct list fetches;  /* under lock: posted or under way */
	struct list idle;     /* under lock: least recently closed first */
	int n_idle;	      /* under lock */
	int idle_most;	      /* each holds a descriptor */
	struct list fileless; /* (thread): downloads begun in this turn */
	struct list arrived;  /* (thread): what pictures_turn() writes */
	int64_t begun[BEGUN_MOST]; /* (thread): pictures that are being read since the last turn */
	int n_begun;
};

/* pictures.c */
/* Under lock: the picture when it is in the table, or NULL; borrowed. */
struct picture *picture_find(struct pictures *ps, int64_t image);
/* Under lock: the picture with a reference for the caller. */
struct picture *picture_get(struct engine *e, int64_t image, int64_t size, enum picture_type type);
void picture_unref(struct picture *p);
/* Whether somebody uses it; those that nobody uses are for pictures_drop_idle(). */
bool picture_is_used(struct pictures *ps, int64_t image);
/* Closes what nobody uses, so that the cache may remove it. */
void pictures_drop_idle(struct pictures *ps);
/* Under lock: whether a fetch must be begun; takes the download's reference. */
bool picture_claim(struct picture *p);
/* Under lock: takes the descriptor of a failed download away. Returns it when nobody is using it, for
 * the caller to close, else -1. */
int picture_retire(struct picture *p);
/* Whether somebody waits for no more than the bytes before end. */
bool picture_is_awaited(struct picture *p, int64_t end);
/* Calls the waiters whose bytes are here; with error < 0 all of them. */
void picture_wake(struct picture *p, int error);

/* fetch.c (thread) */
/* Starts the download of a picture that was claimed. As a command: arg is the picture. */
void fetch_begin(struct engine *e, int64_t id, void *arg);
/* A reader waits for a picture that was begun to be fetched ahead. */
void fetch_hurry(struct engine *e, int64_t image, void *arg);
/* A picture's first bytes are being read: fetches those that are likely to be read next. */
void fetch_ahead(struct engine *e, int64_t image, void *arg);
/* Ends a download without a word to anybody. */
void fetch_cancel(struct picture *p);

/* keep.c */
struct keeper *keeper_create(struct engine *e);
int keeper_start(struct keeper *k);
/* Takes a reference of the caller's: the picture is here, its file temporary. */
void keeper_add(struct keeper *k, struct picture *p);
/* Whether it is so far behind (a slow disk) that nothing should be fetched ahead. */
bool keeper_is_behind(struct keeper *k);
/* Ends the thread: what waits is kept if that takes no longer than a moment, else dropped (and
 * fetched again when it is next read). */
void keeper_stop(struct keeper *k);
void keeper_destroy(struct keeper *k); /* accepts NULL */

#endif

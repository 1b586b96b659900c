/*
 * engine.h - the life of a request: commit, queue, sending, polling, pictures, recovery.
 *
 *	struct engine *e = engine_create(&config, cat, &events, &error);
 *	engine_start(e);		its thread: recovery, then the queue until engine_stop()
 *	… calls below, from any thread …
 *	engine_stop(e); engine_destroy(e);
 *
 * The engine's one thread owns the network (net.h), the timers and everything in flight. Calls from
 * other threads read or write the catalogue themselves, or leave a command for the thread; none
 * waits for the network. A function that takes a callback calls it exactly once, from any thread,
 * possibly before it returns, and holds none of its locks meanwhile.
 *
 * What happens to requests, in which state, is life.h; what is said about it, words.h.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/util.h"
#include "catalogue/catalogue.h"
#include "catalogue/request.h"

struct engine;

struct engine_config {
	const char *hub;	 /* base URL */
	const char *key;	 /* NULL: none */
	const char *cache_dir;	 /* pictures */
	const char *mountpoint;	 /* absolute; NULL when nothing is mounted */
	int64_t cache_max;	 /* bytes; 0: no limit */
	int64_t max_spend;	 /* credits a day; -1: no limit */
	int64_t settle_ms;	 /* from the last close to the commit */
	bool eager;		 /* download pictures at success */
	int read_ahead;		 /* pictures fetched ahead of a reader of several; 0: none */
	int sending_max;	 /* POSTs under way at once; 0: 4 */
	int running_max;	 /* generations in flight at once, sent or polled; 0: no limit */
};

/* What changed, for names that must be announced and readers that wait. Called from any thread
 * without locks; must not wait. Ids are rows; 0 where they say nothing. */
enum engine_change {
	CHANGE_REQUEST,	   /* a request's state or words, or a draft's note: node, request */
	CHANGE_NAMES,	   /* what is beside a prompt has new names, or is back: node */
	CHANGE_GENERATION, /* a generation became known, or its words changed: generation */
	CHANGE_PICTURE,	   /* a picture is now listed: node and request (if any), generation, image */
	CHANGE_ACCOUNT,	   /* the balance, or whether the hub answers */
	CHANGE_MODELS,	   /* the list of models */
};
struct engine_event {
	enum engine_change what;
	int64_t node, request, generation, image;
};
struct engine_events {
	void (*changed)(void *arg, const struct engine_event *event);
	void *arg;
};

struct engine *engine_create(const struct engine_config *config, struct catalogue *cat,
	const struct engine_events *events, char **error);
int engine_start(struct engine *e);
/* Ends the thread: a POST under way gets up to grace_ms for its answer, then stays `sending` (and
 * is `unknown` at the next start). Waiting callbacks are called with -ENOTCONN. */
void engine_stop(struct engine *e, int64_t grace_ms);
void engine_destroy(struct engine *e);

/* ---- prompts: the commit rule (DESIGN.md, section 3) ---- */

/* At FLUSH of a handle that wrote, after file_flush(): validates a file with a prompt's name.
 * Returns -EINVAL, with a draft note made, for what the writer must mend; 0 for everything else
 * (blank, other names, still being written). A note of an earlier error is removed. */
int engine_validate(struct engine *e, int64_t node);
/* The last writer is gone: look at it after the settle time. */
void engine_settle(struct engine *e, int64_t node);
/* It got its name by a rename: look at it now, on this thread; the request is durably queued (or
 * a note is made) when this returns. */
void engine_commit_now(struct engine *e, int64_t node);
/* A folder lost the dot that hid it: what was closed in it is looked at after the settle time. */
void engine_folder_shown(struct engine *e);
/* It was opened for writing, unlinked or renamed away: no commit from an earlier settle. */
void engine_disturb(struct engine *e, int64_t node);
/* The prompt file was removed: withdraws its request when that has not been sent. */
void engine_removed(struct engine *e, int64_t node);

/* One line written to /control. -EINVAL (bad verb or path; not possible in its state), -EINPROGRESS
 * (a reference is still to be downloaded), … Reading /control shows why until the next line, and of a
 * folder, which succeeds when anything below it did, for how many it was carried out and for how
 * many not. Done when it returns, but for what needs the network. A blank line is nothing. */
int engine_control(struct engine *e, const char *line);

/* ---- progress ---- */

/* The line that a reader of NAME.wait gets now ("processing 12 s\n"), owned. *final: nothing more
 * will happen by itself; *err is then 0 for a success or the positive errno that ends the read.
 * *announce: row ids whose names a final success depends on are in derived_of(node). */
char *engine_progress(struct engine *e, int64_t node, bool *final, int *err);

/* ---- texts ---- */

enum engine_text {
	TEXT_PROMPT_STATUS,	/* id: prompt's node */
	TEXT_PROMPT_ERROR,
	TEXT_GENERATION_STATUS, /* id: generation row, for these */
	TEXT_GENERATION_LOG,
	TEXT_GENERATION_PROMPT,
	TEXT_GENERATION_REQUEST, /* request.json */
	TEXT_GENERATION_RESPONSE,
	TEXT_GENERATION_ERROR,
	TEXT_CREDITS,		/* id unused, for these */
	TEXT_ACCOUNT,
	TEXT_CONTROL,
	TEXT_HUB,		/* a sentence or two on the hub and whether it answers (README.txt) */
	TEXT_MODEL,		/* id: 1-based index in the models now known */
};
/* The text as it is now, owned, into *text. -ENOENT when there is none; for TEXT_CREDITS and
 * TEXT_ACCOUNT before any balance is known the errno that says why (-ENOKEY, -ECONNREFUSED, …,
 * -EAGAIN while the first answer is still awaited). */
int engine_text(struct engine *e, enum engine_text what, int64_t id, char **text, size_t *len);
/* The id of that model, owned; NULL past the last. models/<id>.json lists them by this. */
char *engine_model_id(struct engine *e, int64_t index);
/* Asks for the balance again when it is older than a few seconds (reading /credits does). */
void engine_want_balance(struct engine *e);

/* ---- pictures ---- */

struct picture;

/* Makes a picture readable: it is not evicted until picture_close(). Never waits. A listed image's
 * row id; -ENOENT. */
int picture_open(struct engine *e, int64_t image, struct picture **out);
void picture_close(struct picture *p);
/* Another hold on an open picture, given back by picture_close(). Returns p. */
struct picture *picture_hold(struct picture *p);
/* Whether, now that a reader's first byte is about to be read, those that follow should be fetched:
 * then engine_fetch_following() is to be called, behind picture_wait() so as not to delay it. */
bool picture_leads_on(struct picture *p);
void engine_fetch_following(struct engine *e, int64_t image);
/* A descriptor on which bytes [offset, offset+len) of the picture (cut at its size) may be pread
 * now; -EAGAIN when they are not here yet. *complete is set when the whole picture is here and
 * checked: the descriptor is then valid until picture_close(), otherwise until picture_fd_done(),
 * which has to follow. */
int picture_fd(struct picture *p, int64_t offset, size_t len, bool *complete);
/* Whether the file behind fd still has those bytes: somebody may have cut it, and what is missing would
 * be read as the end of the picture. -EIO when not; it is then fetched again at the next open. */
int picture_check(struct picture *p, int fd, int64_t offset, size_t len);
void picture_fd_done(struct picture *p);
/* Starts the download if need be and calls fn(arg, fd or -errno) when those bytes are here, or the
 * download has failed (-EIO: short, over-long, wrong type; -ETIMEDOUT, …; the log says why). */
typedef void picture_ready_fn(void *arg, int fd_or_error);
void picture_wait(struct picture *p, int64_t offset, size_t len, picture_ready_fn *fn, void *arg);

/* Checks every cached picture against the SHA-256 kept at its download; removes what differs or is
 * not known. Before engine_start(). */
int engine_verify_cache(struct engine *e, int64_t *good, int64_t *bad);

/* ---- generations ---- */

/* Asks the hub for an id that is not known here and adopts what it answers. fn gets 0 and the row,
 * or -ENOENT (kept for a while), -EKEYREJECTED, -ETIMEDOUT, … */
typedef void engine_adopt_fn(void *arg, int error, int64_t generation);
void engine_adopt(struct engine *e, const char *hub_id, engine_adopt_fn *fn, void *arg);
/* Forgets here, with its cache files; the log says that nothing is refunded. -EBUSY for a
 * generation that is still under way. */
int engine_forget_generation(struct engine *e, int64_t generation);
int engine_forget_image(struct engine *e, int64_t image);

#endif

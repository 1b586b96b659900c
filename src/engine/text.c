/*
 * The texts that the mount shows, rendered from the catalogue as it is now; and the progress that a
 * reader of NAME.wait follows.
 */
#include "base/buf.h"
#include "base/clock.h"
#include "catalogue/file.h"
#include "catalogue/tree.h"
#include "engine/internal.h"
#include "engine/life.h"
#include "engine/words.h"
#include <errno.h>
#include <stdio.h>

enum { CONTROL_MAX = 16 * 1024 };

/* ---- a request in words ---- */

static int count_listed(struct engine *e, int64_t generation, int *missing)
{
	struct image *images;
	size_t n;
	int listed = 0;

	*missing = 0;
	if (generation == 0 || image_list(e->cat, generation, &images, &n) < 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		listed += images[i].size >= 0;
		*missing += images[i].size < 0 && !images[i].removed;
	}
	images_free(images, n);
	return listed;
}

/* Why a queued request is not on its way; NULL when it only waits for its turn. Owned. */
static char *why_waiting(struct engine *e)
{
	CLEANUP_FREE char *paused = catalogue_setting(e->cat, "paused");
	char *why = NULL;

	if (paused)
		return xstrdup(words_paused(paused));
	pthread_mutex_lock(&e->lock);
	if (e->gate_why)
		why = xasprintf("waits for the hub (%s)", e->gate_why);
	else if (e->models.count == 0 && e->hub_message)
		why = xasprintf("waits for the hub (%s)", e->hub_message);
	else if (e->short_of_credits)
		why = xstrdup("waits for those under way, which may take what is left of the "
			      "balance");
	pthread_mutex_unlock(&e->lock);
	return why;
}

static char *render(struct engine *e, const struct request *r,
	char *(*words)(const struct request *r, const struct words_context *c))
{
	struct words_context c = {.now_ms = clock_wall_ms(), .control = e->control};
	struct generation g = {0};
	CLEANUP_FREE char *waiting = r->state == REQUEST_QUEUED ? why_waiting(e) : NULL;
	CLEANUP_FREE char *log = NULL;

	c.waiting = waiting;
	if (r->generation && generation_get(e->cat, r->generation, &g) == 0) {
		c.hub_word = g.phase == PHASE_SUCCEEDED		? "finishing"
			: g.status && !strcmp(g.status, "queued") ? "queued at the hub"
								   : g.status;
		c.hub_since_ms = g.changed_ms;
		if (r->state == REQUEST_SUCCEEDED)
			c.pictures = count_listed(e, g.id, &c.missing);
		c.log = log = xasprintf("generations/%s/log", g.hub_id);
	}
	char *text = words(r, &c);
	generation_release(&g);
	return text;
}

/* A file that was moved is spoken of, in the commands too, by the name that it has now: another may have
 * the one before. */
static bool request_now(struct engine *e, int64_t id, struct request *r)
{
	if (request_get(e->cat, id, r) < 0)
		return false;
	char *path = tree_path(e->cat, r->node);
	if (path) {
		free(r->path);
		r->path = path;
	}
	return true;
}

/* ---- NAME.status, NAME.error, NAME.wait ---- */

struct view {
	struct node node;
	int draft_err; /* 0: no note */
	char *draft;
	struct request request;
	bool has_request;
};

static int view_load(struct engine *e, int64_t node, struct view *v)
{
	*v = (struct view){0};
	const int rc = tree_get(e->cat, node, &v->node);
	if (rc < 0)
		return rc;
	if (tree_draft_get(e->cat, node, &v->draft_err, &v->draft, NULL) < 0)
		v->draft = NULL;
	v->has_request = v->node.request && request_now(e, v->node.request, &v->request);
	return 0;
}

static void view_release(struct view *v)
{
	free(v->draft);
	if (v->has_request)
		request_release(&v->request);
}

/* Of a draft: what this machine has trouble with is tried again by itself. */
static bool goes_on(const struct view *v)
{
	return v->node.pending == PENDING_CLOSED && v->draft_err != EINVAL;
}

static int prompt_text(struct engine *e, int64_t node, bool error, char **text)
{
	struct view v;
	int rc = view_load(e, node, &v);

	if (rc < 0)
		return rc;
	*text = NULL;
	if (v.draft && error) {
		CLEANUP_FREE char *path = tree_path(e->cat, node);
		*text = words_draft_error(path ? path : "it", v.draft_err, v.draft, goes_on(&v),
			e->control);
	} else if (v.draft) {
		*text = words_draft_status(v.draft);
	} else if (v.node.pending != PENDING_NONE && !error) {
		/* What is known is of the content before this one. */
		*text = xstrdup(v.node.pending == PENDING_CLOSED
				? "draft: it was saved just now and is about to be sent\n"
				: "draft: it is being written\n");
	} else if (v.has_request) {
		*text = error ? words_error(&v.request, e->control)
			      : render(e, &v.request, words_status);
	}
	view_release(&v);
	return *text ? 0 : -ENOENT;
}

char *engine_progress(struct engine *e, int64_t node, bool *final, int *err)
{
	struct view v;
	char *line;

	*final = true;
	*err = 0;
	if (view_load(e, node, &v) < 0) {
		*err = ENOENT;
		return xstrdup("it was removed\n");
	}
	if (file_has_writer(e->cat, node)) {
		*final = false;
		line = xstrdup("being written\n");
	} else if (v.draft) {
		*err = v.draft_err ? v.draft_err : EINVAL;
		*final = !goes_on(&v);
		line = words_draft_status(v.draft);
	} else if (v.node.pending != PENDING_NONE && tree_is_hidden(e->cat, v.node.parent)) {
		*err = ENODATA;
		line = words_draft_status("what is in a folder whose name begins with a dot is not sent");
	} else if (v.node.pending != PENDING_NONE) {
		*final = false;
		line = xstrdup(v.node.pending == PENDING_CLOSED ? "settling\n" : "being written\n");
	} else if (v.has_request) {
		*final = life_rests(v.request.state);
		*err = *final ? words_errno(&v.request) : 0;
		line = render(e, &v.request, words_progress);
	} else {
		*err = ENODATA;
		line = words_draft_status("there is no prompt text in it yet");
	}
	view_release(&v);
	return line;
}

/* ---- a generation ---- */

static int generation_status(struct engine *e, const struct generation *g, char **text)
{
	struct request r;
	int missing;

	if (g->request && request_now(e, g->request, &r)) {
		/* After a retry the request speaks of a later generation. */
		if (r.generation == g->id)
			*text = render(e, &r, words_status);
		request_release(&r);
	}
	if (*text)
		return 0;
	const int listed = count_listed(e, g->id, &missing);
	if (g->phase == PHASE_SUCCEEDED && g->credits >= 0)
		*text = xasprintf("succeeded: %d picture%s, %lld credits, %s\n", listed,
			listed == 1 ? "" : "s", (long long)g->credits, g->model ? g->model : "?");
	else if (g->phase == PHASE_FAILED)
		*text = xasprintf("failed: %s\n", g->error ? g->error : g->status);
	else
		*text = xasprintf("%s: %s\n",
			g->phase == PHASE_SUCCEEDED ? "succeeded" : "running", g->status);
	return 0;
}

static int generation_error(struct engine *e, const struct generation *g, char **text)
{
	struct request r;

	if (g->phase != PHASE_FAILED)
		return -ENOENT;
	if (g->request && request_now(e, g->request, &r)) {
		if (r.generation == g->id)
			*text = words_error(&r, e->control);
		request_release(&r);
	}
	if (!*text)
		*text = xasprintf("what:    generation %s failed\nwhy:     %s\n"
				  "charged: %lld credits\n",
			g->hub_id, g->error ? g->error : g->status,
			(long long)(g->credits > 0 ? g->credits : 0));
	return 0;
}

static char *with_newline(const char *text)
{
	const size_t len = text ? strlen(text) : 0;

	return len == 0			 ? NULL
		: text[len - 1] == '\n' ? xstrdup(text)
					: xasprintf("%s\n", text);
}

static char *pretty(const char *json)
{
	char *text = json ? wire_pretty(json, strlen(json)) : NULL;

	return text ? text : with_newline(json);
}

static int generation_text(struct engine *e, enum engine_text what, int64_t id, char **text)
{
	struct generation g;
	int rc = generation_get(e->cat, id, &g);

	if (rc < 0)
		return rc;
	switch (what) {
	case TEXT_GENERATION_STATUS:
		rc = generation_status(e, &g, text);
		break;
	case TEXT_GENERATION_LOG:
		*text = log_text(e->cat, g.request, g.id);
		break;
	case TEXT_GENERATION_PROMPT:
		*text = with_newline(g.prompt);
		break;
	case TEXT_GENERATION_REQUEST:
		*text = pretty(g.request_json);
		break;
	case TEXT_GENERATION_RESPONSE:
		*text = pretty(g.response_json);
		break;
	default:
		rc = generation_error(e, &g, text);
		break;
	}
	generation_release(&g);
	return rc < 0 ? rc : *text ? 0 : -ENOENT;
}

/* ---- the account, control, the hub ---- */

static int why_no_balance(struct engine *e)
{
	int err = EAGAIN;

	pthread_mutex_lock(&e->lock);
	if (e->balance_heard && e->balance_outcome != OUTCOME_OK)
		err = outcome_fact(e->balance_outcome)->err;
	pthread_mutex_unlock(&e->lock);
	return -(err ? err : EIO);
}

static int account_text(struct engine *e, bool json, char **text)
{
	struct wire_balance b;
	int64_t as_of = 0;
	int rc = catalogue_balance_load(e->cat, &b, &as_of);

	if (rc == 0 && as_of == 0) {
		wire_balance_release(&b);
		rc = -ENOENT;
	}
	if (rc < 0)
		return why_no_balance(e);
	*text = json ? wire_account_encode(&b, as_of)
		     : xasprintf("%lld\n", (long long)b.credits);
	wire_balance_release(&b);
	return 0;
}

/* No answer at all, in contrast to one that is of no use. */
static bool is_silence(enum outcome o)
{
	return o == OUTCOME_NO_HOST || o == OUTCOME_NO_CONNECTION || o == OUTCOME_TLS ||
		o == OUTCOME_TIMEOUT;
}

static char *hub_text(struct engine *e)
{
	char *text;

	pthread_mutex_lock(&e->lock);
	if (!e->hub_heard)
		text = xasprintf("%s has not answered yet.\n", e->config.hub);
	else if (e->hub_message)
		text = xasprintf("%s does not answer%s: %s.\n%s\n", e->config.hub,
			is_silence(e->hub_outcome) ? "" : " as it should", e->hub_message,
			outcome_fact(e->hub_outcome)->advice
				? outcome_fact(e->hub_outcome)->advice
				: "It is tried again by itself.");
	else
		text = xasprintf("%s answers.\n", e->config.hub);
	pthread_mutex_unlock(&e->lock);
	return text;
}

static void add_money(struct engine *e, struct buf *b)
{
	const int64_t balance = account_known_balance(e, NULL);
	const int64_t spent = request_spent_since(e->cat, clock_day_start_ms(clock_wall_ms()));

	if (balance >= 0)
		buf_printf(b, "balance: %lld credits\n", (long long)balance);
	buf_printf(b, "spent today: %lld credits", (long long)spent);
	if (e->config.max_spend >= 0)
		buf_printf(b, " of %lld", (long long)e->config.max_spend);
	buf_addstr(b, " (what is under way counted in full)\n");
}

static void add_counts(struct buf *b, const int64_t counts[REQUEST_STATES])
{
	const char *between = "";

	buf_addstr(b, "requests: ");
	for (int s = 0; s < REQUEST_STATES; s++)
		if (counts[s] > 0) {
			buf_printf(b, "%s%lld %s", between, (long long)counts[s], life_name(s));
			between = ", ";
		}
	buf_addstr(b, *between ? "\n" : "none yet\n");
}

static char *control_text(struct engine *e)
{
	CLEANUP_FREE char *hub = hub_text(e);
	CLEANUP_FREE char *waiting = why_waiting(e);
	int64_t counts[REQUEST_STATES] = {0};
	struct buf b;

	buf_init(&b, CONTROL_MAX);
	buf_addstr(&b,
		"Write a line, a verb and a path from here down, for instance:\n");
	buf_printf(&b, "  echo 'retry requests/cat.prompt' > '%s'\n\n", e->control);
	buf_addstr(&b,
		"again PATH    send the same prompt once more (and pay for it)\n"
		"retry PATH    try again what was refused, has failed or is unknown (what is unknown may\n"
		"              be paid a second time by it)\n"
		"cancel PATH   withdraw what was not sent, let rest what is unknown\n"
		"approve PATH  send what is held for its price, the budget or the balance\n"
		"pause         send nothing more until resume\n"
		"resume        go on\n"
		"refresh       ask the hub for models and balance, and try it again now\n"
		"A PATH may be a folder: every prompt below it that it applies to (again: all of them are\n"
		"paid once more).\n\n");
	buf_addstr(&b, hub);
	add_money(e, &b);
	request_counts(e->cat, counts);
	add_counts(&b, counts);
	if (waiting)
		buf_printf(&b, "queue: %s\n", waiting);
	pthread_mutex_lock(&e->lock);
	if (e->control_said)
		buf_printf(&b, "the last line was %s\n", e->control_said);
	pthread_mutex_unlock(&e->lock);
	return buf_take(&b);
}

static int model_text(struct engine *e, int64_t index, char **text)
{
	pthread_mutex_lock(&e->lock);
	if (index >= 1 && (size_t)index <= e->models.count)
		*text = xstrdup_or_null(e->models.items[index - 1].raw);
	pthread_mutex_unlock(&e->lock);
	return *text ? 0 : -ENOENT;
}

char *engine_model_id(struct engine *e, int64_t index)
{
	char *id = NULL;

	pthread_mutex_lock(&e->lock);
	if (index >= 1 && (size_t)index <= e->models.count)
		id = xstrdup(e->models.items[index - 1].id);
	pthread_mutex_unlock(&e->lock);
	return id;
}

int engine_text(struct engine *e, enum engine_text what, int64_t id, char **text, size_t *len)
{
	int rc = 0;

	*text = NULL;
	switch (what) {
	case TEXT_PROMPT_STATUS:
	case TEXT_PROMPT_ERROR:
		rc = prompt_text(e, id, what == TEXT_PROMPT_ERROR, text);
		break;
	case TEXT_CREDITS:
	case TEXT_ACCOUNT:
		rc = account_text(e, what == TEXT_ACCOUNT, text);
		break;
	case TEXT_CONTROL:
		*text = control_text(e);
		break;
	case TEXT_HUB:
		*text = hub_text(e);
		break;
	case TEXT_MODEL:
		rc = model_text(e, id, text);
		break;
	default:
		rc = generation_text(e, what, id, text);
		break;
	}
	if (*text && len)
		*len = strlen(*text);
	return rc;
}

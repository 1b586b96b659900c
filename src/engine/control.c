/*
 * The verbs of /control and what follows from removing a prompt.
 */
#include "base/buf.h"
#include "base/names.h"
#include "catalogue/tree.h"
#include "engine/internal.h"
#include "engine/life.h"
#include <errno.h>
#include <stdio.h>

enum { BATCH = 64 };

/* ---- verbs on one prompt: 0 done, -EINVAL with *error when its state does not allow it. What they have
 * moved becomes durable at the end of the line, at once for a whole folder. ---- */

typedef int verb_fn(struct engine *e, const struct node *n, char **error);

static int latest(struct engine *e, const struct node *n, struct request *r, char **error)
{
	if (n->request == 0 || request_get(e->cat, n->request, r) < 0)
		return fail(error, -EINVAL, "nothing was sent or queued for it yet");
	return 0;
}

static int not_now(const struct request *r, const char *verb, char **error)
{
	const bool at_hub = r->state == REQUEST_SENDING || r->state == REQUEST_RUNNING;
	const bool over = r->state == REQUEST_SUCCEEDED || r->state == REQUEST_FAILED;

	return fail(error, -EINVAL, "it %s %s%s; %s is not possible", over ? "has" : "is",
		life_name(r->state), at_hub ? " and cannot be called back" : "", verb);
}

static int moved(int rc, char **error)
{
	return rc == -ESTALE ? fail(error, -EAGAIN, "its state has just changed; look again") : rc;
}

static int do_again(struct engine *e, const struct node *n, char **error)
{
	CLEANUP_FREE char *why = NULL;
	const int rc = commit_node(e, n->id, true, &why);

	if (rc == -EINPROGRESS)
		return fail(error, rc, "%s; it is on its way, say it again in a moment", why);
	return rc < 0 ? fail(error, rc, "%s", why) : 0;
}

static int do_retry(struct engine *e, const struct node *n, char **error)
{
	struct request r;
	int rc = latest(e, n, &r, error);

	if (rc < 0)
		return rc;
	if (r.state == REQUEST_FAILED || r.state == REQUEST_REFUSED || r.state == REQUEST_UNKNOWN) {
		/* After a failure it is another generation, with a key of its own. What may have
		 * arrived keeps its key, so that a hub that knows keys does not charge it again. */
		if (r.state == REQUEST_FAILED)
			r.retries++;
		r.generation = 0;
		r.reason = OUTCOME_OK;
		r.attempts = 0;
		r.not_before_ms = 0;
		rc = moved(life_move(e, &r, REQUEST_QUEUED, DB_NORMAL, NULL, "retry, by the user"),
			error);
	} else {
		rc = not_now(&r, "retry", error);
	}
	request_release(&r);
	return rc;
}

static int cancel(struct engine *e, struct request *r, char **error)
{
	r->generation = 0;
	if (!life_may(r->state, REQUEST_CANCELED))
		return not_now(r, "cancel", error);
	return moved(life_move(e, r, REQUEST_CANCELED, DB_NORMAL, NULL, "canceled, by the user"),
		error);
}

static int approve(struct engine *e, struct request *r, char **error)
{
	if (r->state != REQUEST_HELD)
		return not_now(r, "approve", error);
	/* It would be held again, and let past its budget later. */
	if (r->hold == HOLD_PAUSED)
		return fail(error, -EINVAL, "it is held by the pause; resume goes on");
	r->approved = true;
	r->hold = HOLD_NONE;
	free(r->text);
	r->text = NULL;
	return moved(life_move(e, r, REQUEST_QUEUED, DB_NORMAL, NULL, "approved, by the user"),
		error);
}

/* The latest request of a prompt, and all others that it has and that are not sent: after `again`, nothing
 * else could reach those. The latest decides, unless it is done and another was meant. */
static int on_unsent(struct engine *e, const struct node *n,
	int (*verb)(struct engine *e, struct request *r, char **error), char **error)
{
	CLEANUP_FREE char *why = NULL;
	struct request r;
	int64_t id = 0;
	bool done = false;
	int rc = latest(e, n, &r, error);

	if (rc < 0)
		return rc;
	rc = verb(e, &r, &why);
	request_release(&r);
	while (request_unsent_of_node(e->cat, n->id, id, &id, 1) > 0) {
		if (request_get(e->cat, id, &r) < 0)
			continue;
		done |= id != n->request && verb(e, &r, NULL) == 0;
		request_release(&r);
	}
	return rc == 0 || done ? 0 : fail(error, rc, "%s", why ? why : strerror(-rc));
}

static int do_cancel(struct engine *e, const struct node *n, char **error)
{
	return on_unsent(e, n, cancel, error);
}

static int do_approve(struct engine *e, const struct node *n, char **error)
{
	return on_unsent(e, n, approve, error);
}

/* ---- verbs on everything ---- */

static int do_pause(struct engine *e)
{
	return catalogue_set(e->cat, "paused", "1");
}

static int do_resume(struct engine *e)
{
	const int rc = catalogue_set(e->cat, "paused", NULL);

	submit_unhold(e, false);
	return rc;
}

static void refresh(struct engine *e, int64_t id, void *arg)
{
	(void)id;
	(void)arg;
	submit_resume(e);
	account_want_models(e);
	account_want_balance(e);
}

static int do_refresh(struct engine *e)
{
	engine_post(e, refresh, 0, NULL);
	return 0;
}

static const struct verb {
	const char *name;
	verb_fn *on_prompt;
	int (*on_all)(struct engine *e);
} verbs[] = {
	{"again", do_again, NULL},
	{"retry", do_retry, NULL},
	{"cancel", do_cancel, NULL},
	{"approve", do_approve, NULL},
	{"pause", NULL, do_pause},
	{"resume", NULL, do_resume},
	{"refresh", NULL, do_refresh},
};

/* ---- a folder: each prompt below it whose state allows the verb ---- */

/* Folders are taken into the same list, and looked into when their turn comes: trees may be deep. */
struct below {
	bool hidden_too; /* folders whose names begin with a dot: nobody pays for what is thrown away */
	struct {
		int64_t id;
		bool folder;
	} *items;
	size_t count, alloc;
};

struct tally {
	struct engine *e;
	verb_fn *verb;
	int done, refused;
	char *first; /* of those refused, and why; or NULL */
};

static bool collect(void *arg, int64_t id, const char *name, mode_t mode)
{
	struct below *b = arg;

	if (S_ISDIR(mode) ? name[0] == '.' && !b->hidden_too
			  : !S_ISREG(mode) || !names_is_prompt(name))
		return true;
	if (b->count == b->alloc) {
		b->alloc = b->alloc ? b->alloc * 2 : 64;
		b->items = xrealloc(b->items, b->alloc * sizeof *b->items);
	}
	b->items[b->count].id = id;
	b->items[b->count++].folder = S_ISDIR(mode);
	return true;
}

static void on_child(struct tally *t, int64_t id)
{
	CLEANUP_FREE char *why = NULL;
	struct node n;

	if (tree_get(t->e->cat, id, &n) < 0)
		return; /* removed meanwhile */
	const int rc = t->verb(t->e, &n, &why);
	if (rc == 0) {
		t->done++;
	} else if (t->refused++ == 0) {
		CLEANUP_FREE char *path = tree_path(t->e->cat, id);

		t->first = xasprintf("%s: %s", path ? path : "it", why ? why : strerror(-rc));
	}
}

static int on_folder(struct tally *t, int64_t folder)
{
	struct below b = {.hidden_too = t->verb == do_cancel};
	int rc = tree_list(t->e->cat, folder, collect, &b);

	for (size_t i = 0; rc == 0 && i < b.count; i++)
		if (b.items[i].folder)
			rc = tree_list(t->e->cat, b.items[i].id, collect, &b);
		else
			on_child(t, b.items[i].id);
	free(b.items);
	return rc;
}

/* *said: for how many it was done, and the first for which it was not. */
static int on_folder_told(struct engine *e, const struct verb *v, int64_t folder, const char *path,
	char **said)
{
	struct tally t = {.e = e, .verb = v->on_prompt};
	const size_t len = strlen(path);
	CLEANUP_FREE char *bare = xstrndup(path, len > 1 && path[len - 1] == '/' ? len - 1 : len);
	int rc = on_folder(&t, folder);

	if (rc == 0 && t.done == 0)
		rc = fail(said, -EINVAL, "%s: nothing below it can be asked to %s%s%s", bare,
			v->name, t.first ? "; " : "", t.first ? t.first : "");
	else if (rc == 0 && t.refused > 0)
		*said = xasprintf("carried out for %d below %s and not for %d, as in: %s",
			t.done, bare, t.refused, t.first);
	else if (rc == 0)
		*said = xasprintf("carried out for %d below %s", t.done, bare);
	free(t.first);
	return rc;
}

/* "requests/cat.prompt", or the whole path as a shell knows it. */
static int find_path(struct engine *e, const char *path, struct node *n)
{
	const char *mount = e->config.mountpoint ? e->config.mountpoint : "";
	const size_t len = strlen(mount);

	if (len > 0 && strncmp(path, mount, len) == 0 && path[len] == '/')
		path += len;
	while (*path == '/')
		path++;
	return tree_resolve(e->cat, 0, path, n);
}

static int on_path(struct engine *e, const struct verb *v, const char *path, char **said)
{
	CLEANUP_FREE char *why = NULL;
	struct node n;

	int rc = find_path(e, path, &n);
	if (rc < 0)
		return fail(said, -EINVAL, "%s: no such file; write the path from the mount down, "
			"as in: %s requests/cat.prompt", path, v->name);
	if (S_ISDIR(n.st.st_mode))
		return on_folder_told(e, v, n.id, path, said);
	rc = v->on_prompt(e, &n, &why);
	return rc < 0 ? fail(said, rc, "%s: %s", path, why ? why : strerror(-rc)) : 0;
}

static int unknown_verb(const char *word, char **error)
{
	const char *names[ARRAY_SIZE(verbs) + 1];

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		names[i] = verbs[i].name;
	names[ARRAY_SIZE(verbs)] = NULL;

	const char *near = names_nearest(word, names);
	return fail(error, -EINVAL, "\"%s\" is no verb%s%s%s; reading control shows them", word,
		near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static int carry_out(struct engine *e, const struct verb *v, const char *path, char **said)
{
	if (v->on_all)
		return *path ? fail(said, -EINVAL, "%s takes no path", v->name) : v->on_all(e);
	if (!*path)
		return fail(said, -EINVAL, "%s what? as in: %s requests/cat.prompt", v->name,
			v->name);
	return on_path(e, v, path, said);
}

/* A power loss undoes no pause and no cancel that was told to be done. */
static int carry_out_durably(struct engine *e, const struct verb *v, const char *path, char **said)
{
	const int rc = carry_out(e, v, path, said);
	const int synced = rc == 0 ? catalogue_sync(e->cat) : 0;

	engine_kick(e);
	if (synced == 0)
		return rc;
	free(*said);
	*said = NULL;
	return fail(said, synced, "it is done, but may not survive a power loss: %s",
		strerror(-synced));
}

/* *said: why not, or how far; see engine_control. */
static int run_line(struct engine *e, char *verb, char **said)
{
	char *path = verb + strcspn(verb, " \t");

	if (*path)
		*path++ = '\0';
	path += strspn(path, " \t");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].name, verb) == 0)
			return carry_out_durably(e, &verbs[i], path, said);
	return unknown_verb(verb, said);
}

int engine_control(struct engine *e, const char *line)
{
	const char *end = line + strlen(line);
	char *said = NULL;

	line += strspn(line, " \t\r");
	while (end > line && strchr(" \t\r\n", end[-1]))
		end--;
	if (end == line)
		return 0;
	CLEANUP_FREE char *text = xstrndup(line, (size_t)(end - line));
	const int rc = run_line(e, text, &said);

	pthread_mutex_lock(&e->lock);
	free(e->control_said);
	e->control_said = rc < 0 ? xasprintf("not carried out: %s", said ? said : strerror(-rc))
				 : xstrdup_or_null(said);
	pthread_mutex_unlock(&e->lock);
	free(said);
	return rc;
}

/* ---- a prompt was removed, or saved with other content ---- */

/*
 * What is sent meanwhile goes on (-ESTALE). What cannot be written is withdrawn when its turn comes:
 * the queue looks for the file as well. One whose answer was lost and that a hub knows by its key goes
 * on: it may be paid, going on costs nothing more, and its pictures come to /generations.
 */
static void withdraw(struct engine *e, int64_t id, const char *why)
{
	struct request r;

	if (request_get(e->cat, id, &r) < 0)
		return;
	if ((r.state == REQUEST_QUEUED || r.state == REQUEST_HELD) && r.reason == OUTCOME_OK)
		life_move(e, &r, REQUEST_CANCELED, DB_FULL, NULL, "canceled: %s", why);
	request_release(&r);
}

void control_withdraw(struct engine *e, int64_t node, const char *why)
{
	int64_t ids[BATCH], after = 0;
	int n;

	while ((n = request_unsent_of_node(e->cat, node, after, ids, BATCH)) > 0)
		for (int i = 0; i < n; i++) {
			after = ids[i];
			withdraw(e, ids[i], why);
		}
}

void engine_removed(struct engine *e, int64_t node)
{
	control_withdraw(e, node, "the prompt was removed before it was sent");
}

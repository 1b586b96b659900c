/*
 * The commit rule (DESIGN.md, section 3): a file of /requests becomes a queued request.
 *
 * A file is looked at when its last writer has gone and the settle time has passed, when it got its
 * name by a rename, and at a start-up when a commit was owed. The rule is evaluated twice: once to
 * read, parse and snapshot (which may take long and holds no lock), and once inside the transaction
 * that inserts the request, where nothing may have changed meanwhile. A writer that opens the file
 * does so under the database's lock, so it comes before that transaction or after it.
 *
 * "The same content saved again" is meant of the name: many programs do not write into a file but
 * put another in its place (rsync, sed -i, tar, vim), which is a new node.
 */
#include "base/log.h"
#include "base/names.h"
#include "catalogue/file.h"
#include "catalogue/tree.h"
#include "engine/defaults.h"
#include "engine/internal.h"
#include "engine/life.h"
#include "engine/references.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>

enum { RECOVER_BATCH = 256 };

/* ---- reading a prompt with all that it draws in ---- */

/* A prompt as it stands in its file. */
struct reading {
	struct node node;
	char *name;
	bool is_prompt; /* by its name; nothing else is read */
	bool hidden;	/* in a folder whose files are not sent; what it owes, it owes on */
	int text_rc;	/* of reading the text: it may be too long */
	struct buf text;
	struct prompt prompt;
	int64_t references_folder; /* what its reference names are relative to */
};

static void reading_release(struct reading *r)
{
	free(r->name);
	buf_release(&r->text);
	prompt_release(&r->prompt);
}

/* The node's row and bytes. 1: nothing to parse (no prompt's name, in a hidden folder, blank). */
static int reading_load(struct engine *e, int64_t node, struct reading *r, char **error)
{
	int rc = tree_get(e->cat, node, &r->node);

	if (rc < 0)
		return rc;
	r->name = tree_name(e->cat, node);
	r->is_prompt = r->name && S_ISREG(r->node.st.st_mode) && names_is_prompt(r->name);
	if (!r->is_prompt)
		return 1;
	r->hidden = !tree_may_commit(e->cat, r->node.parent, r->name);
	if (r->hidden)
		return 1;
	buf_init(&r->text, PROMPT_FILE_MAX);
	r->text_rc = rc = file_content(e->cat, node, &r->text);
	if (rc == -EFBIG)
		return fail(error, -EINVAL, "%s: a prompt file may have at most 1 MiB", r->name);
	if (rc < 0)
		return fail(error, rc, "%s cannot be read: %s", r->name, strerror(-rc));
	return prompt_is_blank(r->text.data, r->text.len) ? 1 : 0;
}

static int reading_parse(struct engine *e, struct reading *r, char **error)
{
	const struct prompt_source file = {r->name, r->text.data, r->text.len};
	struct defaults *d = xcalloc(1, sizeof *d);

	int rc = defaults_read(e->cat, r->node.parent, d, error);
	if (rc == 0)
		rc = prompt_parse(&file, d->sources, d->count, &r->prompt, error);
	if (rc == 0) {
		const int level = r->prompt.reference_level;
		r->references_folder = level > 0 ? d->folders[level - 1] : r->node.parent;
	}
	defaults_release(d);
	free(d);
	return rc == -EFBIG ? -EINVAL : rc;
}

/* ---- the commit ---- */

static void note(struct engine *e, int64_t node, int err, const char *text)
{
	tree_draft_set(e->cat, node, err, text);
	engine_tell(e, CHANGE_REQUEST, node, 0, 0, 0);
}

/*
 * What was submitted last under this file: by it or, when it has submitted nothing yet, by the file
 * whose name it took. One that goes on as a prompt under another name has its request with it.
 */
static int last_submitted(struct engine *e, const struct reading *r, struct request *last)
{
	if (r->node.request)
		return request_get(e->cat, r->node.request, last);

	CLEANUP_FREE char *path = tree_path(e->cat, r->node.id);
	const int rc = path ? request_latest_at(e->cat, path, last) : -ENOENT;
	if (rc < 0)
		return rc;
	CLEANUP_FREE char *other = tree_name(e->cat, last->node);
	if (other && names_is_prompt(other)) {
		request_release(last);
		return -ENOENT;
	}
	return 0;
}

/* Whether this content was submitted last under this file. A request that was withdrawn before it was
 * sent was not; one that may have been paid, and that the user has let rest, was. */
static bool is_old_news(struct engine *e, const struct reading *r, const unsigned char *hash)
{
	struct request last;
	bool same;

	if (last_submitted(e, r, &last) < 0)
		return false;
	same = (last.state != REQUEST_CANCELED || request_may_be_charged(&last)) &&
		memcmp(last.hash, hash, sizeof last.hash) == 0;
	request_release(&last);
	return same;
}

/* By its bytes: times have the kernel's grain, in which a file may well be written twice. */
static bool same_text(struct engine *e, const struct reading *r)
{
	CLEANUP_FREE char *name = tree_name(e->cat, r->node.id);
	struct buf now;

	if (!r->is_prompt)
		return !name || !names_is_prompt(name);
	buf_init(&now, PROMPT_FILE_MAX);
	const bool same = file_content(e->cat, r->node.id, &now) == r->text_rc &&
		now.len == r->text.len &&
		(now.len == 0 || memcmp(now.data, r->text.data, now.len) == 0);
	buf_release(&now);
	return same;
}

/* Inside a transaction: whether nothing has happened to the file since it was read. */
static bool unchanged(struct engine *e, const struct reading *r, bool force)
{
	const struct node *then = &r->node;
	struct node now;

	return tree_get(e->cat, then->id, &now) == 0 && now.pending == then->pending &&
		(force || now.pending == PENDING_CLOSED) && now.parent == then->parent &&
		now.request == then->request && now.st.st_nlink > 0 &&
		!file_has_writer(e->cat, then->id) && same_text(e, r);
}

/* The request of that content is this file's, and nothing is owed. */
static int take_over(struct engine *e, const struct reading *r)
{
	struct request last;
	struct node before;
	int rc = last_submitted(e, r, &last);

	if (rc < 0)
		return -EAGAIN;
	/* Removed and written anew, not saved by an editor that keeps the old one as a backup. */
	const bool removed = tree_get(e->cat, last.node, &before) < 0;
	catalogue_begin(e->cat, DB_NORMAL);
	rc = unchanged(e, r, false) ? request_give(e->cat, last.id, r->node.id) : -EAGAIN;
	rc = catalogue_end(e->cat, rc);
	engine_tell(e, CHANGE_REQUEST, r->node.id, last.id, last.generation, 0);
	if (rc == 0 && removed)
		engine_tell(e, CHANGE_NAMES, r->node.id, 0, 0, 0);
	request_release(&last);
	return rc;
}

/* Nobody wants the unsent requests of what was saved before any more: they could not even be reached to
 * approve or to cancel them. */
static void withdraw_older(struct engine *e, const struct reading *r)
{
	struct request last;

	if (last_submitted(e, r, &last) < 0)
		return;
	control_withdraw(e, last.node, "other content was saved before it was sent");
	request_release(&last);
}

static int insert(struct engine *e, struct reading *r, struct request *q,
	const struct reference_set *refs, bool force)
{
	CLEANUP_FREE char *line = xasprintf("queued: %s", q->path);

	/* Before: after a crash in between, this text is still due. */
	if (!force)
		withdraw_older(e, r);
	catalogue_begin(e->cat, DB_NORMAL);
	int rc = unchanged(e, r, force) ? 0 : -EAGAIN;
	if (rc == 0)
		rc = request_insert(e->cat, q, refs->items, refs->count, line);
	rc = catalogue_end(e->cat, rc);
	/* It is queued even if that fails: nothing is sent before it is made up for. */
	if (rc == 0)
		engine_sync(e);
	return rc;
}

/* Snapshots the references and inserts the request. */
static int queue(struct engine *e, struct reading *r, const unsigned char *hash, bool force,
	char **error)
{
	struct reference_set refs = {0};
	struct request q = {
		.node = r->node.id,
		.path = tree_path(e->cat, r->node.id),
		.order = r->prompt.order,
		.state = REQUEST_QUEUED,
		.price_low = -1,
		.price_high = -1,
		.charged = -1,
		.balance_before = -1,
		.balance_after = -1,
	};
	unsigned char raw[16];
	int rc = q.path ? 0 : -EAGAIN;

	randombytes_buf(raw, sizeof raw);
	sodium_bin2hex(q.key, sizeof q.key, raw, sizeof raw);
	memcpy(q.hash, hash, sizeof q.hash);
	if (rc == 0)
		rc = references_snapshot(e, r->node.id, &r->prompt, r->node.parent,
			r->references_folder, q.key, &refs, error);
	if (rc == 0)
		rc = account_check(e, &r->prompt, refs.count, error);
	q.n_references = (int)refs.count;
	if (rc == 0)
		rc = insert(e, r, &q, &refs, force);
	if (rc < 0)
		request_refs_remove(e->cat, q.key);
	else
		engine_tell(e, CHANGE_REQUEST, q.node, q.id, 0, 0);
	references_release(&refs);
	free(q.path);
	return rc < 0 ? rc : 1;
}

/* Clears what was owed, where nothing has happened to the file since. */
static void settled(struct engine *e, const struct reading *r)
{
	catalogue_begin(e->cat, DB_NORMAL);
	int rc = unchanged(e, r, false) ? 0 : -EAGAIN;
	if (rc == 0)
		rc = tree_set_pending(e->cat, r->node.id, PENDING_NONE);
	catalogue_end(e->cat, rc);
	engine_tell(e, CHANGE_REQUEST, r->node.id, r->node.request, 0, 0);
}

static int commit_reading(struct engine *e, struct reading *r, bool force, char **error)
{
	unsigned char hash[REQUEST_HASH_SIZE];

	crypto_hash_sha256(hash, (const unsigned char *)r->text.data, r->text.len);
	if (!force && is_old_news(e, r, hash))
		return take_over(e, r);
	const int rc = reading_parse(e, r, error);
	return rc < 0 ? rc : queue(e, r, hash, force, error);
}

static int commit_loaded(struct engine *e, struct reading *r, bool force, char **error)
{
	if (file_has_writer(e->cat, r->node.id))
		return force ? fail(error, -EBUSY, "%s is still open for writing", r->name) : 0;
	if (!force && r->node.pending != PENDING_CLOSED)
		return 0;
	return commit_reading(e, r, force, error);
}

/* The text was at fault: a draft with a note. This machine was: the same, and tried again. When the
 * file changed meanwhile (-EAGAIN), that change will have it looked at again. */
static void not_committed(struct engine *e, int64_t node, const struct reading *r, int rc,
	const char *why)
{
	if (rc == -EAGAIN || rc == -ENOENT || rc == -ESTALE)
		return;
	if (rc == -EINVAL && why) {
		/* The note first: who looks in between must not find a file that owes nothing. */
		note(e, node, -rc, why);
		settled(e, r);
		return;
	}
	CLEANUP_FREE char *text = xasprintf("not queued yet: %s; it is tried again by itself",
		why ? why : strerror(-rc));
	note(e, node, -rc, text);
	settle_retry(e, node);
}

/* The close of its last writer, if that could not be noted when it happened. */
static int note_close(struct engine *e, int64_t node)
{
	struct file_closed closed;
	const int rc = file_settle(e->cat, node, &closed);

	if (closed.draft)
		engine_tell(e, CHANGE_REQUEST, node, 0, 0, 0);
	return rc;
}

/* Nothing to parse, and somebody asked for it. */
static int say_why_not(const struct reading *r, char **why)
{
	const char *name = r->name ? r->name : "it";

	if (r->hidden)
		return fail(why, -EINVAL,
			"%s is in a folder whose name begins with a dot: what is there is not sent",
			name);
	return fail(why, -EINVAL,
		names_is_prompt(name) ? "%s holds nothing to send"
				      : "%s is no prompt: its name has to end in .prompt",
		name);
}

int commit_node(struct engine *e, int64_t node, bool force, char **error)
{
	char *why = NULL;
	struct reading r = {0};

	int rc = note_close(e, node);
	if (rc == 0)
		rc = reading_load(e, node, &r, &why);
	if (rc == 0) {
		rc = commit_loaded(e, &r, force, &why);
	} else if (rc == 1 && force) {
		rc = say_why_not(&r, &why);
	} else if (rc == 1) {
		if (r.node.pending == PENDING_CLOSED && !r.hidden)
			settled(e, &r);
		rc = 0;
	}

	if (rc > 0)
		engine_kick(e);
	else if (rc < 0 && !force)
		not_committed(e, node, &r, rc, why);
	if (rc < 0 && error) {
		*error = why ? why : xstrdup(strerror(-rc));
		why = NULL;
	}
	free(why);
	reading_release(&r);
	return rc;
}

void engine_commit_now(struct engine *e, int64_t node)
{
	commit_node(e, node, false, NULL);
}

/* ---- FLUSH: what the writer must mend ---- */

int engine_validate(struct engine *e, int64_t node)
{
	CLEANUP_FREE char *why = NULL;
	struct reading r = {0};
	int err;

	int rc = reading_load(e, node, &r, &why);
	if (rc == 0)
		rc = reading_parse(e, &r, &why);
	if (rc == 0)
		rc = account_check(e, &r.prompt, r.prompt.n_references, &why);
	reading_release(&r);
	if (rc == -EINVAL && why) {
		note(e, node, -rc, why);
		return rc;
	}
	/* What went wrong here is none of the writer's: the text is durable, and the commit sees to it. */
	if (rc == 0 && tree_draft_get(e->cat, node, &err, NULL, NULL) == 0)
		note(e, node, 0, NULL);
	return 0;
}

/* ---- start-up ---- */

/* A file that was flushed and perhaps still open when the mount ended is a draft: its writer may
 * have had more to say (`(a; b) > f` flushes between the two), and half a prompt is not worth paying
 * for. What was submitted already under its name is not paid again: it goes the way of any commit. */
static void leave_draft(struct engine *e, const struct reading *r, bool has_text)
{
	unsigned char hash[REQUEST_HASH_SIZE];
	struct node now;

	crypto_hash_sha256(hash, (const unsigned char *)r->text.data, r->text.len);
	catalogue_begin(e->cat, DB_NORMAL);
	/* Whoever writes to it since the start will see to it. */
	int rc = tree_get(e->cat, r->node.id, &now);
	if (rc == 0 && (now.pending != PENDING_WRITTEN || file_is_changing(e->cat, now.id)))
		rc = -EAGAIN;
	const bool old = rc == 0 && has_text && is_old_news(e, r, hash);
	if (rc == 0 && has_text && !old)
		rc = tree_draft_set(e->cat, now.id, ECANCELED,
			"the mount ended while this file was being written; what had reached it "
			"is here");
	if (rc == 0)
		rc = tree_set_pending(e->cat, now.id, old ? PENDING_CLOSED : PENDING_NONE);
	rc = catalogue_end(e->cat, rc);
	if (rc == 0 && old)
		commit_node(e, now.id, false, NULL);
	else if (rc == 0)
		engine_tell(e, CHANGE_REQUEST, now.id, 0, 0, 0);
}

static void recover_one(struct engine *e, int64_t node)
{
	struct reading r = {0};
	const int rc = reading_load(e, node, &r, NULL);

	if (rc == -ENOENT || rc == -EIO)
		log_warning("file %lld cannot be looked at: %s", (long long)node, strerror(-rc));
	else if (r.node.pending == PENDING_CLOSED)
		commit_node(e, node, false, NULL);
	else
		leave_draft(e, &r, rc <= 0);
	reading_release(&r);
}

void commit_recover(struct engine *e)
{
	int64_t ids[RECOVER_BATCH], after = 0;
	int n;

	while ((n = tree_pending(e->cat, after, ids, RECOVER_BATCH)) > 0) {
		for (int i = 0; i < n; i++)
			recover_one(e, ids[i]);
		after = ids[n - 1];
	}
}

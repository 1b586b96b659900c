#include "catalogue/request.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/names.h"
#include "catalogue/generation.h"
#include "catalogue/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *const state_names[REQUEST_STATES] = {
	[REQUEST_QUEUED] = "queued",
	[REQUEST_HELD] = "held",
	[REQUEST_SENDING] = "sending",
	[REQUEST_RUNNING] = "running",
	[REQUEST_SUCCEEDED] = "succeeded",
	[REQUEST_FAILED] = "failed",
	[REQUEST_REFUSED] = "refused",
	[REQUEST_UNKNOWN] = "unknown",
	[REQUEST_CANCELED] = "canceled",
};
static const char *const hold_names[] = {
	[HOLD_NONE] = "",
	[HOLD_BUDGET] = "budget",
	[HOLD_BALANCE] = "balance",
	[HOLD_PRICE] = "price",
	[HOLD_CREDITS] = "credits",
	[HOLD_PAUSED] = "paused",
};

static int index_of(const char *name, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

void request_release(struct request *r)
{
	free(r->path);
	free(r->text);
	order_release(&r->order);
	*r = (struct request){0};
}

void request_references_free(struct request_reference *refs, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(refs[i].file);
		free(refs[i].name);
		free(refs[i].mime);
	}
	free(refs);
}

/* ---- reading ---- */

#define COLUMNS                                                                                    \
	"id, node, path, hash, wanted, n_references, key, retries, state, hold, approved, reason," \
	" text, generation, price_low, price_high, charged, balance_before, balance_after,"        \
	" attempts, not_before, created, sent, changed"

/* A row that this program did not write so is not passed on. */
static int read_row(struct db_rows *r, struct request *out)
{
	size_t hash_len;
	const void *hash = db_blob(r, 3, &hash_len);
	const char *wanted = db_text(r, 4);
	const int state = index_of(db_text(r, 8), state_names, REQUEST_STATES);
	const int hold = index_of(db_text(r, 9), hold_names, ARRAY_SIZE(hold_names));

	*out = (struct request){0};
	if (state < 0 || hold < 0 || hash_len != sizeof out->hash ||
		order_decode(wanted, strlen(wanted), &out->order, NULL) < 0)
		return -EIO;
	out->id = db_int(r, 0);
	out->node = db_int(r, 1);
	out->path = db_text_dup(r, 2);
	memcpy(out->hash, hash, sizeof out->hash);
	out->n_references = (int)db_int(r, 5);
	snprintf(out->key, sizeof out->key, "%s", db_text(r, 6));
	out->retries = (int)db_int(r, 7);
	out->state = (enum request_state)state;
	out->hold = (enum hold)hold;
	out->approved = db_int(r, 10) != 0;
	out->reason = outcome_from_name(db_text(r, 11));
	out->text = db_text_dup(r, 12);
	out->generation = db_int(r, 13);
	out->price_low = db_int(r, 14);
	out->price_high = db_int(r, 15);
	out->charged = db_int(r, 16);
	out->balance_before = db_int(r, 17);
	out->balance_after = db_int(r, 18);
	out->attempts = (int)db_int(r, 19);
	out->not_before_ms = db_int(r, 20);
	out->created_ms = db_int(r, 21);
	out->sent_ms = db_int(r, 22);
	out->changed_ms = db_int(r, 23);
	return 0;
}

static int read_one(struct catalogue *cat, struct db_rows *r, struct request *out)
{
	int found = db_next(r) ? read_row(r, out) : -ENOENT;
	const int rc = db_done(r);

	db_unlock(cat->db);
	return rc < 0 ? rc : found;
}

int request_get(struct catalogue *cat, int64_t id, struct request *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db, "SELECT " COLUMNS " FROM request WHERE id = ?", "i", id), out);
}

int request_brief(struct catalogue *cat, int64_t id, struct request_brief *out)
{
	int state = -1;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT state, generation, changed FROM request WHERE id = ?", "i", id);
	const bool found = db_next(r);
	if (found) {
		state = index_of(db_text(r, 0), state_names, REQUEST_STATES);
		*out = (struct request_brief){
			(enum request_state)state, db_int(r, 1), db_int(r, 2)};
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : !found ? -ENOENT : state < 0 ? -EIO : 0;
}

int request_of_generation(struct catalogue *cat, int64_t generation, struct request *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db,
			"SELECT " COLUMNS " FROM request WHERE generation = ? AND generation <> 0",
			"i", generation),
		out);
}

int request_latest_at(struct catalogue *cat, const char *path, struct request *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db,
			"SELECT " COLUMNS " FROM request WHERE path = ?"
			" ORDER BY turn DESC, id DESC LIMIT 1", "s", path),
		out);
}

int request_references(struct catalogue *cat, int64_t id, struct request_reference **refs,
	size_t *count)
{
	*refs = NULL;
	*count = 0;
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT file, name, mime, size FROM reference WHERE request = ? ORDER BY number", "i",
		id);
	while (db_next(r)) {
		*refs = xrealloc(*refs, (*count + 1) * sizeof **refs);
		(*refs)[(*count)++] = (struct request_reference){db_text_dup(r, 0),
			db_text_dup(r, 1), db_text_dup(r, 2), db_int(r, 3)};
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc;
}

static int collect_ids(struct db_rows *r, int64_t *ids, int max)
{
	int n = 0;

	while (n < max && db_next(r))
		ids[n++] = db_int(r, 0);
	const int rc = db_done(r);
	return rc < 0 ? rc : n;
}

/* Retry-After is capped at an hour (net.h): who would wait for longer waits for a clock that was set back. */
#define IS_DUE "(not_before <= ?3 OR not_before - ?3 > 3600000)"

/* The partial index serves only a query that implies its condition literally; without it a queue of
 * three looks through a million that are done. */
int request_list(struct catalogue *cat, enum request_state state, int64_t now_ms, int64_t after,
	int64_t *ids, int max)
{
	db_lock(cat->db);
	const int n = collect_ids(
		db_query(cat->db,
			"SELECT id FROM request WHERE state = ?"
			" AND state IN ('queued', 'held', 'sending', 'running', 'unknown')"
			" AND id > ? AND " IS_DUE " ORDER BY id LIMIT ?",
			"siii", state_names[state], after, now_ms, (int64_t)max),
		ids, max);
	db_unlock(cat->db);
	return n;
}

int request_held(struct catalogue *cat, enum hold hold, int64_t low_most, int64_t high_most,
	int64_t after, int64_t *ids, int max)
{
	db_lock(cat->db);
	const int n = collect_ids(
		db_query(cat->db,
			"SELECT id FROM request WHERE state = 'held'"
			" AND state IN ('queued', 'held', 'sending', 'running', 'unknown')"
			" AND id > ? AND hold = ? AND price_low <= ? AND price_high <= ?"
			" ORDER BY id LIMIT ?",
			"isiii", after, hold_names[hold], low_most, high_most, (int64_t)max),
		ids, max);
	db_unlock(cat->db);
	return n;
}

int request_unsent_of_node(struct catalogue *cat, int64_t node, int64_t after, int64_t *ids, int max)
{
	db_lock(cat->db);
	const int n = collect_ids(
		db_query(cat->db,
			"SELECT id FROM request WHERE node = ? AND state IN ('queued', 'held')"
			" AND id > ? ORDER BY id LIMIT ?",
			"iii", node, after, (int64_t)max),
		ids, max);
	db_unlock(cat->db);
	return n;
}

int request_running_of_generation(struct catalogue *cat, int64_t generation, int64_t after,
	int64_t *ids, int max)
{
	db_lock(cat->db);
	const int n = collect_ids(
		db_query(cat->db,
			"SELECT id FROM request WHERE generation = ? AND generation <> 0"
			" AND state = 'running' AND id > ? ORDER BY id LIMIT ?",
			"iii", generation, after, (int64_t)max),
		ids, max);
	db_unlock(cat->db);
	return n;
}

int64_t request_next_due(struct catalogue *cat)
{
	int64_t due = 0;

	db_lock(cat->db);
	db_get_int(cat->db, &due,
		"SELECT min(not_before) FROM request WHERE state = 'queued'"
		" AND state IN ('queued', 'held', 'sending', 'running', 'unknown')"
		" AND not_before > 0", "");
	db_unlock(cat->db);
	return due;
}

int request_counts(struct catalogue *cat, int64_t counts[REQUEST_STATES])
{
	memset(counts, 0, sizeof(int64_t) * REQUEST_STATES);
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db, "SELECT state, n FROM request_count", "");
	while (db_next(r)) {
		const int state = index_of(db_text(r, 0), state_names, REQUEST_STATES);

		if (state >= 0)
			counts[state] = db_int(r, 1);
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc;
}

/* ---- writing ---- */

static int insert_row(struct catalogue *cat, struct request *r)
{
	CLEANUP_FREE char *wanted = order_encode(&r->order);

	r->created_ms = r->changed_ms = clock_wall_ms();
	const int rc = db_run(cat->db,
		"INSERT INTO request(node, path, hash, wanted, n_references, key, retries, state,"
		" hold, approved, reason, text, generation, price_low, price_high, charged,"
		" balance_before, balance_after, attempts, not_before, created, sent, changed, turn)"
		" VALUES(?,?2,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
		" (SELECT coalesce(max(turn), 0) FROM request WHERE path = ?2))",
		"isbsisississiiiiiiiiiii", r->node, r->path, (const void *)r->hash,
		sizeof r->hash, wanted, (int64_t)r->n_references, r->key, (int64_t)r->retries,
		state_names[r->state], hold_names[r->hold], (int64_t)r->approved,
		outcome_name(r->reason), r->text, r->generation, r->price_low, r->price_high,
		r->charged, r->balance_before, r->balance_after, (int64_t)r->attempts,
		r->not_before_ms, r->created_ms, r->sent_ms, r->changed_ms);
	r->id = rc < 0 ? 0 : db_last_id(cat->db);
	return rc < 0 ? rc : 0;
}

static int insert_references(struct catalogue *cat, int64_t request,
	const struct request_reference *refs, size_t n)
{
	int rc = 0;

	for (size_t i = 0; rc >= 0 && i < n; i++)
		rc = db_run(cat->db, "INSERT INTO reference VALUES(?, ?, ?, ?, ?, ?)", "iisssi",
			request, (int64_t)i + 1, refs[i].file, refs[i].name, refs[i].mime,
			refs[i].size);
	return rc < 0 ? rc : 0;
}

int request_insert(struct catalogue *cat, struct request *r, const struct request_reference *refs,
	size_t n_refs, const char *log_line)
{
	catalogue_begin(cat, DB_NORMAL);
	int rc = insert_row(cat, r);
	if (rc == 0)
		rc = insert_references(cat, r->id, refs, n_refs);
	if (rc == 0)
		rc = db_run(cat->db,
			"UPDATE node SET request = ?, pending = 0, hidden = 0, draft_errno = NULL,"
			" draft_text = NULL, draft_ms = NULL WHERE id = ?",
			"ii", r->id, r->node);
	if (rc >= 0 && log_line)
		rc = log_add(cat, r->id, 0, log_line);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

int request_give(struct catalogue *cat, int64_t id, int64_t node)
{
	catalogue_begin(cat, DB_NORMAL);
	int rc = db_run(cat->db,
		"UPDATE node SET hidden = 0 WHERE id = ? AND request <> ?", "ii", node, id);
	if (rc >= 0)
		rc = db_run(cat->db,
			"UPDATE node SET request = ?, pending = 0, draft_errno = NULL,"
			" draft_text = NULL, draft_ms = NULL WHERE id = ?",
			"ii", id, node);
	if (rc >= 0)
		rc = db_run(cat->db, "UPDATE request SET node = ? WHERE id = ? AND node <> ?",
			"iii", node, id, node);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

int request_leaves(struct catalogue *cat, const struct node *n)
{
	if (n->request == 0)
		return 0;
	CLEANUP_FREE char *path = tree_path(cat, n->id);
	const char *slash = path ? strrchr(path, '/') : NULL;
	if (!slash || !names_is_prompt(slash + 1))
		return 0;
	const int rc = db_run(cat->db,
		"UPDATE request SET path = ?1,"
		" turn = (SELECT coalesce(max(turn), 0) + 1 FROM request WHERE path = ?1)"
		" WHERE id = ?2 AND node = ?3",
		"sii", path, n->request, n->id);
	return rc < 0 ? rc : 0;
}

static int update_row(struct catalogue *cat, struct request *r, enum request_state from)
{
	CLEANUP_FREE char *wanted = order_encode(&r->order);

	r->changed_ms = clock_wall_ms();
	const int rc = db_run(cat->db,
		"UPDATE request SET wanted = ?, retries = ?, state = ?, hold = ?, approved = ?,"
		" reason = ?, text = ?, generation = ?, price_low = ?, price_high = ?, charged = ?,"
		" balance_before = ?, balance_after = ?, attempts = ?, not_before = ?, sent = ?,"
		" changed = ? WHERE id = ? AND state = ?",
		"sississiiiiiiiiiiis", wanted, (int64_t)r->retries, state_names[r->state],
		hold_names[r->hold], (int64_t)r->approved, outcome_name(r->reason), r->text,
		r->generation, r->price_low, r->price_high, r->charged, r->balance_before,
		r->balance_after, (int64_t)r->attempts, r->not_before_ms, r->sent_ms,
		r->changed_ms, r->id, state_names[from]);
	return rc < 0 ? rc : rc == 0 ? -ESTALE : 0;
}

int request_change(struct catalogue *cat, struct request *r, enum request_state from,
	enum db_durability durability, const char *log_line)
{
	catalogue_begin(cat, durability);
	int rc = update_row(cat, r, from);
	if (rc == 0 && log_line)
		rc = log_add(cat, r->id, r->generation, log_line);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

/* ---- refs/ ---- */

int request_refs_create(struct catalogue *cat, const char *key)
{
	if (mkdirat(cat->refs, key, 0700) < 0 && errno != EEXIST)
		return -errno;
	const int rc = files_sync_dir(cat->refs);
	if (rc < 0)
		return rc;
	const int fd = openat(cat->refs, key, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

char *request_refs_path(struct catalogue *cat, const char *key, const char *file)
{
	/* By way of the descriptor, so that a state directory that was moved still works. */
	return xasprintf("/proc/self/fd/%d/%s/%s", cat->refs, key, file);
}

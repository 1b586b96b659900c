#include "catalogue/generation.h"
#include "base/clock.h"
#include "catalogue/internal.h"
#include <errno.h>

enum { LOG_MAX = 4 * 1024 * 1024 };

void generation_release(struct generation *g)
{
	free(g->hub_id);
	free(g->status);
	free(g->model);
	free(g->prompt);
	free(g->poll_url);
	free(g->request_json);
	free(g->response_json);
	free(g->error);
	*g = (struct generation){0};
}

/* ---- generations ---- */

#define COLUMNS                                                                                    \
	"id, hub_id, request, status, phase, model, prompt, poll_url, credits, request_json,"      \
	" response_json, error, created, changed, hidden"

static int read_one(struct catalogue *cat, struct db_rows *r, struct generation *out)
{
	const bool found = db_next(r);

	if (found)
		*out = (struct generation){
			.id = db_int(r, 0),
			.hub_id = db_text_dup(r, 1),
			.request = db_int(r, 2),
			.status = db_text_dup(r, 3),
			.phase = (enum phase)db_int(r, 4),
			.model = db_text_dup(r, 5),
			.prompt = db_text_dup(r, 6),
			.poll_url = db_text_dup(r, 7),
			.credits = db_int(r, 8),
			.request_json = db_text_dup(r, 9),
			.response_json = db_text_dup(r, 10),
			.error = db_text_dup(r, 11),
			.created_ms = db_int(r, 12),
			.changed_ms = db_int(r, 13),
			.hidden = (unsigned)db_int(r, 14),
		};
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

int generation_get(struct catalogue *cat, int64_t id, struct generation *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db,
			"SELECT " COLUMNS " FROM generation WHERE id = ? AND removed = 0", "i", id),
		out);
}

int generation_find(struct catalogue *cat, const char *hub_id, struct generation *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db, "SELECT " COLUMNS " FROM generation WHERE hub_id = ?", "s", hub_id),
		out);
}

/* ---- what folders show ---- */

#define ENTRY_COLUMNS "id, hub_id, created, changed, phase"

static void read_entry(struct db_rows *r, struct generation_entry *out)
{
	const char *hub_id = db_text(r, 1);
	const size_t len = strnlen(hub_id, sizeof out->hub_id - 1);

	out->id = db_int(r, 0);
	memcpy(out->hub_id, hub_id, len);
	out->hub_id[len] = '\0';
	out->created_ms = db_int(r, 2);
	out->changed_ms = db_int(r, 3);
	out->phase = (enum phase)db_int(r, 4);
}

int generation_entry_get(struct catalogue *cat, int64_t id, struct generation_entry *out)
{
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT " ENTRY_COLUMNS " FROM generation INDEXED BY generation_entry"
		" WHERE id = ? AND removed = 0", "i", id);
	const bool found = db_next(r);
	if (found)
		read_entry(r, out);
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

int generation_entry_find(struct catalogue *cat, const char *hub_id, struct generation_entry *out)
{
	int64_t id = 0;

	db_lock(cat->db);
	int rc = db_get_int(cat->db, &id, "SELECT id FROM generation WHERE hub_id = ?", "s", hub_id);
	if (rc > 0) {
		rc = generation_entry_get(cat, id, out);
		rc = rc == -ENOENT ? -ESTALE : rc;
	} else if (rc == 0) {
		rc = -ENOENT;
	}
	db_unlock(cat->db);
	return rc;
}

int generation_list(struct catalogue *cat, int64_t after, generation_list_fn *fn, void *arg)
{
	struct generation_entry entry;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT " ENTRY_COLUMNS " FROM generation INDEXED BY generation_entry"
		" WHERE id > ? AND removed = 0 ORDER BY id", "i", after);
	while (db_next(r)) {
		read_entry(r, &entry);
		if (!fn(arg, &entry))
			break;
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc;
}

int generation_outline(struct catalogue *cat, int64_t id, struct generation_outline *out)
{
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT request, phase, hidden, prompt <> '', request_json <> '', response_json <> '',"
		" created, changed FROM generation WHERE id = ? AND removed = 0", "i", id);
	const bool found = db_next(r);
	if (found)
		*out = (struct generation_outline){
			.id = id,
			.request = db_int(r, 0),
			.phase = (enum phase)db_int(r, 1),
			.hidden = (unsigned)db_int(r, 2),
			.has_prompt = db_int(r, 3) != 0,
			.has_request = db_int(r, 4) != 0,
			.has_response = db_int(r, 5) != 0,
			.created_ms = db_int(r, 6),
			.changed_ms = db_int(r, 7),
		};
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

/* ---- writing ---- */

int generation_insert(struct catalogue *cat, struct generation *g)
{
	g->created_ms = g->changed_ms = clock_wall_ms();
	db_lock(cat->db);
	int rc = db_run(cat->db,
		"INSERT INTO generation(hub_id, request, status, phase, model, prompt, poll_url,"
		" credits, request_json, response_json, error, created, changed)"
		" VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
		"sisisssisssii", g->hub_id, g->request, g->status, (int64_t)g->phase, g->model,
		g->prompt, g->poll_url, g->credits, g->request_json, g->response_json, g->error,
		g->created_ms, g->changed_ms);
	if (rc >= 0)
		g->id = db_last_id(cat->db);
	else if (rc == -EEXIST)
		db_get_int(cat->db, &g->id, "SELECT id FROM generation WHERE hub_id = ?", "s",
			g->hub_id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int generation_update(struct catalogue *cat, struct generation *g)
{
	g->changed_ms = clock_wall_ms();
	db_lock(cat->db);
	const int rc = db_run(cat->db,
		"UPDATE generation SET status = ?, phase = ?, model = ?, prompt = ?, poll_url = ?,"
		" credits = ?, request_json = ?, response_json = ?, error = ?, changed = ?"
		" WHERE id = ?",
		"sisssisssii", g->status, (int64_t)g->phase, g->model, g->prompt, g->poll_url,
		g->credits, g->request_json, g->response_json, g->error, g->changed_ms, g->id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int generation_answered(struct catalogue *cat, int64_t id, const char *response_json)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE generation SET response_json = ? WHERE id = ?", "si",
		response_json, id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

static int set_removed(struct catalogue *cat, int64_t id, bool removed)
{
	catalogue_begin(cat, DB_NORMAL);
	int rc = db_run(cat->db, "UPDATE generation SET removed = ? WHERE id = ?", "ii",
		(int64_t)removed, id);
	if (rc >= 0)
		rc = db_run(cat->db, "UPDATE image SET removed = ? WHERE generation = ?", "ii",
			(int64_t)removed, id);
	return catalogue_end(cat, rc < 0 ? rc : 0);
}

int generation_forget(struct catalogue *cat, int64_t id)
{
	return set_removed(cat, id, true);
}

int generation_recall(struct catalogue *cat, int64_t id)
{
	return set_removed(cat, id, false);
}

int generation_hide(struct catalogue *cat, int64_t id, unsigned bit)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE generation SET hidden = hidden | ? WHERE id = ?",
		"ii", (int64_t)1 << bit, id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

/* ---- the log ---- */

int log_add(struct catalogue *cat, int64_t request, int64_t generation, const char *text)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db,
		"INSERT INTO log(request, generation, at, text) VALUES(?, ?, ?, ?)", "iiis", request,
		generation, clock_wall_ms(), text);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

/* Somebody else's words may hold line breaks; a log line has none. */
static void add_line(struct buf *b, int64_t at, const char *text)
{
	char time[CLOCK_TEXT_SIZE];

	buf_printf(b, "%s ", clock_format_iso(at, time));
	for (; *text; text++)
		buf_addch(b, (unsigned char)*text < ' ' ? ' ' : *text);
	buf_addch(b, '\n');
}

char *log_text(struct catalogue *cat, int64_t request, int64_t generation)
{
	struct buf b;

	buf_init(&b, LOG_MAX);
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT id, at, text FROM log WHERE request = ? AND request <> 0"
		" UNION SELECT id, at, text FROM log WHERE generation = ? AND generation <> 0"
		" ORDER BY id",
		"ii", request, generation);
	while (db_next(r))
		add_line(&b, db_int(r, 1), db_text(r, 2));
	db_done(r);
	db_unlock(cat->db);
	return buf_take(&b);
}

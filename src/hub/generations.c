#include "base/clock.h"
#include "hub/store.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>

void hub_generation_release(struct hub_generation *g)
{
	free(g->status);
	free(g->error_message);
	free(g->error_code);
	for (int i = 0; i < g->n_images; i++)
		free(g->images[i].ext);
	order_release(&g->order);
	*g = (struct hub_generation){0};
}

/* ---- into the queue ---- */

void generation_id_make(char id[HUB_ID_SIZE])
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	char prefix[] = "gen_.........";
	int64_t now = clock_wall_ms();

	for (size_t i = sizeof prefix - 1; prefix[i - 1] == '.'; i--, now /= 36)
		prefix[i - 1] = digits[now % 36];
	hub_id_make(id, prefix, 15);
}

/* The first answer to this key stands. 1: it is there. */
static int find_first(struct db *db, struct hub_order *o)
{
	size_t len;
	int rc = 0;

	if (!o->idempotency_key)
		return 0;
	struct db_rows *r = db_query(db,
		"SELECT id, body_hash, created FROM generation"
		" WHERE account = ? AND idempotency = ? AND idempotency IS NOT NULL",
		"is", o->account, o->idempotency_key);
	if (db_next(r)) {
		const void *hash = db_blob(r, 1, &len);

		rc = len == HASH_SIZE && memcmp(hash, o->body_hash, len) == 0 ? 1 : -EALREADY;
		if (rc == 1) {
			snprintf(o->id, sizeof o->id, "%s", db_text(r, 0));
			o->created_ms = db_int(r, 2);
			o->replayed = true;
		}
	}
	const int done = db_done(r);
	return done < 0 ? done : rc;
}

int order_insert(struct db *db, struct hub_order *o)
{
	int64_t balance = 0;
	int rc = find_first(db, o);

	if (rc != 0)
		return rc < 0 ? rc : 0;
	rc = ledger_expire(db, o->account, clock_wall_ms());
	if (rc == 0)
		rc = db_get_int(db, &balance, "SELECT balance FROM account WHERE id = ?", "i",
			o->account);
	if (rc >= 0 && balance < o->price)
		return -EDQUOT;
	o->created_ms = clock_wall_ms();
	if (rc >= 0)
		rc = db_run(db,
			"INSERT INTO generation(id, account, status, wanted, model, size, n, requested,"
			" n_references, idempotency, body_hash, created)"
			" VALUES(?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			"sisssiiisbi", o->id, o->account, o->wanted, o->order->model,
			o->order->size, (int64_t)order_images(o->order), o->price,
			(int64_t)o->n_references, o->idempotency_key, (const void *)o->body_hash,
			sizeof o->body_hash, o->created_ms);
	return rc < 0 ? rc : 0;
}

/* ---- reading ---- */

static void add_image(struct hub_generation *g, struct db_rows *r)
{
	struct hub_image *i = &g->images[g->n_images++];

	snprintf(i->id, sizeof i->id, "%s", db_text(r, 10));
	i->ext = db_text_dup(r, 11);
	i->created_ms = db_int(r, 12);
}

/* Decoding takes as long as the prompt is: only who works on it needs all of the order. */
static int fill_order(struct order *o, struct db_rows *r)
{
	const char *wanted = db_text(r, 3);

	if (wanted)
		return order_decode(wanted, strlen(wanted), o, NULL) < 0 ? -EIO : 0;
	o->model = db_text_dup(r, 13);
	o->size = db_text_dup(r, 14);
	o->n = (int)db_int(r, 15);
	return 0;
}

static int fill(struct hub_generation *g, struct db_rows *r)
{
	snprintf(g->id, sizeof g->id, "%s", db_text(r, 0));
	g->account = db_int(r, 1);
	g->status = db_text_dup(r, 2);
	g->credits_requested = db_int(r, 4);
	g->credits = db_int(r, 5);
	g->n_references = (int)db_int(r, 6);
	g->error_message = db_text_dup(r, 7);
	g->error_code = db_text_dup(r, 8);
	g->created_ms = db_int(r, 9);
	return fill_order(&g->order, r);
}

/* One statement, so that a poll costs one look at the WAL: a row an image, or one without. */
static int load(struct db *db, const char *id, int64_t account, bool to_work,
	struct hub_generation *out)
{
	int rc = -ENOENT;

	*out = (struct hub_generation){0};
	struct db_rows *r = db_query(db,
		"SELECT g.id, g.account, g.status, CASE WHEN ? THEN g.wanted END, g.requested,"
		" g.credits, g.n_references, g.error_message, g.error_code, g.created,"
		" i.id, i.ext, i.created, g.model, g.size, g.n"
		" FROM generation g LEFT JOIN image i ON i.generation = g.id"
		" WHERE g.id = ? ORDER BY i.number",
		"is", (int64_t)to_work, id);
	while (out->n_images < WIRE_IMAGES_MAX && db_next(r)) {
		if (rc == -ENOENT && (account == 0 || db_int(r, 1) == account))
			rc = fill(out, r);
		if (rc < 0 || db_is_null(r, 10))
			break;
		add_image(out, r);
	}
	const int done = db_done(r);
	if (rc < 0 || done < 0)
		hub_generation_release(out);
	return done < 0 ? done : rc;
}

static int read_one(struct store *s, const char *id, int64_t account, bool to_work,
	struct hub_generation *out)
{
	struct db *db = store_read(s);
	const int rc = load(db, id, account, to_work, out);

	store_read_end(s, db);
	return rc;
}

int generation_load(struct store *s, const char *id, int64_t account, struct hub_generation *out)
{
	return read_one(s, id, account, false, out);
}

int generation_load_to_work(struct store *s, const char *id, struct hub_generation *out)
{
	return read_one(s, id, 0, true, out);
}

int image_exists(struct store *s, const char *id)
{
	struct db *db = store_read(s);
	int64_t found;

	const int rc = db_get_int(db, &found, "SELECT 1 FROM image WHERE id = ?", "s", id);
	store_read_end(s, db);
	return rc < 0 ? rc : rc ? 0 : -ENOENT;
}

static int gcd(int a, int b)
{
	return b ? gcd(b, a % b) : a;
}

static char *aspect_ratio(const char *size)
{
	int w, h;

	if (!order_pixels(size, &w, &h))
		return xstrdup("1:1");
	const int d = gcd(w, h);
	return xasprintf("%d:%d", w / d, h / d);
}

static void fill_images(struct wire_generation *w, struct wire_image *images,
	const struct hub_generation *g, const char *url_base)
{
	for (int i = 0; i < g->n_images; i++)
		images[i] = (struct wire_image){
			.id = (char *)g->images[i].id,
			.url = xasprintf("%s/images/%s.%s", url_base, g->images[i].id,
				g->images[i].ext),
			.created_ms = g->images[i].created_ms,
		};
	w->images = images;
	w->n_images = (size_t)g->n_images;
}

char *generation_json(const struct hub_generation *g, const char *url_base, bool with_poll_url,
	const struct hub_account *balance)
{
	struct wire_image images[WIRE_IMAGES_MAX];
	char expires[CLOCK_TEXT_SIZE];
	CLEANUP_FREE char *ratio = aspect_ratio(g->order.size);
	CLEANUP_FREE char *poll_url =
		with_poll_url ? xasprintf("%s/api/v1/generations/%s", url_base, g->id) : NULL;
	struct wire_generation w = {
		.id = (char *)g->id,
		.status = g->status,
		.model = g->order.model,
		.aspect_ratio = ratio,
		.quality = (char *)wire_tier(g->order.size),
		/* The documented 200 has neither of these two. */
		.created_ms = balance ? 0 : g->created_ms,
		.credits_requested = balance ? -1 : g->credits_requested,
		.credits = g->credits,
		.poll_url = poll_url,
		.error_message = g->error_message,
		.error_code = g->error_code,
		.balance.credits = -1,
	};

	if (balance) {
		w.balance.credits = balance->balance;
		w.balance.account_type = balance->type;
		w.balance.next_expiration = balance->next_expiration_ms
			? clock_format_iso(balance->next_expiration_ms, expires)
			: NULL;
	}
	fill_images(&w, images, g, url_base);
	char *json = wire_generation_encode(&w);
	for (int i = 0; i < g->n_images; i++)
		free(images[i].url);
	return json;
}

/* ---- working on them ---- */

struct taking {
	char *id;
	int found;
};

static int fail_row(struct db *db, const char *id, const char *message, const char *code)
{
	const int rc = db_run(db,
		"UPDATE generation SET status = 'failed', error_message = ?, error_code = ?,"
		" finished = ? WHERE id = ?",
		"ssis", message, code, clock_wall_ms(), id);

	return rc < 0 ? rc : 0;
}

/* A charge that was made before the hub was killed is not made again. */
static int charge_once(struct db *db, const char *id, int64_t account, int64_t credits,
	int64_t charged)
{
	int rc;

	if (charged > 0)
		return 0;
	rc = ledger_charge(db, account, credits, id);
	if (rc == 0)
		rc = db_run(db, "UPDATE generation SET credits = ? WHERE id = ?", "is", credits, id);
	return rc < 0 ? rc : 0;
}

static int take_job(struct db *db, void *arg)
{
	struct taking *t = arg;

	for (;;) {
		int64_t account = 0, requested = 0, charged = 0;
		struct db_rows *r = db_query(db,
			"SELECT id, account, requested, credits FROM generation"
			" WHERE status = 'queued' AND status IN ('queued', 'processing')"
			" ORDER BY seq LIMIT 1",
			"");

		t->found = db_next(r);
		if (t->found) {
			snprintf(t->id, HUB_ID_SIZE, "%s", db_text(r, 0));
			account = db_int(r, 1);
			requested = db_int(r, 2);
			charged = db_int(r, 3);
		}
		int rc = db_done(r);
		if (rc < 0 || !t->found)
			return rc;
		rc = charge_once(db, t->id, account, requested, charged);
		if (rc == -EDQUOT) {
			rc = fail_row(db, t->id, "Not enough credits", "insufficientCredits");
			if (rc < 0)
				return rc;
			continue;
		}
		if (rc == 0)
			rc = db_run(db, "UPDATE generation SET status = 'processing' WHERE id = ?",
				"s", t->id);
		return rc < 0 ? rc : 0;
	}
}

int generation_take(struct store *s, char id[HUB_ID_SIZE])
{
	struct taking t = {.id = id};
	const int rc = store_run(s, take_job, &t);

	return rc < 0 ? rc : t.found;
}

static int insert_images(struct db *db, const struct hub_result *result)
{
	int rc = 0;

	for (int i = 0; rc >= 0 && i < result->n_images; i++)
		rc = db_run(db, "INSERT INTO image VALUES(?, ?, ?, ?, ?)", "ssisi",
			result->images[i].id, result->id, (int64_t)i + 1, result->images[i].ext,
			clock_wall_ms());
	return rc < 0 ? rc : 0;
}

static int finish_job(struct db *db, void *arg)
{
	const struct hub_result *result = arg;
	struct hub_generation g;
	int rc = load(db, result->id, 0, false, &g);

	if (rc < 0)
		return rc;
	const int wanted = order_images(&g.order);
	const int missing = wanted - result->n_images;
	const int64_t refund = missing > 0 ? g.credits * missing / wanted : 0;

	if (strcmp(g.status, "processing") != 0)
		rc = -ESTALE;
	if (rc == 0 && refund > 0)
		rc = ledger_refund(db, g.account, refund, g.id);
	if (rc == 0)
		rc = insert_images(db, result);
	if (rc == 0)
		rc = db_run(db, "UPDATE generation SET credits = credits - ? WHERE id = ?", "is",
			refund, g.id);
	if (rc >= 0 && result->n_images == 0)
		rc = fail_row(db, g.id,
			result->error_message ? result->error_message : "The generation failed",
			"generationFailed");
	else if (rc >= 0)
		rc = db_run(db,
			"UPDATE generation SET status = 'succeeded', finished = ? WHERE id = ?", "is",
			clock_wall_ms(), g.id);
	hub_generation_release(&g);
	return rc < 0 ? rc : 0;
}

int generation_finish(struct store *s, const struct hub_result *result)
{
	return store_run(s, finish_job, (void *)result);
}

static int recover_job(struct db *db, void *arg)
{
	(void)arg;
	const int rc = db_run(db,
		"UPDATE generation SET status = 'queued' WHERE status = 'processing'"
		" AND status IN ('queued', 'processing')",
		"");
	return rc < 0 ? rc : 0;
}

int generation_recover(struct store *s)
{
	return store_run(s, recover_job, NULL);
}

#include "base/buf.h"
#include "base/clock.h"
#include "hub/store.h"
#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>

enum { TABLE_MAX = 64 * 1024 * 1024, NAME_MAX_CHARS = 64, KEY_LETTERS = 32, KEY_MAX = 256 };

static const char key_begin[] = "gih_live_";

void hub_account_release(struct hub_account *a)
{
	free(a->name);
	free(a->type);
	*a = (struct hub_account){0};
}

static void hash_key(const char *raw, unsigned char hash[HASH_SIZE])
{
	crypto_hash_sha256(hash, (const unsigned char *)raw, strlen(raw));
}

/* ---- commands, as jobs ---- */

struct command {
	const char *name, *type;
	int64_t credits, expires_ms;
	unsigned char hash[HASH_SIZE];
	const char *prefix;
};

static int find_account(struct db *db, const char *name, int64_t *id)
{
	const int rc = db_get_int(db, id, "SELECT id FROM account WHERE name = ?", "s", name);

	return rc < 0 ? rc : rc ? 0 : -ENOENT;
}

static int add_job(struct db *db, void *arg)
{
	const struct command *c = arg;
	int rc = db_run(db, "INSERT INTO account(name, type, created) VALUES(?, ?, ?)", "ssi",
		c->name, c->type, clock_wall_ms());

	if (rc < 0 || c->credits == 0)
		return rc < 0 ? rc : 0;
	return ledger_grant(db, db_last_id(db), c->credits, 0);
}

static int check_credits(int64_t credits, char **error)
{
	return credits >= 0 && credits <= CREDITS_MAX
		? 0
		: fail(error, -EINVAL, "credits must be 0 to %d", CREDITS_MAX);
}

int account_add(struct store *s, const char *name, int64_t credits, const char *type, char **error)
{
	struct command c = {.name = name, .type = type, .credits = credits};
	const size_t len = strlen(name);
	int rc = check_credits(credits, error);

	if (rc < 0)
		return rc;
	if (len == 0 || len > NAME_MAX_CHARS)
		return fail(error, -EINVAL, "an account's name has 1 to %d characters",
			NAME_MAX_CHARS);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] < ' ' || name[i] == 127)
			return fail(error, -EINVAL, "an account's name has no control characters");
	rc = store_run(s, add_job, &c);
	return rc == -EEXIST ? fail(error, rc, "there is an account \"%s\" already", name)
		: rc < 0     ? fail(error, rc, "the account cannot be added: %s", strerror(-rc))
			     : 0;
}

static int grant_job(struct db *db, void *arg)
{
	const struct command *c = arg;
	int64_t id;
	const int rc = find_account(db, c->name, &id);

	return rc < 0 ? rc : ledger_grant(db, id, c->credits, c->expires_ms);
}

static int no_account(const char *name, int rc, char **error)
{
	return rc == -ENOENT
		? fail(error, rc, "there is no account \"%s\"; account list shows them", name)
		: rc < 0 ? fail(error, rc, "it cannot be written: %s", strerror(-rc)) : 0;
}

int credits_grant(struct store *s, const char *name, int64_t credits, int64_t expires_ms,
	char **error)
{
	struct command c = {.name = name, .credits = credits, .expires_ms = expires_ms};
	int rc = check_credits(credits, error);

	if (rc == 0 && credits == 0)
		rc = fail(error, -EINVAL, "credits must be 1 to %d", CREDITS_MAX);
	if (rc == 0 && expires_ms && expires_ms <= clock_wall_ms())
		rc = fail(error, -EINVAL, "the date of expiry is in the past");
	return rc < 0 ? rc : no_account(name, store_run(s, grant_job, &c), error);
}

static int key_job(struct db *db, void *arg)
{
	const struct command *c = arg;
	int64_t id;
	int rc = find_account(db, c->name, &id);

	if (rc < 0)
		return rc;
	rc = c->expires_ms
		? db_run(db,
			  "INSERT INTO api_key(account, prefix, hash, created, expires)"
			  " VALUES(?, ?, ?, ?, ?)",
			  "isbii", id, c->prefix, (const void *)c->hash, sizeof c->hash,
			  clock_wall_ms(), c->expires_ms)
		: db_run(db,
			  "INSERT INTO api_key(account, prefix, hash, created) VALUES(?, ?, ?, ?)",
			  "isbi", id, c->prefix, (const void *)c->hash, sizeof c->hash,
			  clock_wall_ms());
	return rc < 0 ? rc : 0;
}

int key_create(struct store *s, const char *account, int64_t expires_ms, char **raw, char **error)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	char key[sizeof key_begin + KEY_LETTERS], prefix[KEY_PREFIX_SIZE];
	struct command c = {.name = account, .expires_ms = expires_ms, .prefix = prefix};
	size_t at = sizeof key_begin - 1;

	memcpy(key, key_begin, at);
	for (int i = 0; i < KEY_LETTERS; i++)
		key[at++] = alphabet[randombytes_uniform(sizeof alphabet - 1)];
	key[at] = '\0';
	snprintf(prefix, sizeof prefix, "%.*s", (int)sizeof key_begin - 1 + 6, key);
	hash_key(key, c.hash);
	const int rc = no_account(account, store_run(s, key_job, &c), error);
	if (rc == 0)
		*raw = xstrdup(key);
	sodium_memzero(key, sizeof key);
	return rc;
}

static int revoke_job(struct db *db, void *arg)
{
	const struct command *c = arg;
	int64_t n = 0;
	int rc = db_get_int(db, &n, "SELECT count(*) FROM api_key WHERE prefix = ?", "s", c->prefix);

	if (rc < 0 || n != 1)
		return rc < 0 ? rc : n == 0 ? -ENOENT : -EEXIST;
	rc = db_run(db, "UPDATE api_key SET revoked = coalesce(revoked, ?) WHERE prefix = ?", "is",
		clock_wall_ms(), c->prefix);
	return rc < 0 ? rc : 0;
}

int key_revoke(struct store *s, const char *prefix, char **error)
{
	struct command c = {.prefix = prefix};
	const int rc = store_run(s, revoke_job, &c);

	if (rc == -ENOENT)
		return fail(error, rc, "no key begins with exactly \"%s\"; key list shows them",
			prefix);
	return rc < 0 ? fail(error, rc, "it cannot be revoked: %s", strerror(-rc)) : 0;
}

/* ---- tables ---- */

static void add_time(struct buf *b, struct db_rows *r, int column)
{
	char text[CLOCK_TEXT_SIZE];

	buf_addstr(b, db_is_null(r, column) ? "-" : clock_format_iso(db_int(r, column), text));
}

char *account_table(struct store *s)
{
	struct db *db = store_reader(s);
	struct buf b;

	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "name\tcredits\ttype\tcreated\n");
	db_lock(db);
	struct db_rows *r =
		db_query(db, "SELECT name, balance, type, created FROM account ORDER BY id", "");
	while (db_next(r)) {
		buf_printf(&b, "%s\t%lld\t%s\t", db_text(r, 0), (long long)db_int(r, 1),
			db_text(r, 2));
		add_time(&b, r, 3);
		buf_addch(&b, '\n');
	}
	db_done(r);
	db_unlock(db);
	return buf_take(&b);
}

char *key_table(struct store *s)
{
	struct db *db = store_reader(s);
	struct buf b;

	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "prefix\taccount\tcreated\texpires\trevoked\n");
	db_lock(db);
	struct db_rows *r = db_query(db,
		"SELECT k.prefix, a.name, k.created, k.expires, k.revoked FROM api_key k"
		" JOIN account a ON a.id = k.account ORDER BY k.id",
		"");
	while (db_next(r)) {
		buf_printf(&b, "%s\t%s\t", db_text(r, 0), db_text(r, 1));
		add_time(&b, r, 2);
		buf_addch(&b, '\t');
		add_time(&b, r, 3);
		buf_addch(&b, '\t');
		add_time(&b, r, 4);
		buf_addch(&b, '\n');
	}
	db_done(r);
	db_unlock(db);
	return buf_take(&b);
}

char *ledger_table(struct store *s, const char *account, char **error)
{
	struct db *db = store_reader(s);
	struct buf b;
	int64_t id;

	db_lock(db);
	const int rc = no_account(account, find_account(db, account, &id), error);
	if (rc < 0) {
		db_unlock(db);
		return NULL;
	}
	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "at\tkind\tcredits\tgeneration\n");
	struct db_rows *r = db_query(db,
		"SELECT at, kind, credits, coalesce(generation, '-') FROM ledger"
		" WHERE account = ? ORDER BY id",
		"i", id);
	while (db_next(r)) {
		add_time(&b, r, 0);
		buf_printf(&b, "\t%s\t%lld\t%s\n", db_text(r, 1), (long long)db_int(r, 2),
			db_text(r, 3));
	}
	db_done(r);
	db_unlock(db);
	return buf_take(&b);
}

/* ---- for requests ---- */

enum outcome key_check(struct store *s, const char *raw, int64_t *account)
{
	struct db *db = store_reader(s);
	enum outcome outcome = OUTCOME_INVALID_KEY;
	unsigned char hash[HASH_SIZE];
	size_t len;

	if (strnlen(raw, KEY_MAX) == KEY_MAX)
		return outcome;
	hash_key(raw, hash);
	db_lock(db);
	struct db_rows *r = db_query(db,
		"SELECT account, hash, expires, revoked FROM api_key WHERE hash = ?", "b",
		(const void *)hash, sizeof hash);
	if (db_next(r)) {
		const void *stored = db_blob(r, 1, &len);

		if (len == sizeof hash && sodium_memcmp(stored, hash, len) == 0 &&
			db_is_null(r, 3)) {
			*account = db_int(r, 0);
			outcome = !db_is_null(r, 2) && db_int(r, 2) <= clock_wall_ms()
				? OUTCOME_EXPIRED_KEY
				: OUTCOME_OK;
		}
	}
	db_done(r);
	db_unlock(db);
	return outcome;
}

int account_get(struct store *s, int64_t id, struct hub_account *out)
{
	struct db *db = store_reader(s);
	const int64_t now = clock_wall_ms();

	*out = (struct hub_account){.id = id};
	db_lock(db);
	struct db_rows *r = db_query(db,
		"SELECT a.name, a.type, a.balance - coalesce((SELECT sum(left) FROM credit_grant"
		"  WHERE account = a.id AND left > 0 AND expires <= ?), 0),"
		" (SELECT min(expires) FROM credit_grant"
		"  WHERE account = a.id AND left > 0 AND expires > ?)"
		" FROM account a WHERE a.id = ?",
		"iii", now, now, id);
	const bool found = db_next(r);
	if (found) {
		out->name = db_text_dup(r, 0);
		out->type = db_text_dup(r, 1);
		out->balance = db_int(r, 2);
		out->next_expiration_ms = db_int(r, 3);
	}
	const int rc = db_done(r);
	db_unlock(db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

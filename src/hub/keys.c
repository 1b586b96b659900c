/*
 * The API's keys. The database holds their SHA-256 alone.
 *
 * Each request is made with a key, and nearly all with the same few. So what a query has found of a
 * good key is remembered by its hash. Keys change in this process alone (it has the data directory
 * locked), so forgetting them all after each revocation's commit keeps that true. KEEP_MS bounds what
 * a change by other means would mean.
 */
#include "base/clock.h"
#include "hub/store.h"
#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>

enum { KEY_LETTERS = 32, KEY_MAX = 256, REMEMBERED = 256, KEEP_MS = 60 * 1000 };

static const char key_begin[] = "gih_live_";

struct known_key {
	unsigned char hash[HASH_SIZE];
	int64_t account;
	int64_t expires_ms; /* 0: never */
	int64_t until_ms;   /* remembered so long; 0: a free place */
};

struct keys {
	pthread_mutex_t lock; /* a leaf */
	uint64_t revocations;
	struct known_key known[REMEMBERED]; /* each in the place that its hash gives */
};

struct keys *keys_create(void)
{
	struct keys *k = xcalloc(1, sizeof *k);

	pthread_mutex_init(&k->lock, NULL);
	return k;
}

void keys_destroy(struct keys *k)
{
	if (!k)
		return;
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static struct known_key *place(struct keys *k, const unsigned char hash[HASH_SIZE])
{
	return &k->known[hash[0] % REMEMBERED];
}

/* *revocations is for remember(), after a query that begins later. */
static bool recall(struct keys *k, const unsigned char hash[HASH_SIZE], struct known_key *out,
	uint64_t *revocations)
{
	const int64_t now = clock_mono_ms();

	pthread_mutex_lock(&k->lock);
	*out = *place(k, hash);
	*revocations = k->revocations;
	pthread_mutex_unlock(&k->lock);
	return out->until_ms > now && sodium_memcmp(out->hash, hash, HASH_SIZE) == 0;
}

/* Not when a key was revoked since recall(): it may be this one, which the query still found good. */
static void remember(struct keys *k, const struct known_key *found, uint64_t revocations)
{
	pthread_mutex_lock(&k->lock);
	if (k->revocations == revocations)
		*place(k, found->hash) = *found;
	pthread_mutex_unlock(&k->lock);
}

static void forget_all(struct keys *k)
{
	pthread_mutex_lock(&k->lock);
	k->revocations++;
	memset(k->known, 0, sizeof k->known);
	pthread_mutex_unlock(&k->lock);
}

static void hash_key(const char *raw, unsigned char hash[HASH_SIZE])
{
	crypto_hash_sha256(hash, (const unsigned char *)raw, strlen(raw));
}

/* ---- for requests ---- */

/* OUTCOME_OK when there is such a key, not revoked; whether it has expired is not looked at. */
static enum outcome find_key(struct store *s, struct known_key *key)
{
	struct db *db = store_read(s);
	bool good = false;
	size_t len;

	struct db_rows *r = db_query(db,
		"SELECT account, hash, expires, revoked FROM api_key WHERE hash = ?", "b",
		(const void *)key->hash, sizeof key->hash);
	if (db_next(r)) {
		const void *stored = db_blob(r, 1, &len);

		good = len == HASH_SIZE && sodium_memcmp(stored, key->hash, len) == 0 &&
			db_is_null(r, 3);
		key->account = db_int(r, 0);
		key->expires_ms = db_int(r, 2);
	}
	const int rc = db_done(r);
	store_read_end(s, db);
	return rc < 0 ? OUTCOME_SERVER_ERROR : good ? OUTCOME_OK : OUTCOME_INVALID_KEY;
}

enum outcome key_check(struct store *s, const char *raw, int64_t *account)
{
	struct known_key key = {0};
	unsigned char hash[HASH_SIZE];
	uint64_t revocations;

	if (strnlen(raw, KEY_MAX) == KEY_MAX)
		return OUTCOME_INVALID_KEY;
	hash_key(raw, hash);
	if (!recall(store_keys(s), hash, &key, &revocations)) {
		key = (struct known_key){.until_ms = clock_mono_ms() + KEEP_MS};
		memcpy(key.hash, hash, sizeof hash);
		const enum outcome outcome = find_key(s, &key);
		if (outcome != OUTCOME_OK)
			return outcome;
		remember(store_keys(s), &key, revocations);
	}
	*account = key.account;
	return key.expires_ms && key.expires_ms <= clock_wall_ms() ? OUTCOME_EXPIRED_KEY
								   : OUTCOME_OK;
}

/* ---- the owner's commands ---- */

struct command {
	const char *account, *prefix;
	int64_t expires_ms;
	unsigned char hash[HASH_SIZE];
};

static int create_job(struct db *db, void *arg)
{
	const struct command *c = arg;
	int64_t id;
	int rc = account_find(db, c->account, &id);

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
	struct command c = {.account = account, .expires_ms = expires_ms, .prefix = prefix};
	size_t at = sizeof key_begin - 1;

	memcpy(key, key_begin, at);
	for (int i = 0; i < KEY_LETTERS; i++)
		key[at++] = alphabet[randombytes_uniform(sizeof alphabet - 1)];
	key[at] = '\0';
	snprintf(prefix, sizeof prefix, "%.*s", (int)sizeof key_begin - 1 + 6, key);
	hash_key(key, c.hash);
	const int rc = account_error(account, store_run(s, create_job, &c), error);
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

	forget_all(store_keys(s));
	if (rc == -ENOENT)
		return fail(error, rc, "no key begins with exactly \"%s\"; key list shows them",
			prefix);
	return rc < 0 ? fail(error, rc, "it cannot be revoked: %s", strerror(-rc)) : 0;
}

char *key_table(struct store *s)
{
	struct db *db = store_read(s);
	struct buf b;

	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "prefix\taccount\tcreated\texpires\trevoked\n");
	struct db_rows *r = db_query(db,
		"SELECT k.prefix, a.name, k.created, k.expires, k.revoked FROM api_key k"
		" JOIN account a ON a.id = k.account ORDER BY k.id",
		"");
	while (db_next(r)) {
		buf_printf(&b, "%s\t%s\t", db_text(r, 0), db_text(r, 1));
		table_add_time(&b, r, 2);
		buf_addch(&b, '\t');
		table_add_time(&b, r, 3);
		buf_addch(&b, '\t');
		table_add_time(&b, r, 4);
		buf_addch(&b, '\n');
	}
	db_done(r);
	store_read_end(s, db);
	return buf_take(&b);
}

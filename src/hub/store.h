/*
 * store.h - imagehubd's database: accounts, keys, the ledger, generations and their pictures.
 *
 *	DATA/hub.db	SQLite	DATA/images/ID.png	DATA/refs/GENERATION/K	DATA/tmp/
 *
 * Money. Every change of a balance is an immutable row of the ledger (grant, charge, refund, expiry)
 * in the same transaction as what caused it. account.balance is their sum, kept beside them and held
 * at 0 or above by a CHECK. What is charged is taken from the grants that expire soonest; a refund
 * goes back to them.
 *
 * Writing. One thread owns the writing connection. It takes all jobs that wait, runs each in a part
 * of its own (db_part_begin), and makes them durable in one commit (group commit), then calls their
 * `done`. Job functions run on the writer's thread and may only touch the database they are given and
 * their argument. The writer checkpoints the WAL as well, at a commit that has made it long.
 *
 * Reading has connections of its own, which never wait for a commit; who reads has one for himself.
 *
 * store_run() waits for a job's end and may be called from any thread but the writer's.
 */
#ifndef HUB_STORE_H
#define HUB_STORE_H

#include "base/buf.h"
#include "db/db.h"
#include "wire/wire.h"

struct store;
struct keys;

enum { HUB_ID_SIZE = 40, KEY_PREFIX_SIZE = 24, HASH_SIZE = 32, CREDITS_MAX = 1000000000,
	TABLE_MAX = 64 * 1024 * 1024 };

/* Opens DATA (created 0700). serving: takes DATA's lock and starts the writer's thread. When another
 * process serves it, and does not end within wait_ms, *busy is set. NULL with *error. */
struct store *store_open(const char *dir, int wait_ms, bool *busy, char **error);
void store_close(struct store *s);
const char *store_dir(const struct store *s);

typedef int store_job_fn(struct db *db, void *arg);
typedef void store_done_fn(void *arg, int rc);
/* Leaves a job; done(arg, rc) is called on the writer's thread after the commit. */
void store_submit(struct store *s, store_job_fn *job, store_done_fn *done, void *arg);
/* The same and waits; returns the job's result (or the commit's error). */
int store_run(struct store *s, store_job_fn *job, void *arg);

/* ---- accounts (account.c) and keys (keys.c) ---- */

struct hub_account {
	int64_t id;
	char *name, *type;
	int64_t balance;
	int64_t next_expiration_ms; /* of a grant that has credits left; 0: none */
};
void hub_account_release(struct hub_account *a);

int account_add(struct store *s, const char *name, int64_t credits, const char *type, char **error);
int credits_grant(struct store *s, const char *name, int64_t credits, int64_t expires_ms,
	char **error);
/* *raw is the key, owned, shown this once. */
int key_create(struct store *s, const char *account, int64_t expires_ms, char **raw, char **error);
int key_revoke(struct store *s, const char *prefix, char **error);
/* Tab-separated tables with a head line, owned. */
char *account_table(struct store *s);
char *key_table(struct store *s);
char *ledger_table(struct store *s, const char *account, char **error);

/* Whose key it is: OUTCOME_OK, OUTCOME_INVALID_KEY (unknown or revoked), OUTCOME_EXPIRED_KEY. Keys in
 * use are remembered; a revocation is effective when key_revoke() returns. */
enum outcome key_check(struct store *s, const char *raw, int64_t *account);
struct keys *keys_create(void);
void keys_destroy(struct keys *k);
/* Balance and next expiration; what has expired is not counted. */
int account_get(struct store *s, int64_t id, struct hub_account *out);
/* Inside jobs and queries: 0, or -ENOENT. */
int account_find(struct db *db, const char *name, int64_t *id);
/* Says what that and other errors mean for the owner; returns rc. */
int account_error(const char *name, int rc, char **error);
/* A time column as text; `-` for NULL. */
void table_add_time(struct buf *b, struct db_rows *r, int column);

/* ---- the ledger, inside jobs (ledger.c) ---- */

/* Writes off what has expired. */
int ledger_expire(struct db *db, int64_t account, int64_t now_ms);
/* -EDQUOT when the balance does not suffice; nothing is changed then. */
int ledger_charge(struct db *db, int64_t account, int64_t credits, const char *generation);
int ledger_refund(struct db *db, int64_t account, int64_t credits, const char *generation);
int ledger_grant(struct db *db, int64_t account, int64_t credits, int64_t expires_ms);

/* ---- generations (generations.c) ---- */

struct hub_generation {
	char id[HUB_ID_SIZE];
	int64_t account;
	char *status; /* queued processing succeeded failed */
	struct order order;
	int64_t credits_requested, credits;
	int n_references;
	char *error_message, *error_code;
	int64_t created_ms;
	struct hub_image {
		char id[HUB_ID_SIZE]; /* unguessable; the file's name as well */
		char *ext;
		int64_t created_ms;
	} images[WIRE_IMAGES_MAX];
	int n_images;
};
void hub_generation_release(struct hub_generation *g);

/* A new order on its way into the queue. Filled by the caller, all borrowed; order_insert() is called
 * from a job. */
struct hub_order {
	int64_t account;
	const struct order *order;
	const char *wanted; /* the same as JSON, from order_encode() */
	int64_t price;
	int n_references;
	const char *idempotency_key; /* NULL: none */
	unsigned char body_hash[HASH_SIZE];
	/* What comes back: */
	char id[HUB_ID_SIZE]; /* from generation_id_make(); the first's when it was replayed */
	bool replayed;
	int64_t created_ms;
};
/* Begins with the time, so that the latest are neighbours in the index: a million orders make the next
 * no slower. */
void generation_id_make(char id[HUB_ID_SIZE]);
/* 0; -EDQUOT not enough credits; -EALREADY the key was used with another body. */
int order_insert(struct db *db, struct hub_order *o);

/* For an answer: of the order model, size and n alone. -ENOENT when there is none, or it is another
 * account's (account 0: anyone's). */
int generation_load(struct store *s, const char *id, int64_t account, struct hub_generation *out);
/* For its maker: anyone's, with all of the order. */
int generation_load_to_work(struct store *s, const char *id, struct hub_generation *out);
/* The same when all of the answer's facts are wanted as a wire object; url_base begins the URLs.
 * balance (may be NULL) is added. Owned. */
char *generation_json(const struct hub_generation *g, const char *url_base, bool with_poll_url,
	const struct hub_account *balance);

/* Takes the oldest queued generation: charges it and makes it processing. 1 and its id; 0 when the
 * queue is empty; when the balance does not suffice it is failed with insufficientCredits and the
 * next is looked at. */
int generation_take(struct store *s, char id[HUB_ID_SIZE]);
/* The pictures are durable files already. Fewer than ordered: the rest is refunded; none: failed. */
struct hub_result {
	char id[HUB_ID_SIZE];
	struct hub_image images[WIRE_IMAGES_MAX];
	int n_images;
	const char *error_message; /* when there are none */
};
int generation_finish(struct store *s, const struct hub_result *result);
/* What was processing when the hub ended goes back to the queue, its charge kept: taking it again
 * does not charge again. */
int generation_recover(struct store *s);
/* A picture's owner is not asked for; -ENOENT. */
int image_exists(struct store *s, const char *id);

/* Random lower-case letters and digits behind a prefix. */
void hub_id_make(char id[HUB_ID_SIZE], const char *prefix, int letters);

/* ---- for this folder's queries ---- */

/* A connection for queries, the caller's own until he gives it back, which must be soon: it waits
 * when all are in use. Never two at once. */
struct db *store_read(struct store *s);
void store_read_end(struct store *s, struct db *db);
struct keys *store_keys(struct store *s);

#endif

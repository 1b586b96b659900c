#include "base/buf.h"
#include "base/clock.h"
#include "hub/store.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

enum { NAME_MAX_CHARS = 64 };

void hub_account_release(struct hub_account *a)
{
	free(a->name);
	free(a->type);
	*a = (struct hub_account){0};
}

/* ---- commands, as jobs ---- */

struct command {
	const char *name, *type;
	int64_t credits, expires_ms;
};

int account_find(struct db *db, const char *name, int64_t *id)
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
	const int rc = account_find(db, c->name, &id);

	return rc < 0 ? rc : ledger_grant(db, id, c->credits, c->expires_ms);
}

int account_error(const char *name, int rc, char **error)
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
	return rc < 0 ? rc : account_error(name, store_run(s, grant_job, &c), error);
}

/* ---- tables ---- */

void table_add_time(struct buf *b, struct db_rows *r, int column)
{
	char text[CLOCK_TEXT_SIZE];

	buf_addstr(b, db_is_null(r, column) ? "-" : clock_format_iso(db_int(r, column), text));
}

char *account_table(struct store *s)
{
	struct db *db = store_read(s);
	struct buf b;

	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "name\tcredits\ttype\tcreated\n");
	struct db_rows *r =
		db_query(db, "SELECT name, balance, type, created FROM account ORDER BY id", "");
	while (db_next(r)) {
		buf_printf(&b, "%s\t%lld\t%s\t", db_text(r, 0), (long long)db_int(r, 1),
			db_text(r, 2));
		table_add_time(&b, r, 3);
		buf_addch(&b, '\n');
	}
	db_done(r);
	store_read_end(s, db);
	return buf_take(&b);
}

char *ledger_table(struct store *s, const char *account, char **error)
{
	struct db *db = store_read(s);
	struct buf b;
	int64_t id;

	const int rc = account_error(account, account_find(db, account, &id), error);
	if (rc < 0) {
		store_read_end(s, db);
		return NULL;
	}
	buf_init(&b, TABLE_MAX);
	buf_addstr(&b, "at\tkind\tcredits\tgeneration\n");
	struct db_rows *r = db_query(db,
		"SELECT at, kind, credits, coalesce(generation, '-') FROM ledger"
		" WHERE account = ? ORDER BY id",
		"i", id);
	while (db_next(r)) {
		table_add_time(&b, r, 0);
		buf_printf(&b, "\t%s\t%lld\t%s\n", db_text(r, 1), (long long)db_int(r, 2),
			db_text(r, 3));
	}
	db_done(r);
	store_read_end(s, db);
	return buf_take(&b);
}

/* ---- for requests ---- */

int account_get(struct store *s, int64_t id, struct hub_account *out)
{
	struct db *db = store_read(s);
	const int64_t now = clock_wall_ms();

	*out = (struct hub_account){.id = id};
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
	store_read_end(s, db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

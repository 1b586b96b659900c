#include "base/clock.h"
#include "hub/store.h"
#include <errno.h>

enum { GRANTS_MAX = 64 };

static int add_row(struct db *db, int64_t account, const char *kind, int64_t credits,
	const char *generation)
{
	const int rc = db_run(db,
		"INSERT INTO ledger(account, at, kind, credits, generation) VALUES(?, ?, ?, ?, ?)",
		"iisis", account, clock_wall_ms(), kind, credits, generation);

	return rc < 0 ? rc : 0;
}

int ledger_grant(struct db *db, int64_t account, int64_t credits, int64_t expires_ms)
{
	int rc = expires_ms
		? db_run(db,
			  "INSERT INTO credit_grant(account, credits, left, expires)"
			  " VALUES(?, ?, ?, ?)",
			  "iiii", account, credits, credits, expires_ms)
		: db_run(db,
			  "INSERT INTO credit_grant(account, credits, left) VALUES(?, ?, ?)", "iii",
			  account, credits, credits);

	return rc < 0 ? rc : add_row(db, account, "grant", credits, NULL);
}

int ledger_expire(struct db *db, int64_t account, int64_t now_ms)
{
	int64_t gone = 0;
	int rc = db_get_int(db, &gone,
		"SELECT coalesce(sum(left), 0) FROM credit_grant"
		" WHERE account = ? AND left > 0 AND expires <= ?",
		"ii", account, now_ms);

	if (rc < 0 || gone == 0)
		return rc < 0 ? rc : 0;
	rc = add_row(db, account, "expiry", -gone, NULL);
	if (rc == 0)
		rc = db_run(db,
			"UPDATE credit_grant SET left = 0"
			" WHERE account = ? AND left > 0 AND expires <= ?",
			"ii", account, now_ms);
	return rc < 0 ? rc : 0;
}

struct share {
	int64_t grant, credits;
};

/* What each grant gives, those that expire soonest first. Returns their number, or -EDQUOT. */
static int find_shares(struct db *db, int64_t account, int64_t credits, struct share *shares)
{
	int n = 0;
	struct db_rows *r = db_query(db,
		"SELECT id, left FROM credit_grant WHERE account = ? AND left > 0"
		" ORDER BY expires IS NULL, expires, id",
		"i", account);

	while (credits > 0 && n < GRANTS_MAX && db_next(r)) {
		const int64_t left = db_int(r, 1);

		shares[n] = (struct share){db_int(r, 0), left < credits ? left : credits};
		credits -= shares[n++].credits;
	}
	const int rc = db_done(r);
	return rc < 0 ? rc : credits > 0 ? -EDQUOT : n;
}

int ledger_charge(struct db *db, int64_t account, int64_t credits, const char *generation)
{
	struct share shares[GRANTS_MAX];
	int rc = ledger_expire(db, account, clock_wall_ms());
	const int n = rc < 0 ? rc : find_shares(db, account, credits, shares);

	if (n < 0)
		return n;
	for (int i = 0; rc >= 0 && i < n; i++) {
		rc = db_run(db, "UPDATE credit_grant SET left = left - ? WHERE id = ?", "ii",
			shares[i].credits, shares[i].grant);
		if (rc >= 0)
			rc = db_run(db, "INSERT INTO taken VALUES(?, ?, ?)", "sii", generation,
				shares[i].grant, shares[i].credits);
	}
	return rc < 0 ? rc : add_row(db, account, "charge", -credits, generation);
}

/* Back to the grants it was taken from, those that expire last first. */
int ledger_refund(struct db *db, int64_t account, int64_t credits, const char *generation)
{
	struct share shares[GRANTS_MAX];
	int64_t rest = credits;
	int n = 0;
	struct db_rows *r = db_query(db,
		"SELECT t.credit_grant, t.credits FROM taken t JOIN credit_grant g"
		" ON g.id = t.credit_grant WHERE t.generation = ? AND t.credits > 0"
		" ORDER BY g.expires IS NULL DESC, g.expires DESC, g.id DESC",
		"s", generation);

	while (rest > 0 && n < GRANTS_MAX && db_next(r)) {
		const int64_t had = db_int(r, 1);

		shares[n] = (struct share){db_int(r, 0), had < rest ? had : rest};
		rest -= shares[n++].credits;
	}
	int rc = db_done(r);
	if (rc == 0 && rest > 0)
		return -EINVAL;
	for (int i = 0; rc >= 0 && i < n; i++) {
		rc = db_run(db, "UPDATE credit_grant SET left = left + ? WHERE id = ?", "ii",
			shares[i].credits, shares[i].grant);
		if (rc >= 0)
			rc = db_run(db,
				"UPDATE taken SET credits = credits - ?"
				" WHERE generation = ? AND credit_grant = ?",
				"isi", shares[i].credits, generation, shares[i].grant);
	}
	return rc < 0 ? rc : add_row(db, account, "refund", credits, generation);
}

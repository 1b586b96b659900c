#include "base/clock.h"
#include "catalogue/internal.h"
#include "catalogue/request.h"

/* One statement that changes rows: 0 or -errno. */
static int done(struct catalogue *cat, int changed)
{
	db_unlock(cat->db);
	return changed < 0 ? changed : 0;
}

int request_charge_open(struct catalogue *cat, int64_t request, int64_t estimate)
{
	db_lock(cat->db);
	return done(cat, db_run(cat->db,
		"INSERT INTO charge(request, at, credits, settled) VALUES(?, ?, ?, 0)", "iii",
		request, clock_wall_ms(), estimate));
}

int request_charge_settle(struct catalogue *cat, int64_t request, int64_t credits)
{
	db_lock(cat->db);
	return done(cat, db_run(cat->db,
		"UPDATE charge SET credits = ?, settled = 1 WHERE id ="
		" (SELECT max(id) FROM charge WHERE request = ?) AND settled = 0",
		"ii", credits, request));
}

int request_charge_merge(struct catalogue *cat, int64_t request)
{
	db_lock(cat->db);
	return done(cat, db_run(cat->db,
		"UPDATE charge SET credits = 0, settled = 1 WHERE request = ?1 AND settled = 0"
		" AND id < (SELECT max(id) FROM charge WHERE request = ?1)",
		"i", request));
}

/* A sum or a count, which is always one row. What cannot be read is logged, and counts as the most,
 * so that nothing is spent on the strength of it. */
static int64_t total(struct catalogue *cat, int rc, int64_t value)
{
	db_unlock(cat->db);
	return rc < 0 ? INT32_MAX : value;
}

int64_t request_charges_open(struct catalogue *cat, int64_t request)
{
	int64_t n = 0;

	db_lock(cat->db);
	const int rc = db_get_int(cat->db, &n,
		"SELECT count(*) FROM charge WHERE request = ? AND settled = 0", "i", request);
	return total(cat, rc, n);
}

/* Days begin on a quarter of an hour, wherever one is. */
int64_t request_spent_since(struct catalogue *cat, int64_t since_ms)
{
	int64_t credits = 0;

	db_lock(cat->db);
	const int rc = db_get_int(cat->db, &credits,
		"SELECT total(credits) FROM charge_sum WHERE quarter >= ? / 900000", "i", since_ms);
	return total(cat, rc, credits);
}

int64_t request_in_flight(struct catalogue *cat)
{
	int64_t credits = 0;

	db_lock(cat->db);
	const int rc = db_get_int(cat->db, &credits,
		"SELECT total(c.credits) FROM request r JOIN charge c ON c.request = r.id"
		" WHERE r.state IN ('sending', 'running') AND c.settled = 0 AND NOT EXISTS"
		" (SELECT 1 FROM generation g WHERE g.id = r.generation AND g.credits > 0)",
		"");
	return total(cat, rc, credits);
}

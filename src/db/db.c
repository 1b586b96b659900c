#include "db/internal.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

/* ---- errors ---- */

/* A caller's mistake: ends a program under a sanitizer, is said by others. */
static int misuse(const char *what, const char *sql)
{
	log_error("database: %s: %.120s", what, sql);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	abort();
#endif
	return -EIO;
}

static bool is_duplicate(int code)
{
	return code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY ||
		code == SQLITE_CONSTRAINT_ROWID;
}

/* A full disk shows as an I/O error too, where the journal cannot grow or be synced. The system's
 * error number is only of this failure when SQLite says that it was one of the system; of a failed
 * COMMIT it tells none before 3.41, so errno itself is cleared before each step and read here. */
static bool is_full(struct db *db, int code)
{
	const int err = errno ? errno : sqlite3_system_errno(db->sqlite);

	return ((code & 0xff) == SQLITE_IOERR || (code & 0xff) == SQLITE_CANTOPEN) &&
		(err == ENOSPC || err == EDQUOT);
}

int db_errno(struct db *db, int code, const char *sql)
{
	switch (code & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_CONSTRAINT:
		return is_duplicate(code) ? -EEXIST : -ECANCELED;
	default:
		break;
	}
	if (is_full(db, code))
		return -ENOSPC;
	log_error("database: %s (%d) in: %.120s", sqlite3_errmsg(db->sqlite), code, sql);
	return -EIO;
}

int db_exec(struct db *db, const char *sql)
{
	errno = 0;
	const int code = sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL);

	return code == SQLITE_OK ? 0 : db_errno(db, code, sql);
}

void db_undo(struct db *db)
{
	if (!sqlite3_get_autocommit(db->sqlite))
		db_exec(db, "ROLLBACK");
}

void db_lock(struct db *db)
{
	pthread_mutex_lock(&db->lock);
}

void db_unlock(struct db *db)
{
	pthread_mutex_unlock(&db->lock);
}

/* ---- statements ---- */

/* The setting can only change outside of a transaction. */
static int set_full(struct db *db, bool full)
{
	if (db->full == full)
		return 0;
	const int rc =
		db_exec(db, full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
	if (rc == 0)
		db->full = full;
	return rc;
}

static struct db_rows *broken(struct db *db, int error)
{
	db->broken = (struct db_rows){.db = db, .error = error};
	db->broken_open++;
	return &db->broken;
}

/* Fills a free place of the cache. */
static int prepare(struct db *db, struct db_rows *r, const char *sql)
{
	const char *tail = "";
	sqlite3_stmt *stmt = NULL;
	const int code = sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt,
		&tail);

	if (code != SQLITE_OK)
		return db_errno(db, code, sql);
	if (!stmt || tail[strspn(tail, " \t\n;")] != '\0') {
		sqlite3_finalize(stmt);
		return misuse("not exactly one statement", sql);
	}
	*r = (struct db_rows){.db = db, .sql = sql, .stmt = stmt};
	return 0;
}

/* The cached statement of a literal, prepared at its first use. */
static struct db_rows *prepared(struct db *db, const char *sql)
{
	size_t i = ((uintptr_t)sql >> 3) * 2654435761u % DB_SLOTS, tries = 0;

	for (; db->cache[i].sql && db->cache[i].sql != sql; i = (i + 1) % DB_SLOTS)
		if (++tries == DB_SLOTS)
			return broken(db, misuse("too many statements; are they literals?", sql));

	struct db_rows *r = &db->cache[i];
	const int rc = r->sql ? 0 : prepare(db, r, sql);
	if (rc < 0)
		return broken(db, rc);
	if (strcmp(sqlite3_sql(r->stmt), sql) != 0)
		return broken(db, misuse("the text is not a literal", sql));
	if (r->busy)
		return broken(db, misuse("used while in use", sql));
	r->error = 0;
	r->ended = false;
	return r;
}

static int bind_one(sqlite3_stmt *stmt, int at, char letter, va_list *args)
{
	switch (letter) {
	case 'i':
		return sqlite3_bind_int64(stmt, at, va_arg(*args, int64_t));
	case 'd':
		return sqlite3_bind_double(stmt, at, va_arg(*args, double));
	case 's':
		return sqlite3_bind_text(stmt, at, va_arg(*args, const char *), -1,
			SQLITE_TRANSIENT);
	case 'b': {
		const void *bytes = va_arg(*args, const void *);
		const size_t len = va_arg(*args, size_t);

		return bytes ? sqlite3_bind_blob64(stmt, at, bytes, len, SQLITE_TRANSIENT)
			     : sqlite3_bind_null(stmt, at);
	}
	default:
		return sqlite3_bind_null(stmt, at);
	}
}

static int bind_all(struct db_rows *r, const char *format, va_list *args)
{
	if ((size_t)sqlite3_bind_parameter_count(r->stmt) != strlen(format))
		return misuse("arguments do not match the parameters", r->sql);
	for (int i = 0; format[i]; i++) {
		const int code = bind_one(r->stmt, i + 1, format[i], args);

		if (code != SQLITE_OK)
			return db_errno(r->db, code, r->sql);
	}
	return 0;
}

/* Whether a transaction was begun but SQLite has none: BEGIN failed, or a failure (a full disk) made
 * SQLite roll back. What follows would commit one by one, so it is refused. */
static bool lost(struct db *db)
{
	if (db->depth == 0 || !sqlite3_get_autocommit(db->sqlite))
		return false;
	if (db->poison == 0)
		db->poison = -EIO;
	return true;
}

/* Takes the lock, which db_done() gives back. */
static struct db_rows *start(struct db *db, const char *sql, const char *format, va_list *args)
{
	db_lock(db);
	if (lost(db))
		return broken(db, db->poison);

	struct db_rows *r = prepared(db, sql);
	if (r->error)
		return r;
	r->busy = true;
	r->error = bind_all(r, format, args);
	/* A write of its own is no more durable than promised, and no slower. */
	if (db->depth == 0 && db->full && !sqlite3_stmt_readonly(r->stmt))
		set_full(db, false);
	return r;
}

struct db_rows *db_query(struct db *db, const char *sql, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	struct db_rows *r = start(db, sql, format, &args);
	va_end(args);
	return r;
}

static void record(struct db_rows *r, int code)
{
	if (r->error == 0)
		r->error = db_errno(r->db, code, r->sql);
	if (r->error < 0 && r->db->poison == 0 && lost(r->db))
		r->db->poison = r->error;
}

bool db_next(struct db_rows *r)
{
	if (r->error || r->ended)
		return false;
	errno = 0;
	const int code = sqlite3_step(r->stmt);
	if (code == SQLITE_ROW)
		return true;
	r->ended = true;
	record(r, code);
	return false;
}

int db_done(struct db_rows *r)
{
	struct db *db = r->db;
	const int error = r->error;

	if (!r->stmt) {
		if (db->broken_open == 0)
			return misuse("db_done() twice", "a failed statement");
		db->broken_open--;
		db_unlock(db);
		return error;
	}
	if (!r->busy)
		return misuse("db_done() twice", r->sql);
	/* A statement that was left early commits here, and may fail. */
	record(r, sqlite3_reset(r->stmt));
	sqlite3_clear_bindings(r->stmt);
	r->busy = false;
	const int rc = r->error;
	db_unlock(db);
	return rc;
}

int db_run(struct db *db, const char *sql, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	struct db_rows *r = start(db, sql, format, &args);
	va_end(args);
	const int64_t before = sqlite3_total_changes64(db->sqlite);
	while (db_next(r))
		;
	/* sqlite3_changes() still speaks of the statement before when this one changed none. */
	const int changes = sqlite3_total_changes64(db->sqlite) == before
		? 0
		: sqlite3_changes(db->sqlite);
	const int rc = db_done(r);
	return rc < 0 ? rc : changes;
}

bool db_is_null(struct db_rows *r, int column)
{
	return sqlite3_column_type(r->stmt, column) == SQLITE_NULL;
}

int64_t db_int(struct db_rows *r, int column)
{
	return sqlite3_column_int64(r->stmt, column);
}

double db_double(struct db_rows *r, int column)
{
	return sqlite3_column_double(r->stmt, column);
}

const char *db_text(struct db_rows *r, int column)
{
	return (const char *)sqlite3_column_text(r->stmt, column);
}

const void *db_blob(struct db_rows *r, int column, size_t *len)
{
	const void *bytes = sqlite3_column_blob(r->stmt, column);

	*len = (size_t)sqlite3_column_bytes(r->stmt, column);
	return bytes;
}

char *db_text_dup(struct db_rows *r, int column)
{
	return xstrdup_or_null(db_text(r, column));
}

int db_get_int(struct db *db, int64_t *value, const char *sql, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	struct db_rows *r = start(db, sql, format, &args);
	va_end(args);
	const bool found = db_next(r);
	if (found)
		*value = db_int(r, 0);
	const int rc = db_done(r);
	return rc < 0 ? rc : found;
}

int64_t db_last_id(struct db *db)
{
	return sqlite3_last_insert_rowid(db->sqlite);
}

int64_t db_total_changes(struct db *db)
{
	db_lock(db);
	const int64_t changes = sqlite3_total_changes64(db->sqlite);
	db_unlock(db);
	return changes;
}

int64_t db_scanned(struct db *db)
{
	int64_t steps = 0;

	db_lock(db);
	for (size_t i = 0; i < DB_SLOTS; i++)
		if (db->cache[i].stmt)
			steps += sqlite3_stmt_status(db->cache[i].stmt,
				SQLITE_STMTSTATUS_FULLSCAN_STEP, 0);
	db_unlock(db);
	return steps;
}

/* ---- transactions ---- */

/* A literal without arguments or rows, kept prepared. */
static int run_kept(struct db *db, const char *sql)
{
	struct db_rows *r = prepared(db, sql);

	if (!r->stmt) {
		db->broken_open--;
		return r->error;
	}
	errno = 0;
	const int rc = db_errno(db, sqlite3_step(r->stmt), sql);
	sqlite3_reset(r->stmt);
	return rc;
}

int db_begin(struct db *db, enum db_durability durability)
{
	db_lock(db);
	if (db->depth++ > 0) {
		db->wants_full |= durability == DB_FULL;
		return lost(db) ? db->poison : 0;
	}
	db->wants_full = durability == DB_FULL;
	db->poison = set_full(db, db->wants_full);
	if (db->poison == 0)
		db->poison = run_kept(db, "BEGIN IMMEDIATE");
	return db->poison;
}

/* A durable write (of a value that stays the same, which SQLite writes all the same) syncs the WAL
 * with all that was committed before. A DB_FULL transaction that changes nothing would not. */
static int raise_durability(struct db *db)
{
	char sql[64];

	const int rc = set_full(db, true);
	snprintf(sql, sizeof sql, "PRAGMA user_version = %lld", (long long)db->version);
	return rc < 0 ? rc : db_exec(db, sql);
}

/* Under sync_lock. SQLite keeps one WAL as long as it has the database open, and no locks on it that
 * closing a descriptor would lose. */
static int open_wal(struct db *db)
{
	if (db->wal < 0)
		db->wal = open(db->wal_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return db->wal < 0 ? -errno : 0;
}

/* After a sync that failed, another that succeeds proves nothing of the pages before it, and commits
 * behind them would be lost with them. So all is taken out of the WAL, from memory. */
static int empty_wal(struct db *db)
{
	db_lock(db);
	const int code = sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL,
		NULL);
	const int rc = code == SQLITE_OK ? 0 : db_errno(db, code, "a checkpoint");
	db_unlock(db);
	return rc;
}

/* Under sync_lock, which is given up meanwhile. */
static int sync_wal(struct db *db)
{
	const uint64_t number = ++db->syncs_begun;
	const int fd = db->wal;
	const bool failed = db->failed;

	db->syncing = true;
	pthread_mutex_unlock(&db->sync_lock);
	const int rc = failed ? empty_wal(db) : fdatasync(fd) < 0 ? -errno : 0;
	pthread_mutex_lock(&db->sync_lock);
	db->syncing = false;
	db->failed = rc < 0;
	if (rc == 0)
		db->syncs_done = number;
	pthread_cond_broadcast(&db->sync_over);
	return rc;
}

/*
 * What was committed is in the WAL, or was synced by the checkpoint that took it from there. So its
 * sync needs no lock of the database: others go on meanwhile. One that began after the commit serves
 * all who came until then.
 */
int db_sync(struct db *db)
{
	int rc = 0;

	if (!db->wal_path)
		return misuse("a sync", "of a reader");
	pthread_mutex_lock(&db->sync_lock);
	const uint64_t enough = db->syncs_begun + 1;
	rc = open_wal(db);
	while (rc == 0 && db->syncs_done < enough) {
		if (db->syncing)
			pthread_cond_wait(&db->sync_over, &db->sync_lock);
		else
			rc = sync_wal(db);
	}
	pthread_mutex_unlock(&db->sync_lock);
	if (rc == -ENOSPC || rc == -EDQUOT)
		return -ENOSPC;
	if (rc < 0)
		log_error("database: %s cannot be synced: %s", db->wal_path, strerror(-rc));
	return rc < 0 ? -EIO : 0;
}

static int commit(struct db *db)
{
	int rc = db->poison;

	if (rc == 0)
		rc = lost(db) ? db->poison : run_kept(db, "COMMIT");
	if (rc < 0) {
		db_undo(db);
		return rc;
	}
	return 0;
}

int db_commit(struct db *db)
{
	if (db->depth == 0)
		return misuse("a commit", "no transaction was begun");
	int rc = db->depth == 1 ? commit(db) : 0;
	db->depth--;
	/* A nested begin asked for more than the outermost. */
	if (rc == 0 && db->depth == 0 && db->wants_full && !db->full)
		rc = raise_durability(db);
	db_unlock(db);
	return rc;
}

void db_rollback(struct db *db)
{
	if (db->depth == 0) {
		misuse("a rollback", "no transaction was begun");
		return;
	}
	if (db->poison == 0)
		db->poison = -EIO;
	if (db->depth == 1)
		db_undo(db);
	db->depth--;
	db_unlock(db);
}

int db_part_begin(struct db *db)
{
	const int rc = db_run(db, "SAVEPOINT part", "");

	return rc < 0 ? rc : 0;
}

int db_part_end(struct db *db, int rc)
{
	int ended = rc < 0 ? db_run(db, "ROLLBACK TO part", "") : 0;

	if (ended >= 0)
		ended = db_run(db, "RELEASE part", "");
	return rc < 0 ? rc : ended < 0 ? ended : rc;
}

int db_end(struct db *db, int rc)
{
	if (rc < 0) {
		db_rollback(db);
		return rc;
	}
	const int committed = db_commit(db);
	return committed < 0 ? committed : rc;
}

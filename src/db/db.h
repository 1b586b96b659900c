/*
 * db.h - one SQLite database: opening, migrations, cached statements, transactions.
 *
 * The only folder that sees sqlite3.h. imagehubfs' catalogue and imagehubd's ledger each
 * own one struct db; all their SQL stays with them.
 *
 *	struct db *db = db_open(path, migrations, n, &error);
 *	db_lock(db);
 *	db_begin(db, DB_FULL);
 *	db_run(db, "INSERT INTO t(name, size) VALUES(?, ?)", "si", name, (int64_t)size);
 *	id = db_last_id(db);
 *	rc = db_commit(db);
 *	db_unlock(db);
 *
 *	struct db_rows *r = db_query(db, "SELECT id, name FROM t WHERE size > ?", "i", (int64_t)9);
 *	while (db_next(r))
 *		use(db_int(r, 0), db_text(r, 1));
 *	rc = db_done(r);
 *
 * One connection per database, because SQLite before 3.51.3 can corrupt a WAL that two connections
 * write or checkpoint at once. A recursive mutex serialises its users: every call takes it, from
 * db_query() to db_done() and from db_begin() to the commit or rollback it stays held. db_lock()
 * keeps several calls together (db_run() with its db_last_id()). Nothing that may block on anything
 * but the disk is called while it is held.
 *
 * Opened with WAL, foreign keys on, trusted_schema off, busy_timeout 5 s, a 0600 file. Statements
 * are prepared once and cached by their SQL text's address, so sql must be a string literal. A
 * statement may not be in use twice at once: a nested query needs another text. Such misuse is
 * logged and fails with -EIO; under a sanitizer it aborts.
 *
 * Errors: negative errno: -ENOSPC (disk full), -EIO (any other failure; logged with SQLite's own
 * words), -EEXIST (a UNIQUE or PRIMARY KEY constraint), -ECANCELED (any other constraint).
 */
#ifndef DB_DB_H
#define DB_DB_H

#include "base/util.h"

struct db;
struct db_rows;

enum db_durability {
	DB_NORMAL, /* survives kill -9; power loss may take the last commits, never the consistency */
	DB_FULL,   /* durable when db_commit() returns (about 0.2 ms more on a quiet disk) */
};

/* Opens or creates path and runs migrations[user_version..n-1], each in one transaction with the
 * bump of user_version. A database newer than n is refused. NULL with *error on failure. */
struct db *db_open(const char *path, const char *const *migrations, int n, char **error);
/* A further connection to an open database for queries alone, with a lock of its own: it never writes
 * or checkpoints, and sees what was committed when a query starts. Close it before the first. */
struct db *db_open_reader(const char *path, char **error);
void db_close(struct db *db); /* checkpoints; accepts NULL */

void db_lock(struct db *db);
void db_unlock(struct db *db);

/* Starts a transaction (BEGIN IMMEDIATE). A nested begin only counts, and raises the durability of
 * the outermost commit if it asks for more. Must be ended even when it failed. In a transaction
 * that could not begin, or that SQLite gave up (a full disk), every statement and the end fail with
 * that first error: nothing of it is ever committed. */
int db_begin(struct db *db, enum db_durability durability);
/* Ends it. The outermost commit writes; when an inner one was rolled back it fails with -EIO and
 * rolls back. */
int db_commit(struct db *db);
void db_rollback(struct db *db);
/* Makes durable what was committed so far. Takes no lock of the database, and shares its sync with
 * whoever asks for one at the same time. Not to be called with that lock held. */
int db_sync(struct db *db);
/* A part of a transaction that may be undone alone: rc of the part decides. Not nested. */
int db_part_begin(struct db *db);
int db_part_end(struct db *db, int rc);
/* Commits when rc is 0, otherwise rolls back; returns rc or the commit's error. */
int db_end(struct db *db, int rc);

/*
 * Argument formats, one letter a parameter:
 *	i  int64_t		s  const char * (NULL binds NULL)
 *	d  double		b  const void *, size_t (a BLOB; NULL binds NULL)
 *	n  NULL, no argument
 */
/* Runs one statement that returns no rows. Returns the number of rows changed, or an error. */
int db_run(struct db *db, const char *sql, const char *format, ...);
/* Starts a query; never NULL: a failure comes out of db_done(). */
struct db_rows *db_query(struct db *db, const char *sql, const char *format, ...);
bool db_next(struct db_rows *rows);
int db_done(struct db_rows *rows); /* 0 or the first error; always call it, once */

bool db_is_null(struct db_rows *rows, int column);
int64_t db_int(struct db_rows *rows, int column);
double db_double(struct db_rows *rows, int column);
/* Borrowed until the next db_next/db_done; NULL for NULL. */
const char *db_text(struct db_rows *rows, int column);
const void *db_blob(struct db_rows *rows, int column, size_t *len);
char *db_text_dup(struct db_rows *rows, int column); /* owned, or NULL */

/* The first row's first column as an integer: 1 found, 0 no row, or an error. */
int db_get_int(struct db *db, int64_t *value, const char *sql, const char *format, ...);
int64_t db_last_id(struct db *db);
/* Rows changed since opening, for tests that show that nothing is written. */
int64_t db_total_changes(struct db *db);
/* Steps of full table scans since opening, for tests that show that none is of a large table. */
int64_t db_scanned(struct db *db);

#endif

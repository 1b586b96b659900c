/*
 * internal.h - what db.c (statements, transactions) and open.c (opening, migrations) share.
 *
 * All of it is used under the database's lock, or before anyone else has the database.
 */
#ifndef DB_INTERNAL_H
#define DB_INTERNAL_H

#include "db/db.h"
#include <pthread.h>
#include <sqlite3.h>

enum { DB_SLOTS = 512 /* a power of two, well above the number of statements in a program */ };

struct db_rows {
	struct db *db;
	const char *sql; /* the cache's key: the literal's address */
	sqlite3_stmt *stmt;
	bool busy;  /* between db_query and db_done */
	bool ended; /* no row left: another step would run it again */
	int error;
};

struct db {
	sqlite3 *sqlite;
	pthread_mutex_t lock; /* recursive */
	struct db_rows cache[DB_SLOTS];
	struct db_rows broken; /* stands for a statement that could not be prepared */
	int broken_open;       /* how many await their db_done() */
	int depth;	       /* of nested transactions */
	int poison;	       /* why the outermost can no longer commit, or 0 */
	bool full;	       /* the connection's present synchronous setting */
	bool wants_full;       /* asked for by any of the nested: see raise_durability() */
	int64_t version;       /* user_version */

	/* Durability without the lock: see db_sync(). */
	char *wal_path;
	pthread_mutex_t sync_lock; /* a leaf; syncs are made without it */
	pthread_cond_t sync_over;
	int wal;	       /* a descriptor of the WAL for syncs; -1: not opened yet */
	bool syncing;
	bool failed; /* a sync: what the WAL holds may never reach the disk */
	uint64_t syncs_begun, syncs_done; /* done: of those that went well */
	bool reader;	       /* db_open_reader(): never writes or checkpoints */
};

/* SQLite's result code as db.h's errno; logs what has no errno of its own, naming sql. */
int db_errno(struct db *db, int code, const char *sql);
/* Runs statements that return nothing. */
int db_exec(struct db *db, const char *sql);
/* Rolls back if there is a transaction; after some failures SQLite has done so already. */
void db_undo(struct db *db);

#endif

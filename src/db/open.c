#include "db/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* The first column of a statement's first row, as text. */
static int first_value(struct db *db, const char *sql, char *text, size_t size)
{
	sqlite3_stmt *stmt = NULL;
	int code = sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL);

	if (code == SQLITE_OK)
		code = sqlite3_step(stmt);
	if (code == SQLITE_ROW)
		snprintf(text, size, "%s", (const char *)sqlite3_column_text(stmt, 0));
	const int rc = db_errno(db, code, sql);
	sqlite3_finalize(stmt);
	return rc;
}

static int migrate_one(struct db *db, const char *path, const char *sql, int version, char **error)
{
	char bump[64];

	snprintf(bump, sizeof bump, "PRAGMA user_version = %d", version);
	int rc = db_exec(db, "BEGIN IMMEDIATE");
	if (rc == 0)
		rc = db_exec(db, sql);
	if (rc == 0)
		rc = db_exec(db, bump);
	if (rc == 0)
		rc = db_exec(db, "COMMIT");
	if (rc == 0)
		return 0;
	fail(error, rc, "%s cannot be prepared: %s", path, sqlite3_errmsg(db->sqlite));
	db_undo(db);
	return rc;
}

static int migrate(struct db *db, const char *path, const char *const *migrations, int n,
	char **error)
{
	char text[32] = "";
	int rc = first_value(db, "PRAGMA user_version", text, sizeof text);
	const long version = strtol(text, NULL, 10);

	if (rc < 0)
		return fail(error, rc, "%s is not a usable database: %s", path,
			sqlite3_errmsg(db->sqlite));
	if (version < 0 || version > n)
		return fail(error, -EINVAL, "%s was made by a newer version of this program", path);
	for (int i = (int)version; rc == 0 && i < n; i++)
		rc = migrate_one(db, path, migrations[i], i + 1, error);
	db->version = n;
	return rc;
}

static int create_private(const char *path, char **error)
{
	const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return fail(error, -errno, "%s cannot be opened: %s", path, strerror(errno));
	/* One that was there before may be open to others; its -wal and -shm take its mode. */
	const int rc = fchmod(fd, 0600) < 0 ? -errno : 0;
	close(fd);
	return rc < 0 ? fail(error, rc, "%s cannot be made private: %s", path, strerror(-rc)) : 0;
}

static int open_sqlite(struct db *db, const char *path, char **error)
{
	const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	const int code = sqlite3_open_v2(path, &db->sqlite, flags, NULL);
	char mode[16] = "";

	if (code != SQLITE_OK)
		return fail(error, -EIO, "%s cannot be opened: %s", path,
			db->sqlite ? sqlite3_errmsg(db->sqlite) : "out of memory");
	sqlite3_busy_timeout(db->sqlite, 5000);
	int rc = first_value(db, "PRAGMA journal_mode = WAL", mode, sizeof mode);
	if (rc == 0 && strcmp(mode, "wal") != 0)
		return fail(error, -EIO, "%s: this file system cannot hold a database (no WAL); "
			"choose a directory on a local disk", path);
	if (rc == 0)
		rc = db_exec(db, "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
			      "PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY");
	return rc < 0 ? fail(error, rc, "%s is not a usable database: %s", path,
				sqlite3_errmsg(db->sqlite))
		      : 0;
}

static struct db *db_new(bool reader)
{
	struct db *db = xcalloc(1, sizeof *db);
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&db->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&db->sync_lock, NULL);
	pthread_cond_init(&db->sync_over, NULL);
	db->wal = -1;
	db->reader = reader;
	return db;
}

struct db *db_open(const char *path, const char *const *migrations, int n, char **error)
{
	struct db *db;

	if (create_private(path, error) < 0)
		return NULL;
	db = db_new(false);
	db->wal_path = xasprintf("%s-wal", path);
	if (open_sqlite(db, path, error) < 0 || migrate(db, path, migrations, n, error) < 0) {
		db_close(db);
		return NULL;
	}
	return db;
}

/* A read-only open cannot use a WAL whose index it may not write; query_only keeps this one from
 * changing anything else. */
struct db *db_open_reader(const char *path, char **error)
{
	struct db *db = db_new(true);

	if (open_sqlite(db, path, error) < 0 ||
		db_exec(db, "PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0") < 0) {
		fail(error, -EIO, "%s cannot be read", path);
		db_close(db);
		return NULL;
	}
	return db;
}

void db_close(struct db *db)
{
	if (!db)
		return;
	for (size_t i = 0; i < DB_SLOTS; i++)
		sqlite3_finalize(db->cache[i].stmt);
	if (db->sqlite && !db->reader)
		sqlite3_wal_checkpoint_v2(db->sqlite, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	sqlite3_close(db->sqlite);
	if (db->wal >= 0)
		close(db->wal);
	free(db->wal_path);
	pthread_cond_destroy(&db->sync_over);
	pthread_mutex_destroy(&db->sync_lock);
	pthread_mutex_destroy(&db->lock);
	free(db);
}

/*
 * db_sync() and the syncs that fail. After one that did, the pages before it may be lost although the
 * kernel says of the next that all is well: what was committed has to go another way.
 */
#include "db/internal.h"
#include "test.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *const schema[] = {"CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT) STRICT;"};
static char dir[64], path[96], wal[128];
static struct db *db;

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/db-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/t.db", dir);
	snprintf(wal, sizeof wal, "%s-wal", path);
	db = db_open(path, schema, 1, NULL);
	return db ? 0 : -1;
}

static int teardown(void **state)
{
	CLEANUP_FREE char *command = xasprintf("rm -rf '%s'", dir);

	(void)state;
	db_close(db);
	return system(command);
}

static void add(const char *text)
{
	assert_int_equal(db_run(db, "INSERT INTO t(text) VALUES(?)", "s", text), 1);
}

static off_t size_of_wal(void)
{
	struct stat st;

	return stat(wal, &st) < 0 ? -1 : st.st_size;
}

/* Of a pipe nothing can be synced: fdatasync(2) says EINVAL. */
static void break_the_disk(void)
{
	int ends[2];

	assert_int_equal(db_sync(db), 0); /* it has its descriptor */
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_true(dup3(ends[0], db->wal, O_CLOEXEC) >= 0);
	close(ends[0]);
	close(ends[1]);
}

static void mend_the_disk(void)
{
	close(db->wal);
	db->wal = -1;
}

/* What the database file has by itself, as after a power loss that took the WAL. */
static int64_t rows_without_the_wal(void)
{
	CLEANUP_FREE char *copy = xasprintf("cp '%s' '%s.copy'", path, path);
	CLEANUP_FREE char *name = xasprintf("%s.copy", path);
	int64_t n = -1;

	assert_int_equal(system(copy), 0);
	struct db *other = db_open(name, schema, 1, NULL);
	assert_non_null(other);
	db_get_int(other, &n, "SELECT count(*) FROM t", "");
	db_close(other);
	return n;
}

static void a_sync_that_failed_is_told_and_not_forgotten(void **state)
{
	(void)state;
	add("a");
	assert_int_equal(db_sync(db), 0);
	assert_true(size_of_wal() > 0 && !db->failed);
	add("b");
	break_the_disk();
	add("c");
	assert_int_equal(db_sync(db), -EIO);
	assert_true(db->failed);
	const uint64_t done = db->syncs_done;

	/* The disk is well again; that the next sync of the WAL succeeds would prove nothing. */
	mend_the_disk();
	add("d");
	assert_int_equal(db_sync(db), 0);
	assert_true(!db->failed && db->syncs_done > done);
	assert_int_equal(size_of_wal(), 0);
	assert_int_equal(rows_without_the_wal(), 4);

	/* And from then on as before. */
	add("e");
	assert_int_equal(db_sync(db), 0);
	assert_true(size_of_wal() > 0);
	assert_int_equal(rows_without_the_wal(), 4);
}

/* Somebody reads, so that the WAL cannot be emptied: it stays failed until it can. */
static void what_cannot_be_emptied_stays_failed(void **state)
{
	(void)state;
	add("a");
	break_the_disk();
	assert_int_equal(db_sync(db), -EIO);
	mend_the_disk();

	struct db *reader = db_open_reader(path, NULL);
	assert_non_null(reader);
	struct db_rows *rows = db_query(reader, "SELECT id FROM t", "");
	assert_true(db_next(rows));
	sqlite3_busy_timeout(db->sqlite, 1);
	add("b");
	assert_int_equal(db_sync(db), -EIO);
	assert_int_equal(db_sync(db), -EIO);
	assert_true(db->failed);
	assert_int_equal(db_done(rows), 0);
	db_close(reader);
	assert_int_equal(db_sync(db), 0);
	assert_false(db->failed);
	assert_int_equal(rows_without_the_wal(), 2);
}

/* Everybody who waits for one that fails hears of it, or makes one of his own that does not. */
struct caller {
	pthread_t thread;
	int rc;
};

static void *sync_once(void *arg)
{
	struct caller *c = arg;

	c->rc = db_sync(db);
	return NULL;
}

static void nobody_is_told_that_a_failed_one_went_well(void **state)
{
	struct caller callers[8] = {0};
	int failed = 0;

	(void)state;
	add("a");
	break_the_disk();
	/* None of them can empty the WAL. */
	struct db *reader = db_open_reader(path, NULL);
	struct db_rows *rows = db_query(reader, "SELECT id FROM t", "");
	assert_true(db_next(rows));
	add("b");
	sqlite3_busy_timeout(db->sqlite, 1);
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++)
		assert_int_equal(pthread_create(&callers[i].thread, NULL, sync_once, &callers[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		failed += callers[i].rc == -EIO;
	}
	print_message("%d of %zu syncs failed\n", failed, ARRAY_SIZE(callers));
	assert_int_equal(failed, (int)ARRAY_SIZE(callers));
	db_done(rows);
	db_close(reader);
	mend_the_disk();
	assert_int_equal(db_sync(db), 0);
	assert_int_equal(rows_without_the_wal(), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_sync_that_failed_is_told_and_not_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_emptied_stays_failed, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_is_told_that_a_failed_one_went_well, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a close(2) promised, after a power loss and after a kill. A power loss is told by another boot
 * id, and made by taking the spool's bytes away. */
#include "base/buf.h"
#include "catalogue/file.h"
#include "catalogue/internal.h"
#include "catalogue_rig.h"
#include <fcntl.h>
#include <stdio.h>

static struct file *write_prompt(const char *name, const char *text)
{
	struct node n;
	struct file *f;

	if (tree_lookup(cat, TREE_ROOT, name, &n) < 0)
		assert_int_equal(
			tree_create(cat, TREE_ROOT, name, S_IFREG | 0644, 1, 1, NULL, &n), 0);
	assert_int_equal(file_open(cat, n.id, O_WRONLY, &f), 0);
	assert_int_equal(file_write_begin(f), 0);
	assert_int_equal(pwrite(file_fd(f), text, strlen(text), 0), (int)strlen(text));
	file_write_end(f, 0);
	return f;
}

static int64_t save(const char *name, const char *text)
{
	struct file_closed closed;
	struct file *f = write_prompt(name, text);
	const int64_t id = file_node(f);

	file_flush(f, false);
	file_close(f, &closed);
	return id;
}

static void spool_is(int64_t id, const char *text)
{
	struct buf b;

	buf_init(&b, 1024 * 1024);
	assert_int_equal(file_content(cat, id, &b), 0);
	assert_string_equal(b.data ? b.data : "", text);
	buf_release(&b);
}

static void spool_set(int64_t id, const char *text)
{
	char path[128];

	snprintf(path, sizeof path, "%s/spool/%lld", dir, (long long)id);
	if (!text) {
		assert_int_equal(unlink(path), 0);
		return;
	}
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void start_again(bool power_lost)
{
	char path[128];

	catalogue_close(cat);
	snprintf(path, sizeof path, "%s/catalogue.db", dir);
	struct db *db = db_open(path, schema_migrations, schema_count, NULL);
	assert_non_null(db);
	db_run(db, "UPDATE setting SET value = '1' WHERE name = 'open'", "");
	if (power_lost)
		db_run(db, "UPDATE setting SET value = 'another' WHERE name = 'boot'", "");
	db_close(db);
	cat = catalogue_open(dir, NULL, NULL);
	assert_non_null(cat);
}

static int64_t promises(void)
{
	int64_t n = -1;

	assert_int_equal(db_get_int(cat->db, &n, "SELECT count(*) FROM promise", ""), 1);
	return n;
}

static void a_power_loss_takes_nothing_that_was_closed(void **state)
{
	struct node before, after;

	(void)state;
	const int64_t gone = save("gone.prompt", "a cat\n"), empty = save("empty.prompt", "a dog\n");
	const int64_t half = save("half.prompt", "a long story\n"), whole = save("whole.prompt", "x\n");
	tree_get(cat, empty, &before);
	assert_int_equal(promises(), 4);
	spool_set(gone, NULL);
	spool_set(empty, "");
	spool_set(half, "a long");
	start_again(true);
	spool_is(gone, "a cat\n");
	spool_is(empty, "a dog\n");
	spool_is(half, "a long story\n");
	spool_is(whole, "x\n");
	tree_get(cat, empty, &after);
	assert_int_equal(before.st.st_mtim.tv_sec, after.st.st_mtim.tv_sec);
	assert_int_equal(before.st.st_mtim.tv_nsec, after.st.st_mtim.tv_nsec);
	assert_int_equal(after.pending, PENDING_CLOSED);
	/* What has come from the disk needs none; what was written just now may be lost again. */
	assert_int_equal(promises(), 3);
	spool_set(gone, "");
	start_again(true);
	spool_is(gone, "a cat\n");
}

static void a_kill_takes_nothing_that_was_written_since(void **state)
{
	(void)state;
	const int64_t id = save("on.prompt", "one\n");
	/* As a writer that was killed with the program behind its flush. */
	spool_set(id, "one\ntwo\n");
	start_again(false);
	spool_is(id, "one\ntwo\n");
	/* The promise is no longer true, and must not come back. */
	start_again(true);
	spool_is(id, "one\ntwo\n");
}

static void what_is_written_again_is_not_put_back(void **state)
{
	struct file_closed closed;
	struct tree_renamed moved;

	(void)state;
	const int64_t id = save("a.prompt", "first\n");
	const int64_t before = promises();
	assert_int_equal(tree_rename(cat, TREE_ROOT, "a.prompt", TREE_ROOT, "a.txt", 0, &moved), 0);
	struct file *f = write_prompt("a.txt", "second\n");
	assert_int_equal(promises(), before - 1);
	assert_int_equal(file_flush(f, false), 0);
	file_close(f, &closed);
	start_again(true);
	spool_is(id, "second\n");
}

static void what_is_removed_or_too_large_has_no_promise(void **state)
{
	static char large[PROMISE_MAX + 2];
	struct node n;

	(void)state;
	const int64_t before = promises();
	save("b.prompt", "x\n");
	assert_int_equal(promises(), before + 1);
	assert_int_equal(tree_unlink(cat, TREE_ROOT, "b.prompt", &n), 0);
	assert_int_equal(promises(), before);
	memset(large, 'x', sizeof large - 1);
	save("large.prompt", large);
	assert_int_equal(promises(), before);
	/* Truncated by its path: a change like any other. */
	const int64_t id = save("t.prompt", "whole\n");
	const struct stat size = {.st_size = 2};
	assert_int_equal(tree_setattr(cat, id, &size, TREE_SET_SIZE, NULL), 0);
	assert_int_equal(promises(), before);
}

static bool spool_has(int64_t id)
{
	char path[128];

	snprintf(path, sizeof path, "%s/spool/%lld", dir, (long long)id);
	return access(path, F_OK) == 0;
}

static void set_strays(int n)
{
	for (int64_t id = 1001; id <= 1000 + n; id++)
		spool_set(id, "of a file that was removed");
}

static int strays(int n)
{
	int left = 0;

	for (int64_t id = 1001; id <= 1000 + n; id++)
		left += spool_has(id);
	return left;
}

static void files_without_a_row_go_in_pieces(void **state)
{
	enum { STRAYS = 5 };

	(void)state;
	const int64_t id = save("kept.prompt", "kept\n");
	set_strays(STRAYS);
	start_again(false);
	assert_true(catalogue_tidy(cat, 60 * 1000)); /* should the start have had no time */
	assert_int_equal(strays(STRAYS), 0);

	/* As if it had none: one entry a call, the dots' among them. */
	set_strays(STRAYS);
	cat->untidy = fdopendir(openat(cat->spool, ".", O_RDONLY | O_DIRECTORY));
	int calls = 0, gone = 0;
	while (!catalogue_tidy(cat, 0)) {
		const int now = STRAYS - strays(STRAYS);

		assert_in_range(now - gone, 0, 1);
		gone = now;
		calls++;
	}
	assert_int_equal(strays(STRAYS), 0);
	assert_true(calls > STRAYS);

	spool_is(id, "kept\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_power_loss_takes_nothing_that_was_closed),
		cmocka_unit_test(a_kill_takes_nothing_that_was_written_since),
		cmocka_unit_test(what_is_written_again_is_not_put_back),
		cmocka_unit_test(what_is_removed_or_too_large_has_no_promise),
		cmocka_unit_test(files_without_a_row_go_in_pieces),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

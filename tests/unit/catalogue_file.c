/* What writers leave: debts, failures, and content that a transaction must not lose. */
#include "catalogue/file.h"
#include "catalogue_rig.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

static int64_t create(const char *name)
{
	struct node n;

	assert_int_equal(tree_create(cat, TREE_ROOT, name, S_IFREG | 0644, 1, 1, NULL, &n), 0);
	return n.id;
}

static struct file *open_for_writing(int64_t id)
{
	struct file *f;

	assert_int_equal(file_open(cat, id, O_WRONLY, &f), 0);
	return f;
}

static void write_text(struct file *f, const char *text)
{
	const ssize_t len = (ssize_t)strlen(text);

	assert_int_equal(file_write_begin(f), 0);
	assert_int_equal(pwrite(file_fd(f), text, (size_t)len, 0), len);
	file_write_end(f, 0);
}

static struct file_closed close_file(struct file *f)
{
	struct file_closed closed;

	file_close(f, &closed);
	return closed;
}

static int64_t make(const char *name, const char *text)
{
	const int64_t id = create(name);
	struct file *f = open_for_writing(id);

	write_text(f, text);
	assert_in_range(file_flush(f, false), 0, 1);
	close_file(f);
	return id;
}

static enum pending pending_of(int64_t id)
{
	struct node n;

	assert_int_equal(tree_get(cat, id, &n), 0);
	return n.pending;
}

static void who_only_looks_in_leaves_it_due(void **state)
{
	const int64_t id = make("look.prompt", "x");
	struct file *f = open_for_writing(id);

	(void)state;
	assert_int_equal(pending_of(id), PENDING_CLOSED);
	assert_int_equal(file_flush(f, false), 0);
	assert_true(close_file(f).due);
	assert_int_equal(pending_of(id), PENDING_CLOSED);
}

static void a_rename_under_a_writer_waits_for_its_close(void **state)
{
	const int64_t id = make("half.part", "half");
	struct file *f = open_for_writing(id);
	struct tree_renamed r;

	(void)state;
	assert_int_equal(
		tree_rename(cat, TREE_ROOT, "half.part", TREE_ROOT, "half.prompt", 0, &r), 0);
	assert_false(r.due);
	assert_int_equal(pending_of(id), PENDING_WRITTEN); /* a crash now sends no half */
	assert_true(close_file(f).due);
	assert_int_equal(pending_of(id), PENDING_CLOSED);
}

static void a_failure_that_was_told_is_no_commit(void **state)
{
	const int64_t id = create("full.prompt");
	struct file *f = open_for_writing(id);
	struct file_closed closed;
	char *text = NULL;
	int err;

	(void)state;
	write_text(f, "begin");
	assert_int_equal(file_write_begin(f), 0);
	file_write_end(f, -ENOSPC);
	assert_int_equal(file_flush(f, false), -ENOSPC);
	assert_int_equal(file_flush(f, false), -ENOSPC); /* also to whoever closes next */
	closed = close_file(f);
	assert_true(closed.draft);
	assert_false(closed.due);
	assert_int_equal(pending_of(id), PENDING_NONE);
	assert_int_equal(tree_draft_get(cat, id, &err, &text, NULL), 0);
	assert_int_equal(err, ENOSPC);
	free(text);

	/* Written anew it is as good as any. */
	f = open_for_writing(id);
	file_write_end(f, -ENOSPC);
	assert_int_equal(file_truncate(f), 0);
	write_text(f, "whole");
	assert_int_equal(file_flush(f, false), 1);
	assert_true(close_file(f).due);
}

static void every_writer_waits_for_what_is_not_durable(void **state)
{
	const int64_t id = create("two.prompt");
	struct file *a = open_for_writing(id), *b = open_for_writing(id);

	(void)state;
	write_text(a, "a");
	assert_int_equal(file_flush(b, false), 1); /* a's change is b's to keep as well */
	assert_int_equal(file_flush(a, false), 0);
	write_text(b, "b");
	assert_int_equal(file_flush(b, false), 1);
	assert_false(close_file(a).due);
	assert_true(close_file(b).due);
}

/* No byte can be written to any file. */
static void disk_is_full(bool full)
{
	const struct rlimit limit = {full ? 0 : RLIM_INFINITY, RLIM_INFINITY};

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_close_that_cannot_be_noted_is_noted_later(void **state)
{
	const int64_t id = create("later.prompt");
	struct file *f = open_for_writing(id);
	struct file_closed closed;

	(void)state;
	write_text(f, "x");
	assert_int_equal(file_flush(f, false), 1);
	disk_is_full(true);
	closed = close_file(f);
	assert_true(closed.due);
	assert_int_equal(pending_of(id), PENDING_WRITTEN);
	assert_true(file_settle(cat, id, &closed) < 0);
	disk_is_full(false);
	assert_int_equal(file_settle(cat, id, &closed), 0);
	assert_true(closed.due);
	assert_int_equal(pending_of(id), PENDING_CLOSED);
	assert_int_equal(file_settle(cat, id, &closed), 0);
	assert_false(closed.due);
	assert_false(file_is_changing(cat, id));
}

static bool holds(int64_t id, const char *text)
{
	struct buf content;

	buf_init(&content, 1024);
	const int rc = file_content(cat, id, &content);
	const bool same = rc == 0 && strcmp(content.data, text) == 0;
	buf_release(&content);
	return same;
}

static void what_was_not_replaced_keeps_its_content(void **state)
{
	const int64_t old = make("old.prompt", "old"), kept = make("kept.prompt", "kept");
	const int64_t new = make("new.tmp", "new");
	struct tree_renamed r;
	struct file *f;
	char path[64];

	(void)state;
	/* The new content cannot be made durable: its spool file is a folder. */
	snprintf(path, sizeof path, "%s/spool/%lld", dir, (long long)new);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(file_open(cat, kept, O_RDONLY, &f), 0);
	assert_true(tree_rename(cat, TREE_ROOT, "new.tmp", TREE_ROOT, "old.prompt", 0, &r) < 0);
	assert_true(tree_rename(cat, TREE_ROOT, "new.tmp", TREE_ROOT, "kept.prompt", 0, &r) < 0);
	close_file(f);
	assert_true(holds(old, "old"));
	assert_true(holds(kept, "kept"));

	assert_int_equal(rmdir(path), 0);
	disk_is_full(true);
	assert_true(tree_unlink(cat, TREE_ROOT, "old.prompt", NULL) < 0);
	disk_is_full(false);
	assert_true(holds(old, "old"));
	assert_int_equal(tree_unlink(cat, TREE_ROOT, "old.prompt", NULL), 0);
	snprintf(path, sizeof path, "%s/spool/%lld", dir, (long long)old);
	assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_only_looks_in_leaves_it_due),
		cmocka_unit_test(a_rename_under_a_writer_waits_for_its_close),
		cmocka_unit_test(a_failure_that_was_told_is_no_commit),
		cmocka_unit_test(every_writer_waits_for_what_is_not_durable),
		cmocka_unit_test(a_close_that_cannot_be_noted_is_noted_later),
		cmocka_unit_test(what_was_not_replaced_keeps_its_content),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

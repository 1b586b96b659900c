#include "catalogue/derived.h"
#include "catalogue/file.h"
#include "catalogue/internal.h"
#include "catalogue_rig.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static int64_t make(const char *name, const char *text, struct file_closed *closed)
{
	struct node n;
	struct file *f;

	assert_int_equal(tree_create(cat, TREE_ROOT, name, S_IFREG | 0644, 1, 1, NULL, &n), 0);
	assert_int_equal(file_open(cat, n.id, O_WRONLY, &f), 0);
	assert_int_equal(file_flush(f, false), 0); /* the FLUSH before any write */
	assert_int_equal(file_write_begin(f), 0);
	assert_int_equal(pwrite(file_fd(f), text, strlen(text), 0), (int)strlen(text));
	file_write_end(f, 0);
	file_flush(f, false);
	file_close(f, closed);
	return n.id;
}

static enum pending pending_of(int64_t id)
{
	struct node n;

	assert_int_equal(tree_get(cat, id, &n), 0);
	return n.pending;
}

static void one_process_at_a_time(void **state)
{
	bool busy = false;
	char *error = NULL;

	(void)state;
	assert_null(catalogue_open(dir, &busy, &error));
	assert_true(busy);
	assert_non_null(strstr(error, "in use by process"));
	free(error);
}

static void closing_makes_a_prompt_due(void **state)
{
	struct file_closed closed;
	struct tree_renamed r;
	struct file *f;

	(void)state;
	const int64_t a = make("a.prompt", "x", &closed);
	assert_true(closed.due);
	assert_int_equal(pending_of(a), PENDING_CLOSED);
	const int64_t b = make("b.txt", "x", &closed);
	assert_false(closed.due);
	assert_int_equal(pending_of(b), PENDING_NONE);
	assert_int_equal(tree_rename(cat, TREE_ROOT, "b.txt", TREE_ROOT, "b.prompt", 0, &r), 0);
	assert_true(r.due);
	assert_int_equal(pending_of(b), PENDING_CLOSED);
	assert_int_equal(tree_rename(cat, TREE_ROOT, "b.prompt", TREE_ROOT, "c.prompt", 0, &r), 0);
	assert_false(r.due);

	/* Being written again: a crash now must not submit half of it. */
	assert_int_equal(file_open(cat, a, O_WRONLY, &f), 0);
	assert_true(file_has_writer(cat, a));
	assert_int_equal(pending_of(a), PENDING_CLOSED);
	assert_int_equal(file_write_begin(f), 0);
	assert_int_equal(pending_of(a), PENDING_WRITTEN);
	file_write_end(f, 0);
	assert_int_equal(file_flush(f, true), 1);
	file_close(f, &closed);
	assert_true(closed.draft);
	assert_false(closed.due);
}

static struct request new_request(int64_t node, const char *key)
{
	struct request r = {.node = node, .path = (char *)"requests/a.prompt", .price_low = 8,
		.price_high = 8, .charged = -1, .balance_before = -1, .balance_after = -1};

	r.order = (struct order){.prompt = (char *)"x", .n = 2};
	snprintf(r.key, sizeof r.key, "%s", key);
	return r;
}

static void a_moved_request_is_not_moved_again(void **state)
{
	struct file_closed closed;
	const int64_t node = make("r.prompt", "x", &closed);
	struct request r = new_request(node, "k1"), seen;

	(void)state;
	assert_int_equal(request_insert(cat, &r, NULL, 0, "queued"), 0);
	assert_int_equal(pending_of(node), PENDING_NONE);
	r.state = REQUEST_SENDING;
	r.sent_ms = 1;
	assert_int_equal(request_change(cat, &r, REQUEST_QUEUED, DB_FULL, "sending"), 0);
	assert_int_equal(request_change(cat, &r, REQUEST_QUEUED, DB_FULL, "sending"), -ESTALE);
	assert_int_equal(request_get(cat, r.id, &seen), 0);
	assert_int_equal(seen.state, REQUEST_SENDING);
	assert_int_equal(seen.order.n, 2);
	request_release(&seen);
}

static void unsettled_charges_count_in_full(void **state)
{
	(void)state;
	assert_int_equal(request_spent_since(cat, 0), 0);
	assert_int_equal(request_charge_open(cat, 1, 12), 0);
	assert_int_equal(request_spent_since(cat, 0), 12);
	assert_int_equal(request_charge_settle(cat, 1, 8), 0);
	assert_int_equal(request_charge_settle(cat, 1, 0), 0); /* settled once */
	assert_int_equal(request_spent_since(cat, 0), 8);
}

/* The day's budget is asked for before every POST: not by reading all of them. */
static void the_sum_of_charges_is_kept(void **state)
{
	int64_t rows = 0, all = 0;

	(void)state;
	for (int64_t k = 1; k <= 600; k++) {
		assert_int_equal(request_charge_open(cat, k % 200, 12), 0);
		if (k % 3 == 0)
			assert_int_equal(request_charge_settle(cat, k % 200, k % 13), 0);
		if (k % 7 == 0)
			assert_int_equal(request_charge_merge(cat, k % 200), 0);
	}
	catalogue_begin(cat, DB_NORMAL);
	assert_int_equal(request_charge_open(cat, 1, 1000), 0);
	catalogue_end(cat, -EIO);
	db_get_int(cat->db, &all, "SELECT sum(credits) FROM charge", "");
	db_get_int(cat->db, &rows, "SELECT count(*) FROM charge_sum", "");
	assert_int_equal(request_spent_since(cat, 0), all);
	assert_true(all > 600 && rows <= 2);
	assert_int_equal(request_spent_since(cat, INT64_MAX), 0);
}

static void paths_stay_inside(void **state)
{
	struct node n, d;

	(void)state;
	assert_int_equal(tree_create(cat, TREE_ROOT, "d", S_IFDIR | 0755, 1, 1, NULL, &d), 0);
	assert_int_equal(tree_create(cat, d.id, "l", S_IFLNK | 0777, 1, 1, "../d/l", &n), 0);
	assert_int_equal(tree_resolve(cat, d.id, "../d", &n), 0);
	assert_int_equal(tree_resolve(cat, d.id, "../../x", &n), -EXDEV);
	assert_int_equal(tree_resolve(cat, d.id, "/etc/passwd", &n), -EXDEV);
	assert_int_equal(tree_resolve(cat, d.id, "l", &n), -ELOOP);
	assert_int_equal(tree_resolve(cat, 0, "requests/d", &n), 0);
	assert_int_equal(tree_resolve(cat, 0, "credits", &n), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_process_at_a_time),
		cmocka_unit_test(closing_makes_a_prompt_due),
		cmocka_unit_test(a_moved_request_is_not_moved_again),
		cmocka_unit_test(unsettled_charges_count_in_full),
		cmocka_unit_test(the_sum_of_charges_is_kept),
		cmocka_unit_test(paths_stay_inside),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

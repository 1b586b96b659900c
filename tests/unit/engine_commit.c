/*
 * The commit of a file that is moved just then: between its reading and the transaction that queues it.
 */
#include "engine_rig.h"
#include "catalogue/file.h"
#include <fcntl.h>

static struct rig r;
static int64_t node, folder;

static void save(const char *text)
{
	struct file_closed closed;
	struct file *f;

	assert_int_equal(file_open(r.cat, node, O_WRONLY, &f), 0);
	assert_int_equal(file_truncate(f), 0);
	assert_int_equal(file_write_begin(f), 0);
	assert_int_equal(pwrite(file_fd(f), text, strlen(text), 0), (int)strlen(text));
	file_write_end(f, 0);
	assert_int_equal(file_flush(f, false), 1);
	file_close(f, &closed);
	assert_true(closed.due);
}

static int64_t requests(void)
{
	int64_t n = -1;

	db_get_int(r.cat->db, &n, "SELECT count(*) FROM request WHERE state = 'held'", "");
	return n;
}

static int moves;

/* The request of the text before is withdrawn inside of the commit: the moment that is wanted. */
static void move_meanwhile(struct rig *rig, const struct engine_event *event)
{
	struct tree_renamed renamed;

	if (event->what != CHANGE_REQUEST || event->request == 0 || moves > 0 ||
		rig_state(rig, event->request) != REQUEST_CANCELED)
		return;
	moves++;
	assert_int_equal(tree_rename(rig->cat, TREE_ROOT, "p.prompt", folder, "q.prompt", 0, &renamed), 0);
	assert_false(renamed.due); /* it had a prompt's name before */
}

static void moved_while_it_is_committed(void **state)
{
	struct node n, d;
	struct request q;

	(void)state;
	rig_open(&r);
	assert_int_equal(catalogue_set(r.cat, "paused", "1"), 0); /* nothing is sent */
	assert_int_equal(tree_create(r.cat, TREE_ROOT, "d", S_IFDIR | 0755, 1, 1, NULL, &d), 0);
	assert_int_equal(tree_create(r.cat, TREE_ROOT, "p.prompt", S_IFREG | 0644, 1, 1, NULL, &n), 0);
	node = n.id;
	folder = d.id;
	assert_int_equal(engine_start(r.e), 0);
	save("a cat");
	engine_settle(r.e, node);
	rig_wait(&r, requests() == 1);

	r.changed = move_meanwhile;
	save("a dog");
	engine_settle(r.e, node);
	rig_wait(&r, moves == 1 && requests() == 1);
	engine_stop(r.e, 0);
	r.changed = NULL;
	assert_int_equal(tree_get(r.cat, node, &n), 0);
	assert_int_equal(n.pending, PENDING_NONE);
	assert_int_equal(request_get(r.cat, n.request, &q), 0);
	assert_string_equal(q.order.prompt, "a dog");
	assert_string_equal(q.path, "requests/d/q.prompt");
	request_release(&q);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moved_while_it_is_committed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

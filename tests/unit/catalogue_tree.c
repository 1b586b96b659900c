#include "catalogue/file.h"
#include "catalogue_rig.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

static int64_t make(int64_t parent, const char *name, mode_t mode)
{
	struct node n;

	assert_int_equal(tree_create(cat, parent, name, mode, 1, 1, S_ISLNK(mode) ? "x" : NULL, &n), 0);
	return n.id;
}

static int64_t found(const char *name)
{
	struct node n;

	assert_int_equal(tree_lookup(cat, TREE_ROOT, name, &n), 0);
	return n.id;
}

static void an_exchange_needs_no_name_of_its_own(void **state)
{
	const int64_t a = make(TREE_ROOT, "a", S_IFREG | 0644);
	const int64_t b = make(TREE_ROOT, "b", S_IFDIR | 0755);
	const int64_t own = make(TREE_ROOT, "\001exchange", S_IFREG | 0644);
	struct tree_renamed r;

	(void)state;
	assert_int_equal(
		tree_rename(cat, TREE_ROOT, "a", TREE_ROOT, "b", RENAME_EXCHANGE, &r), 0);
	assert_int_equal(found("a"), b);
	assert_int_equal(found("b"), a);
	assert_int_equal(found("\001exchange"), own);
}

static void depth_has_no_limit(void **state)
{
	enum { DEPTH = 3000 };
	int64_t at = TREE_ROOT, top = 0;
	struct tree_renamed r;

	(void)state;
	for (int i = 0; i < DEPTH; i++) {
		at = make(at, "deep", S_IFDIR | 0755);
		top = top ? top : at;
	}
	char *path = tree_path(cat, make(at, "x.prompt", S_IFREG | 0644));
	assert_non_null(path);
	assert_int_equal(strlen(path), strlen("requests") + DEPTH * strlen("/deep") + strlen("/x.prompt"));
	assert_memory_equal(path, "requests/deep/deep", 18);
	free(path);
	path = tree_path(cat, TREE_ROOT);
	assert_string_equal(path, "requests");
	free(path);
	/* Its own subtree, however far below. */
	assert_int_equal(tree_rename(cat, TREE_ROOT, "deep", at, "x", 0, &r), -EINVAL);
	assert_int_equal(tree_rename(cat, TREE_ROOT, "deep", top, "x", 0, &r), -EINVAL);
	assert_int_equal(tree_rename(cat, TREE_ROOT, "deep", TREE_ROOT, "deeper", 0, &r), 0);
	assert_null(tree_path(cat, 1 << 30));
}

static double time_of_gets(int64_t id)
{
	struct timespec from, to;
	struct node n;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
	for (int i = 0; i < 300; i++)
		assert_int_equal(tree_get(cat, id, &n), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
	return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
}

static void a_folder_of_many_names_is_no_slower(void **state)
{
	const int64_t full = make(TREE_ROOT, "full", S_IFDIR | 0755);
	const int64_t empty = make(TREE_ROOT, "empty", S_IFDIR | 0755);
	char name[16];
	struct node n;

	(void)state;
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof name, "%d", i);
		make(full, name, S_IFLNK | 0777);
	}
	make(full, "sub", S_IFDIR | 0755);
	assert_int_equal(tree_get(cat, full, &n), 0);
	assert_int_equal(n.st.st_nlink, 3);
	const double ratio = time_of_gets(full) / time_of_gets(empty);
	print_message("stat of a folder of 5000 names costs %.1f times that of an empty one\n", ratio);
	assert_true(ratio < 20);
}

static void the_list_of_attributes_has_an_end(void **state)
{
	const int64_t id = make(TREE_ROOT, "attributes", S_IFREG | 0644);
	char name[256], *names;
	size_t len;
	int rc = 0, n = 0;

	(void)state;
	for (; rc == 0 && n < 1000; n++) {
		snprintf(name, sizeof name, "user.%0245d", n);
		rc = tree_xattr_set(cat, id, name, "", 0, 0);
	}
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(tree_xattr_list(cat, id, &names, &len), 0);
	assert_int_equal(len, (n - 1) * 251);
	free(names);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_exchange_needs_no_name_of_its_own),
		cmocka_unit_test(depth_has_no_limit),
		cmocka_unit_test(a_folder_of_many_names_is_no_slower),
		cmocka_unit_test(the_list_of_attributes_has_an_end),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

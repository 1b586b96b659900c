/*
 * Names that are looked up beside prompts, and paths that are followed inside /requests, a line each.
 */
#include "catalogue/internal.h"
#include "state.h"

enum { LISTED_MAX = 32 };

static struct listed {
	char *name;
	struct derived d;
} listed[LISTED_MAX];
static size_t n_listed;

static bool list_one(void *arg, const char *name, const struct derived *d)
{
	(void)arg;
	HOLDS(n_listed < LISTED_MAX);
	for (size_t i = 0; i < n_listed; i++)
		HOLDS(strcmp(listed[i].name, name) != 0);
	listed[n_listed++] = (struct listed){xstrdup(name), *d};
	return true;
}

static const struct listed *find_listed(const char *name)
{
	for (size_t i = 0; i < n_listed; i++)
		if (strcmp(listed[i].name, name) == 0)
			return &listed[i];
	return NULL;
}

/* What a look-up finds is what the listing shows, but for .wait, which is not listed. */
static void as_name(const char *name)
{
	const struct listed *l = find_listed(name);
	struct derived d;

	const int rc = derived_lookup(state_cat, TREE_ROOT, name, &d);
	HOLDS(rc == 0 || rc == -ENOENT || rc == -ENAMETOOLONG);
	if (rc == 0 && d.kind == DERIVED_WAIT)
		HOLDS(!l && names_has_suffix(name, ".wait"));
	else
		HOLDS((l != NULL) == (rc == 0));
	if (l)
		HOLDS(l->d.kind == d.kind && l->d.node == d.node && l->d.image == d.image);
	if (tree_check_name(name) == 0)
		HOLDS(*name && strlen(name) <= 255 && !strchr(name, '/') &&
			names_is_utf8(name, strlen(name)));
	fuzz_accepted += rc == 0;
}

/* A path that leads somewhere leads to what has a path of its own there, in /requests. */
static void as_path(const char *path)
{
	struct node n, again;
	const int rc = tree_resolve(state_cat, 0, path, &n);

	if (rc < 0) {
		HOLDS(rc == -ENOENT || rc == -ENOTDIR || rc == -EXDEV || rc == -ELOOP ||
			rc == -ENAMETOOLONG);
		return;
	}
	CLEANUP_FREE char *own = tree_path(state_cat, n.id);
	HOLDS(own && strncmp(own, "requests", 8) == 0);
	HOLDS(tree_resolve(state_cat, 0, own, &again) == 0 && again.id == n.id);
	fuzz_accepted++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *line;

	if (!state_cat) {
		state_open();
		HOLDS(derived_list(state_cat, TREE_ROOT, list_one, NULL) == 0 && n_listed > 0);
	}
	while ((line = fuzz_line(&data, &size)) != NULL) {
		as_name(line);
		as_path(line);
		free(line);
	}
	return 0;
}

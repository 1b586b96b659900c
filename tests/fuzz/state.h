/*
 * state.h - a catalogue in a folder of its own, with prompts in several states and links that lead up,
 * down, round and out, for targets that only look. The folder goes with the program.
 */
#ifndef FUZZ_STATE_H
#define FUZZ_STATE_H

#include "catalogue/derived.h"
#include "catalogue/tree.h"
#include "fuzz.h"
#include <errno.h>

static char state_dir[] = "/tmp/imagehubfs-fuzz-XXXXXX";
static struct catalogue *state_cat;

static inline void state_remove(void)
{
	CLEANUP_FREE char *command = xasprintf("rm -rf '%s'", state_dir);

	catalogue_close(state_cat);
	if (system(command) != 0)
		fprintf(stderr, "%s is left over\n", state_dir);
}

static inline int64_t state_node(int64_t parent, const char *name, mode_t mode, const char *target)
{
	struct node n;

	HOLDS(tree_create(state_cat, parent, name, mode, 1, 1, target, &n) == 0);
	return n.id;
}

/* A prompt with its latest request, and with listed pictures when it succeeded. */
static inline void state_request(int64_t parent, const char *name, enum request_state state, int n)
{
	struct request r = {.node = state_node(parent, name, S_IFREG | 0644, NULL),
		.path = (char *)name, .state = state, .price_low = 8, .price_high = 8,
		.charged = -1, .balance_before = -1, .balance_after = -1};
	CLEANUP_FREE char *hub_id = xasprintf("clx_%lld", (long long)r.node);

	r.order = (struct order){.prompt = (char *)"x", .n = n};
	snprintf(r.key, sizeof r.key, "key-%lld", (long long)r.node);
	if (state == REQUEST_SUCCEEDED) {
		struct generation g = {.hub_id = hub_id, .status = (char *)"succeeded",
			.phase = PHASE_SUCCEEDED};

		HOLDS(generation_insert(state_cat, &g) == 0);
		r.generation = g.id;
		for (int k = 1; k <= n; k++)
			HOLDS(image_put(state_cat, &(struct image){.generation = g.id, .number = k,
				.url = (char *)"https://x/y.png", .size = 5, .type = PICTURE_PNG,
				.listed_ms = 1}) == 0);
	}
	HOLDS(request_insert(state_cat, &r, NULL, 0, "as it is") == 0);
}

static inline void state_open(void)
{
	CLEANUP_FREE char *error = NULL;

	HOLDS(mkdtemp(state_dir));
	state_cat = catalogue_open(state_dir, NULL, &error);
	HOLDS(state_cat);
	atexit(state_remove);

	const int64_t shoot = state_node(TREE_ROOT, "shoot", S_IFDIR | 0755, NULL);
	state_request(TREE_ROOT, "cat.prompt", REQUEST_SUCCEEDED, 4);
	state_request(TREE_ROOT, "cat-2.prompt", REQUEST_SUCCEEDED, 1);
	state_request(shoot, "dog.prompt", REQUEST_SUCCEEDED, 1);
	state_node(shoot, "blank.prompt", S_IFREG | 0644, NULL);
	state_node(shoot, "up", S_IFLNK | 0777, "..");
	state_node(shoot, "out", S_IFLNK | 0777, "../..");
	state_node(shoot, "round", S_IFLNK | 0777, "up/shoot/round");
	state_node(shoot, "cat", S_IFLNK | 0777, "./../cat.prompt");
	state_node(shoot, "etc", S_IFLNK | 0777, "/etc");
}

#endif

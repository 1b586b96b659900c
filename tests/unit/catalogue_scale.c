/* Cost that must not grow with what is long done, counted in steps of full scans instead of time. */
#include "catalogue/generation.h"
#include "catalogue/request.h"
#include "catalogue/tree.h"
#include "catalogue_rig.h"
#include <errno.h>
#include <stdio.h>

enum { DONE = 2000, SMALL = 50 };

static void add_request(enum request_state state, int i)
{
	struct request r = {.node = i + 100, .path = (char *)"requests/x.prompt", .state = state};

	snprintf(r.key, sizeof r.key, "%032d", i);
	r.order.prompt = xstrdup("a cat");
	assert_int_equal(request_insert(cat, &r, NULL, 0, "queued"), 0);
	free(r.order.prompt);
}

static void add_generation(int i)
{
	struct generation g = {.hub_id = xasprintf("gen_%08d", i),
		.status = xstrdup("succeeded"),
		.phase = PHASE_SUCCEEDED,
		.credits = 8,
		.request_json = xstrdup("{}"),
		.response_json = xstrdup("{}")};
	struct image image = {
		.number = 1, .size = 1000, .type = PICTURE_PNG, .url = (char *)"http://x/1.png", .listed_ms = 1};

	assert_int_equal(generation_insert(cat, &g), 0);
	image.generation = g.id;
	assert_int_equal(image_put(cat, &image), 0);
	generation_release(&g);
}

static int setup_filled(void **state)
{
	if (setup(state) < 0)
		return -1;
	catalogue_begin(cat, DB_NORMAL);
	for (int i = 1; i <= DONE; i++) {
		add_request(i == DONE ? REQUEST_QUEUED : REQUEST_SUCCEEDED, i);
		add_generation(i);
	}
	return catalogue_end(cat, 0);
}

/* What the engine asks at its start and in each of its turns. */
static void the_queue_does_not_read_what_is_done(void **state)
{
	int64_t ids[8], counts[REQUEST_STATES];

	(void)state;
	const int64_t before = catalogue_scanned(cat);
	for (int s = 0; s < REQUEST_STATES; s++) {
		if (s == REQUEST_QUEUED)
			assert_int_equal(request_list(cat, REQUEST_QUEUED, INT64_MAX, 0, ids, 8), 1);
		else if (s == REQUEST_HELD || s == REQUEST_SENDING || s == REQUEST_RUNNING ||
			s == REQUEST_UNKNOWN)
			assert_int_equal(
				request_list(cat, (enum request_state)s, INT64_MAX, 0, ids, 8), 0);
	}
	assert_int_equal(request_next_due(cat), 0);
	assert_int_equal(request_counts(cat, counts), 0);
	assert_int_equal(counts[REQUEST_SUCCEEDED], DONE - 1);
	assert_int_equal(image_unlisted(cat, 0, ids, 8), 0);
	assert_int_equal(tree_pending(cat, 0, ids, 8), 0);
	assert_int_equal(request_unsent_of_node(cat, 101, 0, ids, 8), 0);
	assert_true(catalogue_scanned(cat) - before < SMALL);
}

static void one_of_many_is_found_without_reading_the_others(void **state)
{
	struct generation_entry g;
	struct generation_outline o;
	struct request_brief r;

	(void)state;
	const int64_t before = catalogue_scanned(cat);
	assert_int_equal(generation_entry_find(cat, "gen_00001234", &g), 0);
	assert_string_equal(g.hub_id, "gen_00001234");
	assert_int_equal(generation_entry_get(cat, g.id, &g), 0);
	assert_int_equal(generation_outline(cat, g.id, &o), 0);
	assert_true(o.has_response && !o.has_prompt);
	assert_int_equal(request_brief(cat, 7, &r), 0);
	assert_int_equal(r.state, REQUEST_SUCCEEDED);
	assert_int_equal(generation_entry_find(cat, "gen_99999999", &g), -ENOENT);
	assert_true(catalogue_scanned(cat) - before < SMALL);
}

static bool take_three(void *arg, const struct generation_entry *g)
{
	int *left = arg;

	assert_true(g->id > 1000);
	return --*left > 0;
}

static void a_listing_goes_on_where_it_stopped(void **state)
{
	int left = 3;

	(void)state;
	const int64_t before = catalogue_scanned(cat);
	assert_int_equal(generation_list(cat, 1000, take_three, &left), 0);
	assert_int_equal(left, 0);
	assert_true(catalogue_scanned(cat) - before < SMALL);
}

static void what_was_forgotten_is_not_asked_for(void **state)
{
	struct generation_entry g;

	(void)state;
	assert_int_equal(generation_entry_find(cat, "gen_00000500", &g), 0);
	assert_int_equal(generation_forget(cat, g.id), 0);
	assert_int_equal(generation_entry_find(cat, "gen_00000500", &g), -ESTALE);
	assert_int_equal(generation_entry_get(cat, g.id, &g), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_queue_does_not_read_what_is_done),
		cmocka_unit_test(one_of_many_is_found_without_reading_the_others),
		cmocka_unit_test(a_listing_goes_on_where_it_stopped),
		cmocka_unit_test(what_was_forgotten_is_not_asked_for),
	};

	return cmocka_run_group_tests(tests, setup_filled, teardown);
}

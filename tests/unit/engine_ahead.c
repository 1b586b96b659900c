/* Read-ahead: which pictures follow, and how the order that a reader follows is learnt. */
#include "engine/ahead.h"
#include "catalogue/generation.h"
#include "catalogue_rig.h"
#include <stdio.h>

enum { GENERATIONS = 40, EACH = 2 };

static int64_t images[GENERATIONS][EACH]; /* in the order of age */

/* Ids that sort in another order than that of age: 7k mod 40. */
static int rank_of(int k)
{
	return k * 7 % GENERATIONS;
}

static void add_generation(int k)
{
	char id[32];
	struct generation g = {.hub_id = id, .status = (char *)"succeeded",
		.phase = PHASE_SUCCEEDED, .credits = 8};

	snprintf(id, sizeof id, "gen_%08d", rank_of(k));
	assert_int_equal(generation_insert(cat, &g), 0);
	for (int n = 0; n < EACH; n++) {
		struct image i = {.generation = g.id, .number = n + 1, .url = (char *)"http://x/",
			.size = 100, .type = PICTURE_PNG, .listed_ms = 1};

		assert_int_equal(image_put(cat, &i), 0);
		images[k][n] = i.id;
	}
}

static int setup_filled(void **state)
{
	if (setup(state) < 0)
		return -1;
	for (int k = 0; k < GENERATIONS; k++)
		add_generation(k);
	return 0;
}

/* The generation whose id has this rank. */
static int by_rank(int rank)
{
	for (int k = 0; k < GENERATIONS; k++)
		if (rank_of(k) == rank)
			return k;
	return -1;
}

static void orders_of_listings(void **state)
{
	int64_t ids[4];

	(void)state;
	assert_int_equal(image_following(cat, images[5][0], IMAGE_BY_AGE, ids, 4), 4);
	assert_int_equal(ids[0], images[5][1]);
	assert_int_equal(ids[1], images[6][0]);
	assert_int_equal(image_following(cat, images[by_rank(5)][1], IMAGE_BY_HUB_ID, ids, 4), 4);
	assert_int_equal(ids[0], images[by_rank(6)][0]);
	assert_int_equal(ids[3], images[by_rank(7)][1]);
	/* Nothing was ordered by a prompt here, and nothing follows the last. */
	assert_int_equal(image_following(cat, images[5][1], IMAGE_BY_NAME, ids, 4), 0);
	assert_int_equal(image_following(cat, images[GENERATIONS - 1][1], IMAGE_BY_AGE, ids, 4), 0);
	/* What was removed or is not listed is passed over. */
	assert_int_equal(image_forget(cat, images[20][0]), 0);
	assert_int_equal(image_following(cat, images[19][1], IMAGE_BY_AGE, ids, 1), 1);
	assert_int_equal(ids[0], images[20][1]);
}

static bool contains(const int64_t *ids, int n, int64_t id)
{
	for (int i = 0; i < n; i++)
		if (ids[i] == id)
			return true;
	return false;
}

/* Reads pictures in an order from its start and returns how many were asked for late: not given out
 * before they were read. */
static int late_reads(struct ahead *a, int64_t (*nth)(int k), int count)
{
	int64_t given[GENERATIONS * EACH + AHEAD_MOST];
	int n_given = 0, late = 0;

	for (int k = 0; k < count; k++) {
		late += !contains(given, n_given, nth(k));
		assert_int_equal(ahead_expects(a, nth(k)), contains(given, n_given, nth(k)));
		n_given += ahead_read(a, nth(k), given + n_given);
		assert_false(ahead_expects(a, nth(k)));
		/* Never more than asked for, and nothing twice. */
		assert_true(n_given - (k + 1 - late) <= 8);
		for (int i = 1; i < n_given; i++)
			assert_false(contains(given, i, given[i]));
	}
	return late;
}

static int64_t nth_by_age(int k)
{
	return images[k / EACH][k % EACH];
}

static int64_t nth_by_id(int k)
{
	return images[by_rank(k / EACH)][k % EACH];
}

/* The first of all, and the first of the second generation, which tells the orders apart. */
static void a_sequence_is_learnt_from_two_generations(void **state)
{
	(void)state;
	for (int order = 0; order < 2; order++) {
		struct ahead *a = ahead_create(cat, 8);

		assert_int_equal(late_reads(a, order ? nth_by_id : nth_by_age, 30), 2);
		ahead_destroy(a);
	}
}

static void one_generation_comes_whole(void **state)
{
	struct ahead *a = ahead_create(cat, 8);
	int64_t ids[AHEAD_MOST];

	(void)state;
	assert_int_equal(ahead_read(a, images[3][0], ids), 1);
	assert_int_equal(ids[0], images[3][1]);
	ahead_destroy(a);
}

/* Nobody follows an order: nothing beyond a generation is fetched for nothing. */
static void reads_without_order_fetch_nothing_ahead(void **state)
{
	struct ahead *a = ahead_create(cat, 8);
	int64_t ids[AHEAD_MOST];
	int given = 0;

	(void)state;
	for (int k = 0; k < 12; k++)
		given += ahead_read(a, images[k * 11 % 29][1], ids);
	assert_int_equal(given, 0);
	ahead_destroy(a);
}

static void several_sequences_at_once(void **state)
{
	struct ahead *a = ahead_create(cat, 4);
	int64_t ids[AHEAD_MOST];
	int late = 0;

	(void)state;
	for (int k = 0; k < 12; k++)
		for (int reader = 0; reader < 3; reader++) {
			const int64_t id = nth_by_age(reader * 20 + (reader ? 6 : 0) + k);

			late += !ahead_expects(a, id);
			ahead_read(a, id, ids);
		}
	assert_true(late <= 3 * 2);
	ahead_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sequence_is_learnt_from_two_generations),
		cmocka_unit_test(one_generation_comes_whole),
		cmocka_unit_test(reads_without_order_fetch_nothing_ahead),
		cmocka_unit_test(several_sequences_at_once),
		cmocka_unit_test(orders_of_listings),
	};

	return cmocka_run_group_tests(tests, setup_filled, teardown);
}

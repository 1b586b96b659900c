#include "test.h"
#include "wire/wire.h"
#include <errno.h>

static void outcomes(void **state)
{
	(void)state;
	assert_int_equal(outcome_from_http(401, "expiredApiKey"), OUTCOME_EXPIRED_KEY);
	assert_int_equal(outcome_from_http(500, "generationFailed"), OUTCOME_GENERATION_FAILED);
	assert_int_equal(outcome_from_http(504, "504"), OUTCOME_SERVER_ERROR);
	assert_int_equal(outcome_from_http(500, NULL), OUTCOME_SERVER_ERROR);
	assert_int_equal(outcome_from_http(418, NULL), OUTCOME_REFUSED);
	assert_int_equal(outcome_from_http(302, NULL), OUTCOME_UNREADABLE);
	for (int i = 0; i < OUTCOME_COUNT; i++)
		assert_int_equal(outcome_from_name(outcome_name((enum outcome)i)), i);
}

static void words_of_a_hub(void **state)
{
	(void)state;
	assert_int_equal(wire_phase("completed"), PHASE_SUCCEEDED);
	assert_int_equal(wire_phase("cancelled"), PHASE_FAILED);
	assert_int_equal(wire_phase("dreaming"), PHASE_PENDING);
}

static void generations_there_and_back(void **state)
{
	static const char json[] =
		"{\"id\":\"clx_1\",\"status\":\"succeeded\",\"images\":[5,{\"id\":\"a\"},"
		"{\"id\":\"b\",\"url\":\"https://x/y.png\"}],\"usage\":{\"credits\":8},\"error\":\"no\"}";
	struct wire_generation g;

	(void)state;
	assert_int_equal(wire_generation_decode(json, sizeof json - 1, &g, NULL), 0);
	assert_int_equal(g.phase, PHASE_SUCCEEDED);
	assert_int_equal(g.n_images, 1);
	assert_int_equal(g.credits, 8);
	assert_int_equal(g.credits_requested, -1);
	assert_string_equal(g.error_message, "no");
	wire_generation_release(&g);

	static const char none[] = "{\"id\":\"clx_1\",\"status\":\"succeeded\",\"images\":{}}";
	assert_int_equal(wire_generation_decode(none, sizeof none - 1, &g, NULL), 0);
	assert_int_equal(g.phase, PHASE_FAILED);
	wire_generation_release(&g);

	static const char *const hostile[] = {"", "[]", "{}", "{\"id\":\"../x\",\"status\":\"q\"}",
		"{\"id\":5,\"status\":\"q\"}", "{\"id\":\"a\\u0000b\",\"status\":\"q\"}"};
	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
		char *why = NULL;

		assert_int_equal(wire_generation_decode(hostile[i], strlen(hostile[i]), &g, &why),
			-EPROTO);
		assert_non_null(why);
		free(why);
	}
}

static void prices_are_never_taken_as_nothing(void **state)
{
	static const char json[] = "{\"models\":[{\"id\":\"a\",\"credits_per_image\":{\"1K\":8,\"4K\":12}},"
		"{\"id\":\"b\",\"credits_per_image\":2.5},{\"id\":\"c\"},{\"id\":\"../d\"}]}";
	struct wire_models m;
	int64_t low, high;

	(void)state;
	assert_int_equal(wire_models_decode(json, sizeof json - 1, &m, NULL), 0);
	assert_int_equal(m.count, 3);
	assert_true(wire_price(&m.items[0], "1024x1024", 2, &low, &high));
	assert_int_equal(low, 16);
	assert_int_equal(high, 16);
	assert_true(wire_price(&m.items[0], "auto", 1, &low, &high));
	assert_int_equal(low, 8);
	assert_int_equal(high, 12);
	assert_true(wire_price(&m.items[1], NULL, 1, &low, &high));
	assert_int_equal(low, 3);
	assert_false(wire_price(&m.items[2], NULL, 1, &low, &high));
	wire_models_release(&m);
}

static void orders_keep_what_they_do_not_know(void **state)
{
	static const char json[] = "{\"prompt\":\"x\",\"n\":2,\"seed\":7,\"async\":true}";
	struct order o;
	size_t count;

	(void)state;
	assert_int_equal(order_decode(json, sizeof json - 1, &o, NULL), 0);
	char *back = order_encode(&o);
	assert_string_equal(back, "{\"prompt\":\"x\",\"n\":2,\"async\":true,\"seed\":7}");
	free(back);
	struct wire_field *fields = order_fields(&o, &count);
	assert_int_equal(count, 4);
	wire_fields_free(fields, count);
	order_release(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outcomes),
		cmocka_unit_test(words_of_a_hub),
		cmocka_unit_test(generations_there_and_back),
		cmocka_unit_test(prices_are_never_taken_as_nothing),
		cmocka_unit_test(orders_keep_what_they_do_not_know),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

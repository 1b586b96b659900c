#include "test.h"
#include "wire/wire.h"
#include <errno.h>

static int64_t cost(const char *credits)
{
	CLEANUP_FREE char *json = xasprintf(
		"{\"id\":\"gen_1\",\"status\":\"processing\",\"usage\":{\"credits\":%s}}", credits);
	struct wire_generation g;

	assert_int_equal(wire_generation_decode(json, strlen(json), &g, NULL), 0);
	const int64_t n = g.credits;
	wire_generation_release(&g);
	return n;
}

/* As prices are: what costs half a credit is not free. */
static void a_fraction_of_a_credit_counts_as_one(void **state)
{
	(void)state;
	assert_int_equal(cost("0"), 0);
	assert_int_equal(cost("0.0"), 0);
	assert_int_equal(cost("0.5"), 1);
	assert_int_equal(cost("8"), 8);
	assert_int_equal(cost("8.25"), 9);
	assert_int_equal(cost("9007199254740993"), -1); /* above 1e15: no number of credits */
	assert_int_equal(cost("999999999999999"), 999999999999999);
	assert_int_equal(cost("-0.5"), -1);
	assert_int_equal(cost("\"8\""), -1);
}

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

static char *repeated(const char *head, const char *part, size_t times, const char *tail)
{
	struct buf b;

	buf_init(&b, 2 * WIRE_BODY_MAX);
	buf_addstr(&b, head);
	while (times-- > 0)
		buf_addstr(&b, part);
	buf_addstr(&b, tail);
	assert_false(b.overflow);
	return buf_take(&b);
}

/* 20,000 numbers, nested 1,500 deep: indented, that would be 60 MB. */
static void what_is_nested_deep_is_not_indented(void **state)
{
	char *tail = repeated("0", "]", 1500, ""), *numbers = repeated("", "1,", 20000, tail);
	char *json = repeated("", "[", 1500, numbers), *shown = wire_pretty(json, strlen(json));

	(void)state;
	assert_int_equal(strlen(shown), strlen(json) + 1);
	free(shown);
	shown = wire_pretty("[[1]]", 5);
	assert_string_equal(shown, "[\n  [\n    1\n  ]\n]\n");
	free(shown);
	free(json);
	free(numbers);
	free(tail);
}

/* Read, and written out again, it would be over the 1 MiB that is read. */
static void what_cannot_be_passed_on_is_refused(void **state)
{
	char *json = repeated("{\"prompt\":\"x\",\"y\":[", "1e99,", 40000, "1]}");
	char *error = NULL;
	struct order o;

	(void)state;
	assert_true(strlen(json) < WIRE_BODY_MAX / 4);
	assert_int_equal(order_decode(json, strlen(json), &o, &error), -EINVAL);
	assert_non_null(strstr(error, "over 768 KiB"));
	free(error);
	free(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outcomes),
		cmocka_unit_test(a_fraction_of_a_credit_counts_as_one),
		cmocka_unit_test(words_of_a_hub),
		cmocka_unit_test(generations_there_and_back),
		cmocka_unit_test(prices_are_never_taken_as_nothing),
		cmocka_unit_test(orders_keep_what_they_do_not_know),
		cmocka_unit_test(what_is_nested_deep_is_not_indented),
		cmocka_unit_test(what_cannot_be_passed_on_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

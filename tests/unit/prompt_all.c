#include "prompt/prompt.h"
#include "test.h"
#include <errno.h>

static int parse(const char *text, struct prompt *p, char **error)
{
	const struct prompt_source file = {"cat.prompt", text, strlen(text)};

	return prompt_parse(&file, NULL, 0, p, error);
}

static void good_files(void **state)
{
	struct prompt p;

	(void)state;
	assert_int_equal(parse("a cat\r\nhere\r\n", &p, NULL), 0);
	assert_string_equal(p.order.prompt, "a cat\nhere");
	prompt_release(&p);
	assert_int_equal(parse("\xEF\xBB\xBF---\nsize: 16x16\nconfig:\n  n: 3\n"
			       "reference_image: [a.png, b.png]\n---\nx\n---\ny",
				 &p, NULL),
		0);
	assert_string_equal(p.order.prompt, "x\n---\ny");
	assert_string_equal(p.order.size, "16x16");
	assert_int_equal(p.order.n, 3);
	assert_int_equal(p.n_references, 2);
	assert_int_equal(p.n_at.line, 4);
	prompt_release(&p);
}

static void blank_files(void **state)
{
	(void)state;
	assert_true(prompt_is_blank("", 0));
	assert_true(prompt_is_blank(" \n\t", 3));
	assert_true(prompt_is_blank("---\nn: 1\n---\n \n", 15));
	assert_false(prompt_is_blank("x", 1));
}

static void bad_files_say_where(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{"---\nqualty: low\n---\nx", "cat.prompt:2:1: unknown key \"qualty\"; did you mean \"quality\"?"},
		{"---\nn: 9\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: 1\nn: 2\n---\nx", "cat.prompt:3:1: \"n\" is given twice"},
		{"---\nn: 1\nconfig: {n: 2}\n---\nx", "is given twice"},
		{"---\nsize:\n---\nx", "needs one value"},
		{"---\nmodel: &a b\n---\nx", "anchors"},
		{"---\nmodel: *a\n---\nx", "aliases"},
		{"---\ninput: {}\n---\nx", "dotprompt"},
		{"---\nmodel: x\n", "has no end"},
		{"---\n- a\n---\nx", "key: value"},
		{"a\xff", "cat.prompt:1:2: the text is not UTF-8"},
		{"{\"prompt\":1}", "prompt must be a string"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct prompt p;
		char *error = NULL;

		assert_int_equal(parse(bad[i].text, &p, &error), -EINVAL);
		if (!strstr(error, bad[i].words))
			assert_string_equal(error, bad[i].words);
		free(error);
	}
}

static void the_nearest_default_wins(void **state)
{
	const struct prompt_source file = {"p", "---\nn: 1\n---\nx", 14};
	const struct prompt_source defaults[] = {
		{"near", "n: 2\nquality: high\n", 19}, {"far", "quality: low\nsize: 32x32", 24}};
	struct prompt p;

	(void)state;
	assert_int_equal(prompt_parse(&file, defaults, 2, &p, NULL), 0);
	assert_int_equal(p.order.n, 1);
	assert_string_equal(p.order.quality, "high");
	assert_string_equal(p.order.size, "32x32");
	prompt_release(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_files),
		cmocka_unit_test(blank_files),
		cmocka_unit_test(bad_files_say_where),
		cmocka_unit_test(the_nearest_default_wins),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

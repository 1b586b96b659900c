/* Front matter: what YAML has to offer and what of it is taken, with the place of each error. */
#include "base/buf.h"
#include "prompt/prompt.h"
#include "test.h"
#include <errno.h>
#include <stdio.h>

static int parse(const char *text, size_t len, struct prompt *p, char **error)
{
	const struct prompt_source file = {"cat.prompt", text, len};

	return prompt_parse(&file, NULL, 0, p, error);
}

static void is_refused(const char *text, size_t len, const char *words)
{
	struct prompt p;
	char *error = NULL;

	assert_int_equal(parse(text, len, &p, &error), -EINVAL);
	if (strncmp(error, words, strlen(words)) != 0)
		assert_string_equal(error, words);
	free(error);
}

#define REFUSED(text, words) is_refused(text, sizeof text - 1, words)

static void yaml_that_is_taken(void **state)
{
	static const struct {
		const char *text, *size;
		int n;
	} good[] = {
		{"---\nn: '4'\nsize: \"auto\"\n---\nx", "auto", 4},
		{"---\n\"n\": 2\n'size' : 64x64 # a comment\n---\nx", "64x64", 2},
		{"---\n{n: 3, size: 16x16}\n---\nx", "16x16", 3},
		{"---\nconfig: {n: 3, size: 16x16}\n---\nx", "16x16", 3},
		{"---\nn:\t1\nconfig:\nsize: auto\n---\nx", "auto", 1},
		{"---\n? n\n: 1\n---\nx", NULL, 1},
		{"---\nn: >-\n  1\n---\nx", NULL, 1},
		{"---   \r\nn: 1\r\nsize: 32x32\r\n--- \r\nx\r\n", "32x32", 1},
		{"\n \t\n---\nn: 2\n---\nx", NULL, 2},
		{"\xEF\xBB\xBF\r\n---\r\nn: 2\r\n---\r\nx", NULL, 2},
		{"---\n---\nx", NULL, 0},
		{"---\n# nothing\n\n---\nx", NULL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct prompt p;
		char *error = NULL;

		if (parse(good[i].text, strlen(good[i].text), &p, &error) < 0)
			assert_string_equal(error, good[i].text);
		assert_string_equal(p.order.prompt, "x");
		assert_int_equal(p.order.n, good[i].n);
		if (good[i].size)
			assert_string_equal(p.order.size, good[i].size);
		else
			assert_null(p.order.size);
		prompt_release(&p);
	}
}

static void yaml_that_is_refused(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		/* numbers and sizes are text, and only the plain form is right */
		{"---\nn: 0x4\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: 1.0\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: -1\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: yes\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: 99999999999999999999\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nn: |\n  1\n---\nx", "cat.prompt:2:4: n must be 1 to 4"},
		{"---\nsize: 16:9\n---\nx", "cat.prompt:2:7: size \"16:9\" is not possible; write "
					    "auto or WIDTHxHEIGHT"},
		{"---\nsize: 1024X1024\n---\nx", "cat.prompt:2:7: size \"1024X1024\" is not "
						 "possible; did you mean \"1024x1024\"?"},
		{"---\nsize: 1024 × 640\n---\nx", "cat.prompt:2:7: size \"1024 × 640\" is not "
						  "possible; did you mean \"1024x640\"?"},
		{"---\nsize: Auto\n---\nx",
			"cat.prompt:2:7: size \"Auto\" is not possible; did you mean \"auto\"?"},
		{"---\nquality: Hihg\n---\nx", "cat.prompt:2:10: quality \"Hihg\" is not possible; "
					       "did you mean \"high\"?"},
		/* null is no value */
		{"---\nn: ~\n---\nx", "cat.prompt:2:4: \"n\" needs one value"},
		{"---\nmodel: null\n---\nx", "cat.prompt:2:8: \"model\" needs one value"},
		{"---\nmodel: [a, b]\n---\nx", "cat.prompt:2:8: \"model\" needs one value"},
		{"---\nreference_image: [a, ]\nn: {}\n---\nx",
			"cat.prompt:3:4: \"n\" needs one value"},
		{"---\nreference_image: [a, '']\n---\nx",
			"cat.prompt:2:22: a reference image needs a file name"},
		{"---\nreference_image:\n- a\n- [b]\n---\nx",
			"cat.prompt:4:3: a reference image is a file name"},
		{"---\nreference_image: {a: b}\n---\nx",
			"cat.prompt:2:18: \"reference_image\" is one file name"},
		{"---\nconfig: high\n---\nx",
			"cat.prompt:2:9: \"config\" holds size, quality and n"},
		/* twice, wherever */
		{"---\nn: 1\nconfig:\n  n: 2\n---\nx", "cat.prompt:4:3: \"n\" is given twice"},
		{"---\nconfig: {}\nconfig: {}\n---\nx",
			"cat.prompt:3:1: \"config\" is given twice"},
		{"---\nreference_image: a\nreference_image: b\n---\nx",
			"cat.prompt:3:1: \"reference_image\" is given twice"},
		/* keys */
		{"---\nreferences: a\n---\nx", "cat.prompt:2:1: unknown key \"references\"; did "
					       "you mean \"reference_image\"?"},
		{"---\naspect_ratio: 16:9\n---\nx",
			"cat.prompt:2:1: unknown key \"aspect_ratio\"; did you mean \"size\"?"},
		{"---\nconfig:\n  model: x\n---\nx",
			"cat.prompt:3:3: \"model\" does not belong into config"},
		{"---\nconfig:\n  sise: x\n---\nx",
			"cat.prompt:3:3: unknown key \"sise\"; did you mean \"size\"?"},
		{"---\nprompt: x\n---\ny", "cat.prompt:2:1: the prompt is the text behind"},
		{"---\ninput: {}\n---\nx", "cat.prompt:2:1: \"input\" is a key of dotprompt"},
		{"---\n[n]: 1\n---\nx", "cat.prompt:2:1: "},
		{"---\nmodel:gpt-image-2\n---\nx",
			"cat.prompt:2:1: front matter is lines of \"key: value\""},
		/* columns count characters */
		{"---\n향수: x\n---\nx", "cat.prompt:2:1: unknown key \"향수\""},
		{"---\n{reference_image: [향수.png], n: 9}\n---\nx",
			"cat.prompt:2:32: n must be 1 to 4"},
		{"---\n{model: x, 향: 1}\n---\nx", "cat.prompt:2:12: unknown key \"향\""},
		{"---\n{quality: \"높음\", n: 9}\n---\nx", "cat.prompt:2:11: quality \"높음\""},
		/* what YAML can do besides */
		{"---\nconfig: &a {n: 1}\n---\nx", "cat.prompt:2:9: YAML anchors"},
		{"---\nreference_image: &a [x]\n---\nx", "cat.prompt:2:18: YAML anchors"},
		{"---\n&k n: 1\n---\nx", "cat.prompt:2:1: YAML anchors"},
		{"---\nn: !!int 1\n---\nx", "cat.prompt:2:4: YAML tags"},
		{"---\nconfig: !!map {n: 1}\n---\nx", "cat.prompt:2:9: YAML tags"},
		{"---\nreference_image: !x [a]\n---\nx", "cat.prompt:2:18: YAML tags"},
		{"---\n<<: *a\n---\nx", "cat.prompt:2:1: unknown key \"<<\""},
		{"---\nn: *a\n---\nx", "cat.prompt:2:4: YAML aliases"},
		{"---\nn: 1\n...\nsize: auto\n---\nx", "cat.prompt:4:1: front matter is lines"},
		{"---\n%YAML 1.1\n---\nx", "cat.prompt:3:1: front matter is lines"},
		{"---\nn: 1\n--- a\n---\nx", "cat.prompt:3:1: only one YAML document"},
		{"---\n\tn: 1\n---\nx", "cat.prompt:2:1: a tab cannot stand here"},
		{"---\nsize: auto\nmodel: a\x01\n---\nx",
			"cat.prompt:3:9: control characters are not allowed"},
		{"---\nmodel: \"\\0\"\n---\nx", "cat.prompt:2:8: a NUL character"},
		{"---\nmodel: \"a\n---\nx", "cat.prompt:3:1: found unexpected end of stream"},
		/* fences */
		{"\n\n---\nn: 1\n", "cat.prompt:3:1: the front matter that begins here has no end"},
		{"---", "cat.prompt:1:1: the front matter that begins here has no end"},
		{"---\nn: 1\n---\n \n", "cat.prompt: there is no prompt text in it"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		is_refused(bad[i].text, strlen(bad[i].text), bad[i].words);
}

/* At the cap in size, in a moment: the parser's own limits, not ours, would be quadratic. */
static void deep_and_large(void **state)
{
	static const char fills[] = "[{-? \n#a'\"|&*!%@`:,";
	char *text = malloc(PROMPT_FILE_MAX);

	(void)state;
	for (size_t i = 0; fills[i]; i++) {
		struct prompt p;
		char *error = NULL;

		memset(text, fills[i], PROMPT_FILE_MAX);
		memcpy(text, "---\nn: ", 7);
		memcpy(text + PROMPT_FILE_MAX - 7, "\n---\nx", 6);
		if (parse(text, PROMPT_FILE_MAX - 1, &p, &error) == 0)
			prompt_release(&p);
		else
			assert_int_equal(strncmp(error, "cat.prompt:", 11), 0);
		free(error);
	}
	free(text);
}

static void sizes_and_bytes(void **state)
{
	char *text = malloc(PROMPT_FILE_MAX + 1), *error = NULL;
	struct prompt p;

	(void)state;
	/* 32,000 characters, not bytes. */
	for (size_t i = 0; i < WIRE_PROMPT_MAX; i++)
		memcpy(text + 3 * i, "향", 3);
	assert_int_equal(parse(text, 3 * WIRE_PROMPT_MAX, &p, NULL), 0);
	prompt_release(&p);
	text[3 * WIRE_PROMPT_MAX] = 'x';
	is_refused(text, 3 * WIRE_PROMPT_MAX + 1, "cat.prompt: prompt has 32001 characters");
	memset(text, ' ', PROMPT_FILE_MAX + 1);
	assert_int_equal(parse(text, PROMPT_FILE_MAX + 1, &p, &error), -EFBIG);
	free(error);
	free(text);
	REFUSED("a\n향\xff", "cat.prompt:2:2: the text is not UTF-8");
	REFUSED("\xEF\xBB\xBF"
		"a\xff",
		"cat.prompt:1:2: the text is not UTF-8");
	REFUSED("\xEF\xBB\xBF---\nmodel: \xC3\x28\n---\nx",
		"cat.prompt:2:8: the text is not UTF-8");
	REFUSED("a\0b", "cat.prompt:1:2: a NUL byte");
	REFUSED("\xED\xA0\x80", "cat.prompt:1:1: the text is not UTF-8");
	is_refused("a", 0, "cat.prompt: there is no prompt text");
}

static void many_references(void **state)
{
	struct buf b;
	struct prompt p;

	(void)state;
	buf_init(&b, 4096);
	buf_addstr(&b, "---\nreference_image:\n");
	for (int i = 0; i < PROMPT_REFERENCES_MAX; i++)
		buf_addstr(&b, "- a.png\n");
	const size_t len = b.len;
	buf_addstr(&b, "---\nx");
	assert_int_equal(parse(b.data, b.len, &p, NULL), 0);
	assert_int_equal(p.n_references, PROMPT_REFERENCES_MAX);
	prompt_release(&p);
	b.len = len;
	buf_addstr(&b, "- a.png\n---\nx");
	is_refused(b.data, b.len, "cat.prompt:67:3: too many reference images");
	buf_release(&b);
}

static void json_bodies(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{"{a cat}", "cat.prompt: not valid JSON (line 1, column 2"},
		{"{\"prompt\": \"x\",\n \"n\": }", "cat.prompt: not valid JSON (line 2, column 7"},
		{"{\"\\u향\": 1}", "cat.prompt: not valid JSON (line 1, column 5: invalid escape "
				   "near '\"\\u?')"},
		{"{\"prompt\": \"x\", \"n\": \"2\"}", "cat.prompt: n must be a whole number"},
		{"{\"prompt\": \"x\", \"n\": 5}", "cat.prompt: n must be 1 to 4"},
		{"{\"prompt\": \"x\", \"size\": \"big\"}", "cat.prompt: size \"big\""},
		{"{\"prompt\": \" \"}", "cat.prompt: prompt is blank"},
		{"{}", "cat.prompt: prompt is missing"},
	};
	const struct prompt_source file = {"cat.prompt", "{\"prompt\": \"x\", \"seed\": 7}", 26};
	const struct prompt_source defaults = {"defaults.yaml", "quality: wrong", 14};
	struct prompt p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		is_refused(bad[i].text, strlen(bad[i].text), bad[i].words);
	/* Complete in itself, what is not known is passed on. */
	assert_int_equal(prompt_parse(&file, &defaults, 1, &p, NULL), 0);
	assert_true(p.json && p.order.async);
	assert_null(p.order.quality);
	assert_string_equal(p.order.extra, "{\"seed\":7}");
	prompt_release(&p);
}

static void defaults_files(void **state)
{
	static const struct prompt_source file = {"p", "---\nn: 1\n---\nx", 14};
	static const struct {
		const char *text, *words;
	} bad[] = {
		{"n: 1\nqualty: low",
			"../defaults.yaml:2:1: unknown key \"qualty\"; did you mean \"quality\"?"},
		{"\xEF\xBB\xBFquality: best", "../defaults.yaml:1:10: quality \"best\""},
		{"quality: \xff", "../defaults.yaml:1:10: the text is not UTF-8"},
		{"---\nquality: low\n---\nand text",
			"../defaults.yaml:4:1: only settings stand in this file"},
		{"just text", "../defaults.yaml:1:1: front matter is lines"},
		{"n: 1\n---\nn: 2", "../defaults.yaml:2:1: only one YAML document"},
	};
	static const char *const good[] = {"quality: low", "---\nquality: low",
		"---\nquality: low\n---\n", "\xEF\xBB\xBF# ours\r\nquality: low\r\n",
		"config:\n  quality: low"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct prompt_source d = {
			"../defaults.yaml", bad[i].text, strlen(bad[i].text)};
		struct prompt p;
		char *error = NULL;

		assert_int_equal(prompt_parse(&file, &d, 1, &p, &error), -EINVAL);
		if (strncmp(error, bad[i].words, strlen(bad[i].words)) != 0)
			assert_string_equal(error, bad[i].words);
		free(error);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		const struct prompt_source d = {"defaults.yaml", good[i], strlen(good[i])};
		struct prompt p;

		assert_int_equal(prompt_parse(&file, &d, 1, &p, NULL), 0);
		assert_string_equal(p.order.quality, "low");
		prompt_release(&p);
	}
}

static void references_of_defaults(void **state)
{
	const struct prompt_source file = {"p", "x", 1};
	const struct prompt_source own = {"p", "---\nreference_image: []\n---\nx", 29};
	const struct prompt_source defaults[] = {
		{"near", "n: 2", 4}, {"far", "reference_image: a.png", 22}};
	struct prompt p;

	(void)state;
	assert_int_equal(prompt_parse(&file, defaults, 2, &p, NULL), 0);
	assert_int_equal(p.n_references, 1);
	assert_int_equal(p.reference_level, 2);
	prompt_release(&p);
	/* An empty list of its own wins over the defaults'. */
	assert_int_equal(prompt_parse(&own, defaults, 2, &p, NULL), 0);
	assert_int_equal(p.n_references, 0);
	assert_int_equal(p.reference_level, 0);
	prompt_release(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(yaml_that_is_taken),
		cmocka_unit_test(yaml_that_is_refused),
		cmocka_unit_test(deep_and_large),
		cmocka_unit_test(sizes_and_bytes),
		cmocka_unit_test(many_references),
		cmocka_unit_test(json_bodies),
		cmocka_unit_test(defaults_files),
		cmocka_unit_test(references_of_defaults),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

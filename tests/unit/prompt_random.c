/*
 * Prompts and defaults with random mistakes in them: each is refused with an error that can be
 * shown, or gives an order that holds and survives its way through the catalogue. The same ones
 * each time.
 */
#include "base/names.h"
#include "prompt/prompt.h"
#include "test.h"
#include <errno.h>
#include <stdio.h>

enum { ROUNDS = 50000, TEXT_MAX = 4096, MISTAKES_MAX = 8 };

static const char *const seeds[] = {
	"---\nmodel: gpt-image-2\nconfig:\n  size: 1536x1024\n  quality: high\n  n: 4\n"
	"reference_image: [bottle.png, ../shared/logo.webp]\n---\nA cinematic photo\n",
	"\xEF\xBB\xBF\n---\r\nn: '4'\r\n---\r\nx",
	"{\"prompt\": \"\\u0041\\u0042\\u0043\\u0044\", \"n\": 2, \"seed\": [1, {\"a\": null}]}",
	"quality: low\n# a comment\nconfig: {n: 2}\n",
	"---\nsize: 1024 × 640\nconfig: &a {n: *a}\n<<: !x y\n---\n향수",
	"a cat",
};

static const char *const pieces[] = {"---\n", "\n", "\r", "\t", ": ", "- ", "[", "]", "{", "}",
	"&a ", "*a", "!t ", "\"", "'", "#", "|\n", "> ", "\xEF\xBB\xBF", "\xff", "", "\x01", "향",
	"\xC2\x85", "\xE2\x80\xA8", "n", "size", "config:\n  ", "reference_image:", "? ",
	"%YAML 1.1\n", "...\n", "~", "null", "\\u0000", "\xED\xA0\x80", "1024X1024"};

static unsigned next_random(unsigned below)
{
	static uint64_t x = 88172645463325252u; /* xorshift64 */

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (unsigned)(x % below);
}

struct text {
	char bytes[TEXT_MAX];
	size_t len;
};

static void make_mistake(struct text *t)
{
	const char *piece = pieces[next_random(ARRAY_SIZE(pieces))];
	const size_t at = next_random((unsigned)t->len + 1);
	const size_t len = *piece ? strlen(piece) : 1; /* "" stands for a NUL */
	size_t gone = 1 + next_random(8);

	if (next_random(2) && t->len + len < TEXT_MAX) {
		memmove(t->bytes + at + len, t->bytes + at, t->len - at);
		memcpy(t->bytes + at, piece, len);
		t->len += len;
	} else if (next_random(2)) {
		gone = gone < t->len - at ? gone : t->len - at;
		memmove(t->bytes + at, t->bytes + at + gone, t->len - at - gone);
		t->len -= gone;
	} else if (at < t->len) {
		t->bytes[at] = (char)next_random(256);
	}
}

static void make_text(struct text *t, unsigned mistakes)
{
	const char *seed = seeds[next_random(ARRAY_SIZE(seeds))];

	t->len = strlen(seed);
	memcpy(t->bytes, seed, t->len);
	while (mistakes-- > 0)
		make_mistake(t);
}

static void holds(const struct prompt *p)
{
	char *error = NULL, *json = order_encode(&p->order);
	struct order again;

	assert_int_equal(order_check(&p->order, &error), 0);
	assert_int_equal(order_decode(json, strlen(json), &again, &error), 0);
	assert_string_equal(again.prompt, p->order.prompt);
	assert_int_equal(again.n, p->order.n);
	order_release(&again);
	free(json);
}

static void random_mistakes(void **state)
{
	int accepted = 0, refused = 0;

	(void)state;
	for (int k = 0; k < ROUNDS; k++) {
		struct text file, defaults;
		struct prompt p;
		char *error = NULL;

		make_text(&file, next_random(MISTAKES_MAX));
		make_text(&defaults, next_random(3));
		const struct prompt_source f = {"file", file.bytes, file.len};
		const struct prompt_source d = {"defaults", defaults.bytes, defaults.len};
		const int rc = prompt_parse(&f, &d, next_random(2), &p, &error);

		if (rc == 0) {
			assert_null(error);
			assert_false(prompt_is_blank(file.bytes, file.len));
			holds(&p);
			prompt_release(&p);
			accepted++;
			continue;
		}
		assert_int_equal(rc, -EINVAL);
		assert_true(names_is_utf8(error, strlen(error)));
		assert_true(!strncmp(error, "file:", 5) || !strncmp(error, "defaults:", 9));
		free(error);
		refused++;
	}
	printf("%d accepted, %d refused\n", accepted, refused);
	assert_true(accepted > ROUNDS / 100 && refused > ROUNDS / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_mistakes)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

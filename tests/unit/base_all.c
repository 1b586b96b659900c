#include "base/buf.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/names.h"
#include "base/picture.h"
#include "test.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

static void buffers_have_a_cap(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 5);
	assert_int_equal(buf_addstr(&b, "abc"), 0);
	assert_int_equal(buf_addstr(&b, "def"), -EMSGSIZE);
	assert_true(b.overflow);
	assert_string_equal(b.data, "abc");
	assert_int_equal(buf_printf(&b, "%d", 42), 0);
	char *text = buf_take(&b);
	assert_string_equal(text, "abc42");
	free(text);
	assert_int_equal(buf_addch(&b, 'x'), 0);
	buf_release(&b);
}

static void times_go_there_and_back(void **state)
{
	char text[CLOCK_TEXT_SIZE];
	int64_t ms;

	(void)state;
	assert_int_equal(clock_parse_iso("2026-04-30T08:00:00.123Z", &ms), 0);
	assert_string_equal(clock_format_iso(ms, text), "2026-04-30T08:00:00.123Z");
	assert_int_equal(clock_parse_iso("2026-04-30T10:00:00+02:00", &ms), 0);
	assert_string_equal(clock_format_iso(ms, text), "2026-04-30T08:00:00.000Z");
	assert_int_equal(clock_parse_iso("2026-04-30", &ms), 0);
	assert_int_equal(clock_parse_iso("tomorrow", &ms), -EINVAL);
	assert_int_equal(clock_parse_iso("2026-13-01", &ms), -EINVAL);
}

static void names_are_checked(void **state)
{
	static const char *const words[] = {"model", "size", "quality", NULL};

	(void)state;
	assert_true(names_is_utf8("향수", strlen("향수")));
	assert_false(names_is_utf8("\xc0\x80", 2));
	assert_false(names_is_utf8("\xed\xa0\x80", 3));
	assert_int_equal(names_utf8_length("향수x", strlen("향수x")), 3);
	assert_true(names_is_hub_id("clx_A-9"));
	assert_false(names_is_hub_id("../x"));
	assert_false(names_is_hub_id(""));
	assert_false(names_is_lookup_id("short"));
	assert_true(names_is_prompt("a.prompt"));
	assert_false(names_is_prompt(".prompt"));
	assert_false(names_is_prompt(".a.prompt"));
	assert_string_equal(names_nearest("qualty", words), "quality");
	assert_string_equal(names_nearest("mdoel", words), "model");
	assert_null(names_nearest("seed", words));
}

static void urls_are_shown_without_secrets(void **state)
{
	char *shown = log_url("https://user:pass@cdn.example/a.png?sig=SECRET#x");

	(void)state;
	assert_string_equal(shown, "https://cdn.example/a.png");
	free(shown);
}

static void pictures_are_known_by_their_bytes(void **state)
{
	static const unsigned char png[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\6\0\0\0\4\0";
	static const unsigned char jpeg[] = {0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc0, 0, 11, 8,
		1, 0, 2, 0};

	(void)state;
	const struct picture_info a = picture_probe(png, sizeof png - 1);
	assert_int_equal(a.type, PICTURE_PNG);
	assert_int_equal(a.width, 1536);
	assert_int_equal(a.height, 1024);
	const struct picture_info b = picture_probe(jpeg, sizeof jpeg);
	assert_int_equal(b.type, PICTURE_JPEG);
	assert_int_equal(b.width, 512);
	assert_int_equal(picture_probe("GIF89a", 6).type, PICTURE_UNKNOWN);
	for (size_t n = 0; n < sizeof png; n++) {
		unsigned char *exact = malloc(n ? n : 1);

		memcpy(exact, png, n);
		picture_probe(exact, n);
		free(exact);
	}
}

static void durable_writes_replace(void **state)
{
	char dir[] = "/tmp/base-test-XXXXXX";
	struct buf b;

	(void)state;
	assert_non_null(mkdtemp(dir));
	const int fd = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(files_write_durable(fd, "f", "one", 3), 0);
	assert_int_equal(files_write_durable(fd, "f", "two", 3), 0);
	buf_init(&b, 10);
	assert_int_equal(files_read(fd, "f", &b), 0);
	assert_string_equal(b.data, "two");
	buf_release(&b);
	buf_init(&b, 2);
	assert_int_equal(files_read(fd, "f", &b), -EFBIG);
	buf_release(&b);
	unlinkat(fd, "f", 0);
	close(fd);
	rmdir(dir);
}

/* Takes the lock, says so, and at a word that it is about to end; holds it for a while longer. */
__attribute__((noreturn)) static void hold(const char *dir, int words, int said)
{
	pid_t holder;
	const int fd = open(dir, O_RDONLY | O_DIRECTORY);
	const int lock = files_lock_dir(fd, 0, &holder);
	char word;

	if (lock < 0 || write(said, "l", 1) != 1 || read(words, &word, 1) != 1)
		_exit(1);
	files_lock_ending(lock);
	if (write(said, "e", 1) != 1)
		_exit(1);
	poll(NULL, 0, 300);
	_exit(0);
}

static void a_lock_that_is_given_up_is_waited_for(void **state)
{
	char dir[] = "/tmp/base-test-XXXXXX", word;
	int words[2], said[2], status;
	pid_t holder = 0;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(pipe(words) | pipe(said), 0);
	const int fd = open(dir, O_RDONLY | O_DIRECTORY);
	const pid_t child = fork();
	if (child == 0)
		hold(dir, words[0], said[1]);
	assert_int_equal(read(said[0], &word, 1), 1);
	assert_int_equal(files_lock_dir(fd, 0, &holder), -EWOULDBLOCK);
	assert_int_equal(holder, child);
	assert_int_equal(files_lock_dir(fd, 40, &holder), -EWOULDBLOCK);
	assert_int_equal(write(words[1], "w", 1), 1);
	assert_int_equal(read(said[0], &word, 1), 1);
	const int lock = files_lock_dir(fd, 0, &holder);
	assert_true(lock >= 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	const int ends[] = {lock, words[0], words[1], said[0], said[1]};
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		close(ends[i]);
	unlinkat(fd, "lock", 0);
	close(fd);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_have_a_cap),
		cmocka_unit_test(times_go_there_and_back),
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(urls_are_shown_without_secrets),
		cmocka_unit_test(pictures_are_known_by_their_bytes),
		cmocka_unit_test(durable_writes_replace),
		cmocka_unit_test(a_lock_that_is_given_up_is_waited_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

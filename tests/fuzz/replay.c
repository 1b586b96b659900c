/*
 * replay FOLDER ROUNDS: gives a target each file of its corpus, and then so many files with mistakes in
 * them, the same ones each time. For compilers without libFuzzer, and for `make check`.
 */
#include "fuzz.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

enum { FILES_MAX = 256, BYTES_MAX = 64 * 1024, MISTAKES_MAX = 8 };

static struct text {
	uint8_t *bytes;
	size_t len;
} files[FILES_MAX];
static size_t n_files;

static size_t below(size_t n)
{
	static uint64_t x = 88172645463325252u; /* xorshift64 */

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return n ? x % n : 0;
}

/* Each input lies in a block of its own size, so that a sanitizer sees what reads past its end. */
static void run(const uint8_t *bytes, size_t len)
{
	uint8_t *exact = xmalloc(len);

	if (len > 0)
		memcpy(exact, bytes, len);
	LLVMFuzzerTestOneInput(exact, len);
	free(exact);
}

static void insert(struct text *t, size_t at, const uint8_t *bytes, size_t len)
{
	if (t->len + len > BYTES_MAX)
		return;
	memmove(t->bytes + at + len, t->bytes + at, t->len - at);
	memcpy(t->bytes + at, bytes, len);
	t->len += len;
}

static void make_mistake(struct text *t)
{
	const size_t at = below(t->len + 1), left = t->len - at;
	size_t len = 1 + below(below(2) ? 4 : 40);
	const struct text *other = &files[below(n_files)];
	const size_t from = below(other->len);

	switch (below(4)) {
	case 0: /* a piece of another */
		insert(t, at, other->bytes + from,
			len < other->len - from ? len : other->len - from);
		break;
	case 1:
		len = len < left ? len : left;
		memmove(t->bytes + at, t->bytes + at + len, left - len);
		t->len -= len;
		break;
	case 2:
		insert(t, at, (const uint8_t[]){(uint8_t)below(256)}, 1);
		break;
	default:
		if (left > 0)
			t->bytes[at] ^= (uint8_t)(1u << below(8));
	}
}

static bool load(const char *folder, const char *name)
{
	CLEANUP_FREE char *path = xasprintf("%s/%s", folder, name);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct text *t = &files[n_files];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > BYTES_MAX || n_files == FILES_MAX)
		return false;
	t->bytes = xmalloc((size_t)st.st_size);
	t->len = (size_t)st.st_size;
	n_files++;
	return read(fd, t->bytes, t->len) == (ssize_t)t->len;
}

static bool load_all(const char *folder)
{
	struct dirent **names;
	const int n = scandir(folder, &names, NULL, alphasort);
	bool good = n > 0;

	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.')
			good &= load(folder, names[i]->d_name);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return good && n_files > 0;
}

static void run_with_mistakes(int rounds)
{
	struct text t = {xmalloc(BYTES_MAX), 0};

	while (rounds-- > 0) {
		const struct text *seed = &files[below(n_files)];

		memcpy(t.bytes, seed->bytes, seed->len);
		t.len = seed->len;
		for (size_t k = 1 + below(MISTAKES_MAX); k > 0; k--)
			make_mistake(&t);
		run(t.bytes, t.len);
	}
	free(t.bytes);
}

int main(int argc, char **argv)
{
	const int rounds = argc == 3 ? atoi(argv[2]) : 0;

	if (argc != 3 || !load_all(argv[1])) {
		fprintf(stderr, "usage: %s FOLDER ROUNDS (at most %d files of at most %d bytes)\n",
			argv[0], FILES_MAX, BYTES_MAX);
		return 2;
	}
	for (size_t i = 0; i < n_files; i++)
		run(files[i].bytes, files[i].len);
	const bool good = fuzz_accepted > 0;
	run_with_mistakes(rounds);
	for (size_t i = 0; i < n_files; i++)
		free(files[i].bytes);
	printf("%zu files, %d with mistakes; %lu accepted\n", n_files, rounds, fuzz_accepted);
	return good ? 0 : 1;
}

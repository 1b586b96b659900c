/*
 * copy [--fsync] DIR FILE... - copies files into a directory as cp does, with an fsync(2) of each if
 * so told. Prints the ns of all, then those of each close(2) (its fsync included), one a line.
 */
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t copy(int dir, const char *path, bool sync)
{
	static char bytes[128 * 1024];
	const char *slash = strrchr(path, '/');
	const int from = open(path, O_RDONLY);
	const int to = openat(dir, slash ? slash + 1 : path, O_WRONLY | O_CREAT | O_EXCL, 0644);
	ssize_t n;

	if (from < 0 || to < 0)
		err(1, "%s", path);
	while ((n = read(from, bytes, sizeof bytes)) > 0)
		if (write(to, bytes, (size_t)n) != n)
			err(1, "%s", path);
	const int64_t begin = now_ns();
	if (n < 0 || (sync && fsync(to) < 0) || close(to) < 0)
		err(1, "%s", path);
	const int64_t taken = now_ns() - begin;
	close(from);
	return taken;
}

int main(int argc, char **argv)
{
	const bool sync = argc > 1 && strcmp(argv[1], "--fsync") == 0;
	const int first = sync ? 3 : 2;

	if (argc <= first)
		errx(2, "usage: copy [--fsync] DIR FILE...");
	const int dir = open(argv[first - 1], O_RDONLY | O_DIRECTORY);
	int64_t *closes = calloc((size_t)argc, sizeof *closes);
	if (dir < 0 || !closes)
		err(1, "%s", argv[first - 1]);
	const int64_t begin = now_ns();
	for (int i = first; i < argc; i++)
		closes[i] = copy(dir, argv[i], sync);
	printf("%lld\n", (long long)(now_ns() - begin));
	for (int i = first; i < argc; i++)
		printf("%lld\n", (long long)closes[i]);
	return 0;
}

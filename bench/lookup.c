/*
 * lookup DIR <NAMES - one stat(2) for each name on standard input, a line each; prints how many were
 * found and the mean and median of a call in ns.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { NAMES_MAX = 1000000 };

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	int64_t *taken = calloc(NAMES_MAX, sizeof *taken);
	const int dir = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
	int64_t sum = 0;
	size_t count = 0, found = 0;
	char name[512];

	if (dir < 0 || !taken)
		err(1, "open");
	while (count < NAMES_MAX && fgets(name, sizeof name, stdin)) {
		struct stat st;

		name[strcspn(name, "\n")] = '\0';
		const int64_t begin = now_ns();
		found += fstatat(dir, name, &st, 0) == 0;
		taken[count] = now_ns() - begin;
		sum += taken[count++];
	}
	if (count == 0)
		errx(1, "no names");
	qsort(taken, count, sizeof *taken, compare);
	printf("%zu %lld %lld\n", found, (long long)(sum / (int64_t)count),
		(long long)taken[count / 2]);
	return 0;
}

/*
 * first FILE - reads a file to its end; prints the ns from open(2) to the first byte, to the end, and
 * how many bytes there were.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static char bytes[128 * 1024];
	const int64_t begin = now_ns();
	const int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
	int64_t first = 0, total;
	ssize_t n;

	if (fd < 0)
		err(1, "open");
	n = read(fd, bytes, 1);
	first = now_ns() - begin;
	for (total = n; n > 0; total += n)
		n = read(fd, bytes, sizeof bytes);
	if (n < 0)
		err(1, "%s", argv[1]);
	printf("%lld %lld %lld\n", (long long)first, (long long)(now_ns() - begin),
		(long long)total);
	return 0;
}

/*
 * delay - a TCP proxy on loopback that makes a network of it: latency before each answer, a rate, and
 * a record of the requests.
 *
 *	delay PORT TARGET_PORT DELAY_MS BYTES_PER_SECOND LOG
 *
 * listens on PORT (0: any) and prints it on its first line. An answer's first byte is held back until
 * DELAY_MS after the last byte of its request; all connections together get BYTES_PER_SECOND (0: no
 * limit). LOG gets a line for each request: CLOCK_MONOTONIC in ns, method, path. One thread for each
 * connection, with no pipelining expected on it.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024, BACKLOG = 1024, STACK = 64 * 1024 + CHUNK };

static int target_port, log_fd;
static int64_t delay_ns, rate;
static pthread_mutex_t rate_lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t rate_free_ns; /* when the line is free again; under rate_lock */

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t ns)
{
	const struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
		;
}

static void pass_rate(size_t bytes)
{
	if (rate == 0)
		return;
	pthread_mutex_lock(&rate_lock);
	const int64_t now = now_ns();

	rate_free_ns = (rate_free_ns > now ? rate_free_ns : now) +
		(int64_t)bytes * 1000000000 / rate;
	const int64_t until = rate_free_ns;
	pthread_mutex_unlock(&rate_lock);
	sleep_until(until);
}

static void note_request(const char *bytes, size_t len)
{
	char line[512];
	size_t end = 0;

	for (int spaces = 0; end < len && bytes[end] != '\r'; end++)
		if (bytes[end] == ' ' && ++spaces == 2)
			break;
	if (!isupper((unsigned char)bytes[0]) || end == len)
		return; /* the rest of a body */
	const int n = snprintf(line, sizeof line, "%lld %.*s\n", (long long)now_ns(),
		(int)(end < 400 ? end : 400), bytes);
	if (write(log_fd, line, (size_t)n) != n)
		err(1, "log");
}

static bool send_all(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		const ssize_t n = write(fd, bytes, len);

		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

static int connect_to_target(void)
{
	const struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)target_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int fd = socket(AF_INET, SOCK_STREAM, 0);
	const int one = 1;

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof to) == 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

static void relay(int client, int target, char *chunk)
{
	struct pollfd fds[2] = {
		{.fd = client, .events = POLLIN}, {.fd = target, .events = POLLIN}};
	int64_t release = 0;

	for (;;) {
		ssize_t n;

		if (poll(fds, 2, -1) < 0)
			return;
		if (fds[0].revents) {
			if ((n = read(client, chunk, CHUNK)) <= 0)
				return;
			note_request(chunk, (size_t)n);
			release = now_ns() + delay_ns;
			if (!send_all(target, chunk, (size_t)n))
				return;
		}
		if (fds[1].revents) {
			if (delay_ns)
				sleep_until(release);
			if ((n = read(target, chunk, rate ? CHUNK / 8 : CHUNK)) <= 0)
				return;
			pass_rate((size_t)n);
			if (!send_all(client, chunk, (size_t)n))
				return;
		}
	}
}

static void *connection_main(void *arg)
{
	const int client = (int)(intptr_t)arg;
	const int target = connect_to_target();
	char chunk[CHUNK];

	if (target >= 0) {
		relay(client, target, chunk);
		close(target);
	}
	close(client);
	return NULL;
}

static int listen_anywhere(int port)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	const int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, BACKLOG) < 0 ||
		getsockname(fd, (struct sockaddr *)&at, &size) < 0)
		err(1, "port %d", port);
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv)
{
	pthread_attr_t attr;

	if (argc != 6)
		errx(2, "usage: delay PORT TARGET_PORT DELAY_MS BYTES_PER_SECOND LOG");
	signal(SIGPIPE, SIG_IGN);
	target_port = atoi(argv[2]);
	delay_ns = atoll(argv[3]) * 1000000;
	rate = atoll(argv[4]);
	log_fd = open(argv[5], O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (log_fd < 0)
		err(1, "%s", argv[5]);
	const int listener = listen_anywhere(atoi(argv[1]));
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (;;) {
		const int client = accept(listener, NULL, NULL), one = 1;
		pthread_t thread;

		if (client < 0)
			err(1, "accept");
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (pthread_create(&thread, &attr, connection_main, (void *)(intptr_t)client) != 0)
			close(client);
	}
}

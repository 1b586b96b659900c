/* Pictures over the real libcurl, from a server that gives a byte at a time and never ends. */
#include "net/net.h"
#include "test.h"
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DRIP_MS = 20, TOTAL_MS = 2000, STEP_MS = 10, STEPS_MOST = 6000 };

static struct {
	int listening;
	pthread_t thread;
	char url[64];
} server;

static void *drip(void *arg)
{
	static const char head[] = "HTTP/1.1 206 X\r\nContent-Length: 65536\r\n"
				   "Content-Range: bytes 0-65535/100000\r\n\r\n";
	char request[4096];
	const int fd = accept(server.listening, NULL, NULL);

	(void)arg;
	if (fd < 0 || read(fd, request, sizeof request) <= 0)
		return NULL;
	for (ssize_t n = write(fd, head, sizeof head - 1); n > 0; n = write(fd, "p", 1))
		poll(NULL, 0, DRIP_MS);
	close(fd);
	return NULL;
}

static int setup(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof address;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	server.listening = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(server.listening, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(server.listening, 1), 0);
	getsockname(server.listening, (struct sockaddr *)&address, &len);
	snprintf(server.url, sizeof server.url, "http://127.0.0.1:%u/p.png", ntohs(address.sin_port));
	return pthread_create(&server.thread, NULL, drip, NULL);
}

static int teardown(void **state)
{
	(void)state;
	pthread_join(server.thread, NULL);
	return close(server.listening);
}

struct heard {
	bool done;
	enum outcome outcome;
	int64_t received;
};

static bool bytes_seen(void *arg, const void *bytes, size_t len, int64_t total)
{
	(void)arg;
	(void)bytes;
	(void)len;
	return total == 100000;
}

static void ended(void *arg, const struct net_picture_reply *reply)
{
	*(struct heard *)arg = (struct heard){true, reply->outcome, reply->received};
}

/* The lane of these questions is narrow, and each request's success waits for some. */
static void a_question_for_a_size_has_an_end(void **state)
{
	const struct net_config config = {.hub = "http://127.0.0.1:1", .api_total_ms = TOTAL_MS};
	struct net *net = net_create(&config, NULL);
	struct heard heard = {0};

	(void)state;
	net_get_picture(net, NET_WANTED, server.url, 0, 65536, bytes_seen, ended, &heard);
	for (int i = 0; !heard.done && i < STEPS_MOST; i++)
		net_run(net, STEP_MS);
	net_destroy(net); /* the server ends with its connection */
	assert_true(heard.done);
	assert_int_equal(heard.outcome, OUTCOME_TIMEOUT);
	assert_true(heard.received > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_question_for_a_size_has_an_end, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Pictures over the real libcurl: from a server that gives a byte at a time and never ends, and by way of
 * a proxy on a private address, which may be asked for what this machine must not ask for itself. */
#include "net/net.h"
#include "test.h"
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DRIP_MS = 20, TOTAL_MS = 2000, STEP_MS = 10, STEPS_MOST = 6000 };

static struct {
	int listening;
	pthread_t thread;
	char url[64], request[4096];
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

static void serve(void **state)
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
}

static int setup(void **state)
{
	serve(state);
	return pthread_create(&server.thread, NULL, drip, NULL);
}

static int teardown(void **state)
{
	(void)state;
	shutdown(server.listening, SHUT_RDWR); /* ends one that nobody came to */
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

/* ---- proxies ---- */

static void *answer(void *arg)
{
	static const char head[] = "HTTP/1.1 200 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
	const int fd = accept(server.listening, NULL, NULL);

	(void)arg;
	if (fd < 0)
		return NULL;
	const ssize_t n = read(fd, server.request, sizeof server.request - 1);
	server.request[n > 0 ? n : 0] = '\0';
	if (write(fd, head, sizeof head - 1) > 0 && write(fd, "\x89PNG", 4) > 0)
		shutdown(fd, SHUT_WR);
	close(fd);
	return NULL;
}

static int setup_proxy(void **state)
{
	serve(state);
	setenv("http_proxy", server.url, 1);
	return pthread_create(&server.thread, NULL, answer, NULL);
}

static int teardown_proxy(void **state)
{
	unsetenv("http_proxy");
	return teardown(state);
}

static bool take_all(void *arg, const void *bytes, size_t len, int64_t total)
{
	(void)arg;
	(void)bytes;
	(void)len;
	(void)total;
	return true;
}

static enum outcome fetch(struct net *net, const char *url)
{
	struct heard heard = {0};

	net_get_picture(net, NET_WANTED, url, 0, 0, take_all, ended, &heard);
	for (int i = 0; !heard.done && i < STEPS_MOST; i++)
		net_run(net, STEP_MS);
	assert_true(heard.done);
	return heard.outcome;
}

static void a_proxy_may_have_a_private_address(void **state)
{
	static const char *const here[] = {"127.0.0.1", "localhost", "localhost.", "x.localhost", "[::1]",
		"[0:0:0:0:0:0:0:1]", "127.1", "2130706433"};
	const struct net_config config = {.hub = "https://hub.example"};
	struct net *net = net_create(&config, NULL);

	(void)state;
	for (size_t i = 0; i < sizeof here / sizeof *here; i++) {
		char url[256];

		snprintf(url, sizeof url, "http://%s%s", here[i], strrchr(server.url, ':'));
		const enum outcome outcome = fetch(net, url);
		if (outcome == OUTCOME_OK)
			print_error("%s was fetched\n", url);
		assert_int_not_equal(outcome, OUTCOME_OK);
	}
	assert_int_equal(fetch(net, "http://pictures.example/p.png"), OUTCOME_OK);
	assert_non_null(strstr(server.request, "GET http://pictures.example/p.png"));
	net_destroy(net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_proxy_may_have_a_private_address, setup_proxy,
			teardown_proxy),
		cmocka_unit_test_setup_teardown(a_question_for_a_size_has_an_end, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * scripted_hub.h - a hub in a thread, for tests of net and engine: what it answers is set by the test,
 * what it received is counted. The connection ends after every answer, as HTTP/1.1 allows.
 *
 *	struct scripted_hub *hub = hub_start();
 *	hub_say(hub, &hub->post, "HTTP/1.1 202 X\r\n…");	NULL: closes in silence
 *	… hub->url, hub_posts(hub) …
 *	hub_stop(hub);
 */
#ifndef UNIT_SCRIPTED_HUB_H
#define UNIT_SCRIPTED_HUB_H

#include "base/buf.h"
#include "base/util.h"
#include "test.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

struct scripted_hub {
	int fd;
	pthread_t thread;
	char url[64];
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t over;
	int connections; /* being served */
	char *post, *models, *credits, *generation;
	bool idempotent;      /* announces that it knows repeated requests by their key */
	int posts, credits_asked;
	char last_post[8192]; /* head and body */
	/* Called when a POST has been received, before it is answered; may be NULL. */
	void (*received)(void *arg);
	void *arg;
};

static inline char *hub_answer(int status, const char *headers, const char *body)
{
	return xasprintf("HTTP/1.1 %d X\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers,
		strlen(body), body);
}

/* Sets one answer; takes ownership of text. */
static inline void hub_say(struct scripted_hub *hub, char **answer, char *text)
{
	pthread_mutex_lock(&hub->lock);
	free(*answer);
	*answer = text;
	pthread_mutex_unlock(&hub->lock);
}

static inline int hub_posts(struct scripted_hub *hub)
{
	pthread_mutex_lock(&hub->lock);
	const int n = hub->posts;
	pthread_mutex_unlock(&hub->lock);
	return n;
}

/* A whole request into b; false when the connection ended before. */
static inline bool hub_read(int fd, struct buf *b)
{
	char piece[4096];
	const char *end;

	for (;;) {
		end = b->data ? strstr(b->data, "\r\n\r\n") : NULL;
		if (end) {
			const char *length = strcasestr(b->data, "\r\nContent-Length:");
			const size_t want = length ? strtoul(length + 17, NULL, 10) : 0;

			if (b->len >= (size_t)(end + 4 - b->data) + want)
				return true;
		}
		const ssize_t n = read(fd, piece, sizeof piece);
		if (n <= 0)
			return false;
		buf_add(b, piece, (size_t)n);
		if (b->data[0] < 'A')
			return false; /* no HTTP: TLS */
	}
}

static inline char *hub_choose(struct scripted_hub *hub, const char *request, bool *post)
{
	char *said;

	pthread_mutex_lock(&hub->lock);
	*post = strncmp(request, "POST", 4) == 0;
	if (*post) {
		hub->posts++;
		snprintf(hub->last_post, sizeof hub->last_post, "%s", request);
		said = hub->post;
	} else if (strstr(request, "/credits ")) {
		hub->credits_asked++;
		said = hub->credits;
	} else {
		said = strstr(request, "/models ") ? hub->models : hub->generation;
	}
	const char *rest = said ? strchr(said, '\n') : NULL;
	char *answer = !rest ? xstrdup_or_null(said)
			     : xasprintf("%.*s%s%s", (int)(rest + 1 - said), said,
				       hub->idempotent ? "Idempotency: supported\r\n" : "",
				       rest + 1);
	pthread_mutex_unlock(&hub->lock);
	return answer;
}

struct hub_connection {
	struct scripted_hub *hub;
	int fd;
};

static inline void *hub_serve(void *arg)
{
	struct hub_connection c = *(struct hub_connection *)arg;
	struct buf b;
	bool post;

	free(arg);
	buf_init(&b, 1 << 20);
	if (hub_read(c.fd, &b)) {
		char *answer = hub_choose(c.hub, b.data, &post);

		if (post && c.hub->received)
			c.hub->received(c.hub->arg);
		if (answer)
			send(c.fd, answer, strlen(answer), MSG_NOSIGNAL);
		free(answer);
	}
	buf_release(&b);
	close(c.fd);
	pthread_mutex_lock(&c.hub->lock);
	c.hub->connections--;
	pthread_cond_signal(&c.hub->over);
	pthread_mutex_unlock(&c.hub->lock);
	return NULL;
}

static inline void *hub_accept(void *arg)
{
	struct scripted_hub *hub = arg;

	for (;;) {
		const int fd = accept(hub->fd, NULL, NULL);
		pthread_t thread;

		if (fd < 0)
			return NULL;
		struct hub_connection *c = xmalloc(sizeof *c);
		*c = (struct hub_connection){hub, fd};
		pthread_mutex_lock(&hub->lock);
		hub->connections++;
		pthread_mutex_unlock(&hub->lock);
		pthread_create(&thread, NULL, hub_serve, c);
		pthread_detach(thread);
	}
}

static inline struct scripted_hub *hub_start(void)
{
	struct scripted_hub *hub = xcalloc(1, sizeof *hub);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;

	pthread_mutex_init(&hub->lock, NULL);
	pthread_cond_init(&hub->over, NULL);
	hub->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(hub->fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(hub->fd, 128), 0);
	getsockname(hub->fd, (struct sockaddr *)&a, &len);
	snprintf(hub->url, sizeof hub->url, "http://127.0.0.1:%d", ntohs(a.sin_port));
	hub->models = hub_answer(200, "",
		"{\"data\":[{\"id\":\"m1\",\"credits_per_image\":{\"1K\":8,\"4K\":12},"
		"\"reference_image_limit\":4},{\"id\":\"m2\"}]}");
	hub->credits = hub_answer(200, "", "{\"credits\":500}");
	hub->generation = hub_answer(404, "", "{\"error\":{\"message\":\"no\",\"code\":\"notFound\"}}");
	hub->post = hub_answer(202, "", "{\"id\":\"gen_00000001\",\"status\":\"queued\"}");
	assert_int_equal(pthread_create(&hub->thread, NULL, hub_accept, hub), 0);
	return hub;
}

/* Refuses connections from now on. */
static inline void hub_hang_up(struct scripted_hub *hub)
{
	shutdown(hub->fd, SHUT_RDWR); /* close() alone leaves a blocked accept() listening */
	pthread_join(hub->thread, NULL);
	close(hub->fd);
	hub->fd = -1;
}

/* After its clients have gone. */
static inline void hub_stop(struct scripted_hub *hub)
{
	char **answers[] = {&hub->post, &hub->models, &hub->credits, &hub->generation};

	if (hub->fd >= 0)
		hub_hang_up(hub);
	pthread_mutex_lock(&hub->lock);
	while (hub->connections > 0)
		pthread_cond_wait(&hub->over, &hub->lock);
	pthread_mutex_unlock(&hub->lock);
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
		free(*answers[i]);
	pthread_mutex_destroy(&hub->lock);
	pthread_cond_destroy(&hub->over);
	free(hub);
}

#endif

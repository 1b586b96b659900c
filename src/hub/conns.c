#include "hub/conns.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/thread.h"
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

enum { SWEEP_MS = 500 };

struct conn {
	struct list link;
	int fd;
	bool answering;
	int64_t since_ms;
	int64_t received;
};

struct conns {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list all;
	int answering;
	bool stopping, running;
	pthread_t sweeper;
};

static bool is_late(const struct conn *c, int64_t now)
{
	return !c->answering && now - c->since_ms > CONNS_FIRST_MS + c->received / CONNS_RATE;
}

static void *sweeper_main(void *arg)
{
	struct conns *cs = arg;

	pthread_mutex_lock(&cs->lock);
	while (!cs->stopping) {
		const int64_t now = clock_mono_ms();
		const struct timespec next = clock_timespec(now + SWEEP_MS);

		list_for_each_safe (pos, following, &cs->all) {
			const struct conn *c = CONTAINER_OF(pos, struct conn, link);

			if (is_late(c, now))
				shutdown(c->fd, SHUT_RDWR);
		}
		while (!cs->stopping &&
			pthread_cond_timedwait(&cs->changed, &cs->lock, &next) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&cs->lock);
	return NULL;
}

struct conns *conns_start(void)
{
	struct conns *cs = xcalloc(1, sizeof *cs);

	list_init(&cs->all);
	pthread_mutex_init(&cs->lock, NULL);
	thread_cond_init(&cs->changed);
	cs->running = thread_start(&cs->sweeper, "sweeper", sweeper_main, cs) == 0;
	return cs;
}

void conns_stop(struct conns *cs)
{
	if (!cs)
		return;
	pthread_mutex_lock(&cs->lock);
	cs->stopping = true;
	pthread_cond_broadcast(&cs->changed);
	pthread_mutex_unlock(&cs->lock);
	if (cs->running)
		pthread_join(cs->sweeper, NULL);
	pthread_cond_destroy(&cs->changed);
	pthread_mutex_destroy(&cs->lock);
	free(cs);
}

struct conn *conn_open(struct conns *cs, int fd)
{
	struct conn *c = xcalloc(1, sizeof *c);

	*c = (struct conn){.fd = fd, .since_ms = clock_mono_ms()};
	pthread_mutex_lock(&cs->lock);
	list_append(&cs->all, &c->link);
	pthread_mutex_unlock(&cs->lock);
	return c;
}

/* Under lock. */
static void set_answering(struct conns *cs, struct conn *c, bool answering)
{
	if (c->answering == answering)
		return;
	c->answering = answering;
	cs->answering += answering ? 1 : -1;
	if (cs->answering == 0)
		pthread_cond_broadcast(&cs->changed);
}

void conn_close(struct conns *cs, struct conn *c)
{
	pthread_mutex_lock(&cs->lock);
	set_answering(cs, c, false);
	list_remove(&c->link);
	pthread_mutex_unlock(&cs->lock);
	free(c);
}

void conn_received(struct conns *cs, struct conn *c, size_t bytes)
{
	pthread_mutex_lock(&cs->lock);
	c->received += (int64_t)bytes;
	pthread_mutex_unlock(&cs->lock);
}

void conn_answering(struct conns *cs, struct conn *c)
{
	pthread_mutex_lock(&cs->lock);
	set_answering(cs, c, true);
	pthread_mutex_unlock(&cs->lock);
}

void conn_idle(struct conns *cs, struct conn *c)
{
	pthread_mutex_lock(&cs->lock);
	set_answering(cs, c, false);
	c->since_ms = clock_mono_ms();
	c->received = 0;
	pthread_mutex_unlock(&cs->lock);
}

int conns_answering(struct conns *cs)
{
	pthread_mutex_lock(&cs->lock);
	const int n = cs->answering;
	pthread_mutex_unlock(&cs->lock);
	return n;
}

void conns_drain(struct conns *cs, int ms)
{
	const struct timespec until = clock_timespec(clock_mono_ms() + ms);

	pthread_mutex_lock(&cs->lock);
	while (cs->answering > 0)
		if (pthread_cond_timedwait(&cs->changed, &cs->lock, &until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&cs->lock);
}

#include "hub/conns.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/thread.h"
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

enum { SWEEP_MS = 500 };

enum phase_of_conn { RECEIVING, WORKING, SENDING };

struct conn {
	struct list link;
	int fd;
	enum phase_of_conn phase;
	int64_t since_ms; /* of the phase */
	int64_t bytes;	  /* received, or to be sent */
};

struct conns {
	pthread_mutex_t lock;
	pthread_cond_t stop;	/* stopping is set */
	pthread_cond_t drained; /* answering is 0 */
	struct list all;
	int answering; /* how many are working or sending */
	bool stopping, running;
	pthread_t sweeper;
};

static bool is_late(const struct conn *c, int64_t now)
{
	return c->phase != WORKING && now - c->since_ms > CONNS_FIRST_MS + c->bytes / CONNS_RATE;
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
			pthread_cond_timedwait(&cs->stop, &cs->lock, &next) != ETIMEDOUT)
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
	thread_cond_init(&cs->stop);
	thread_cond_init(&cs->drained);
	cs->running = thread_start(&cs->sweeper, "sweeper", sweeper_main, cs) == 0;
	return cs;
}

void conns_stop(struct conns *cs)
{
	if (!cs)
		return;
	pthread_mutex_lock(&cs->lock);
	cs->stopping = true;
	pthread_cond_signal(&cs->stop);
	pthread_mutex_unlock(&cs->lock);
	if (cs->running)
		pthread_join(cs->sweeper, NULL);
	pthread_cond_destroy(&cs->drained);
	pthread_cond_destroy(&cs->stop);
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

static void set_phase(struct conns *cs, struct conn *c, enum phase_of_conn phase, int64_t bytes)
{
	const int64_t now = clock_mono_ms();

	pthread_mutex_lock(&cs->lock);
	cs->answering += (phase != RECEIVING) - (c->phase != RECEIVING);
	if (cs->answering == 0)
		pthread_cond_broadcast(&cs->drained);
	c->phase = phase;
	c->since_ms = now;
	c->bytes = bytes;
	pthread_mutex_unlock(&cs->lock);
}

void conn_close(struct conns *cs, struct conn *c)
{
	set_phase(cs, c, RECEIVING, 0);
	pthread_mutex_lock(&cs->lock);
	list_remove(&c->link);
	pthread_mutex_unlock(&cs->lock);
	free(c);
}

void conn_received(struct conns *cs, struct conn *c, size_t bytes)
{
	pthread_mutex_lock(&cs->lock);
	c->bytes += (int64_t)bytes;
	pthread_mutex_unlock(&cs->lock);
}

void conn_working(struct conns *cs, struct conn *c)
{
	set_phase(cs, c, WORKING, 0);
}

void conn_sending(struct conns *cs, struct conn *c, int64_t bytes)
{
	set_phase(cs, c, SENDING, bytes);
}

void conn_idle(struct conns *cs, struct conn *c)
{
	set_phase(cs, c, RECEIVING, 0);
}

void conns_drain(struct conns *cs, int ms)
{
	const struct timespec until = clock_timespec(clock_mono_ms() + ms);

	pthread_mutex_lock(&cs->lock);
	while (cs->answering > 0)
		if (pthread_cond_timedwait(&cs->drained, &cs->lock, &until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&cs->lock);
}

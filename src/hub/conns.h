/*
 * conns.h - holds every connection to a deadline.
 *
 * MHD's own timeout is an idle time: one byte now and then would hold a connection for ever. So a
 * sweeper ends (shutdown(2)) each connection on which a request has not arrived, or an answer not been
 * taken, within CONNS_FIRST_MS and the time that its bytes take at CONNS_RATE bytes per ms. While the
 * answer is being made there is no deadline; between two requests CONNS_FIRST_MS again.
 *
 * Threads: conn_* from MHD's threads, the sweeper is its own. One leaf lock; MHD tells of the close
 * before it closes the socket, so a socket is never ended after its number went to another.
 */
#ifndef HUB_CONNS_H
#define HUB_CONNS_H

#include "base/util.h"

struct conns;
struct conn;

enum { CONNS_FIRST_MS = 20 * 1000, CONNS_RATE = 32 };

struct conns *conns_start(void);
void conns_stop(struct conns *cs);

struct conn *conn_open(struct conns *cs, int fd);
void conn_close(struct conns *cs, struct conn *c);
void conn_received(struct conns *cs, struct conn *c, size_t bytes);
/* The request is here in full; its answer, of so many bytes, is made; and out. */
void conn_working(struct conns *cs, struct conn *c);
void conn_sending(struct conns *cs, struct conn *c, int64_t bytes);
void conn_idle(struct conns *cs, struct conn *c);
/* Waits until no request is being answered, at most ms. */
void conns_drain(struct conns *cs, int ms);

#endif

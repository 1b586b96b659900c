#include "hub/hub.h"
#include "base/clock.h"
#include "base/log.h"
#include "hub/request.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>

enum {
	CONNECTIONS = 2048,
	CONNECTIONS_PER_ADDRESS = 1024,
	MEMORY_PER_CONNECTION = 16 * 1024, /* bounds a request's head; MHD zeroes it for each */
	THREADS = 2,
	DRAIN_MS = 20 * 1000,
	TICK_MS = 500,
};

/* ---- the three steps of a request ---- */

static struct request *begin(struct hub *h, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct request *r = xcalloc(1, sizeof *r);

	*r = (struct request){
		.hub = h, .connection = connection, .conn = info ? info->socket_context : NULL};
	list_init(&r->link);
	return r;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *bytes, size_t *len, void **context)
{
	struct hub *h = cls;
	struct request *r = *context;

	(void)version;
	if (!r) {
		r = *context = begin(h, connection);
		/* What has no body is answered at the second call: an answer at the first makes MHD
		 * close the connection. */
		if (strcmp(method, "POST") != 0)
			return MHD_YES;
		route_head(r, method, url);
		return MHD_YES;
	}
	if (r->step == STEP_ANSWERED) {
		*len = 0;
		return MHD_YES;
	}
	if (r->step != STEP_BODY)
		return order_resumed(r);
	if (*len > 0 && !r->has_upload) {
		*len = 0;
		return MHD_YES;
	}
	if (*len > 0) {
		if (r->conn)
			conn_received(h->conns, r->conn, *len);
		const bool go_on = upload_add(&r->upload, bytes, *len);
		*len = 0;
		return go_on ? MHD_YES : MHD_NO;
	}
	if (r->has_upload) {
		if (r->conn)
			conn_working(h->conns, r->conn);
		return order_body(r);
	}
	route_head(r, method, url);
	return MHD_YES;
}

static void completed(void *cls, struct MHD_Connection *connection, void **context,
	enum MHD_RequestTerminationCode why)
{
	struct hub *h = cls;
	struct request *r = *context;

	(void)connection;
	(void)why;
	if (!r)
		return;
	if (r->conn)
		conn_idle(h->conns, r->conn);
	if (r->step == STEP_WAIT) {
		pthread_mutex_lock(&h->lock);
		list_remove(&r->link);
		pthread_mutex_unlock(&h->lock);
	}
	if (r->has_upload)
		upload_release(&r->upload);
	free(r->wanted);
	free(r->idempotency_key);
	free(r);
	*context = NULL;
}

static void connection_changed(void *cls, struct MHD_Connection *connection, void **context,
	enum MHD_ConnectionNotificationCode what)
{
	struct hub *h = cls;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		*context = info ? conn_open(h->conns, info->connect_fd) : NULL;
	else if (*context)
		conn_close(h->conns, *context);
}

/* ---- listening ---- */

static int parse_listen(const char *text, struct sockaddr_storage *out, socklen_t *len,
	char **error)
{
	const char *colon = strrchr(text, ':');
	CLEANUP_FREE char *host = colon ? xstrndup(text, (size_t)(colon - text)) : NULL;
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	char *end = NULL;
	const long port = colon ? strtol(colon + 1, &end, 10) : -1;

	*out = (struct sockaddr_storage){0};
	if (!colon || port < 0 || port > 65535 || end == colon + 1 || *end)
		return fail(error, -EINVAL,
			"--listen %s: write ADDRESS:PORT, as in 127.0.0.1:8787", text);
	if (host[0] == '[' && host[strlen(host) - 1] == ']') {
		host[strlen(host) - 1] = '\0';
		memmove(host, host + 1, strlen(host));
	}
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*len = sizeof *v4;
	} else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		*len = sizeof *v6;
	} else {
		return fail(error, -EINVAL, "--listen %s: \"%s\" is no address", text, host);
	}
	return 0;
}

static char *url_of(const char *listen, const struct MHD_Daemon *daemon)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info((struct MHD_Daemon *)daemon, MHD_DAEMON_INFO_BIND_PORT);
	const char *colon = strrchr(listen, ':');

	return xasprintf("http://%.*s:%u", (int)(colon - listen), listen,
		info ? (unsigned)info->port : 0);
}

PRINTF_LIKE(2, 0)
static void mhd_words(void *cls, const char *format, va_list args)
{
	char line[512];

	(void)cls;
	vsnprintf(line, sizeof line, format, args);
	line[strcspn(line, "\n")] = '\0';
	log_debug("http: %s", line);
}

static struct MHD_Daemon *start_daemon(struct hub *h, char **error)
{
	struct sockaddr_storage address;
	socklen_t len = 0;
	unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
		MHD_USE_ERROR_LOG | MHD_USE_TURBO | MHD_USE_ITC;

	if (parse_listen(h->config.listen, &address, &len, error) < 0)
		return NULL;
	if (address.ss_family == AF_INET6)
		flags |= MHD_USE_IPv6;
	struct MHD_Daemon *d = MHD_start_daemon(flags, 0, NULL, NULL, handle, h,
		MHD_OPTION_EXTERNAL_LOGGER, mhd_words, NULL,
		MHD_OPTION_SOCK_ADDR, &address,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
		MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)CONNECTIONS_PER_ADDRESS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_PER_CONNECTION,
		MHD_OPTION_THREAD_POOL_SIZE, (unsigned)THREADS,
		MHD_OPTION_NOTIFY_COMPLETED, completed, h,
		MHD_OPTION_NOTIFY_CONNECTION, connection_changed, h,
		MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u,
		MHD_OPTION_END);
	if (!d)
		fail(error, -errno, "cannot listen on %s: %s", h->config.listen, strerror(errno));
	return d;
}

/* ---- life ---- */

struct hub *hub_create(const struct hub_config *config, struct store *store,
	struct provider *provider, char **error)
{
	struct hub *h = xcalloc(1, sizeof *h);

	h->config = *config;
	h->store = store;
	h->provider = provider;
	h->models = models_builtin();
	list_init(&h->waiting);
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->committed, NULL);
	h->conns = conns_start();
	const int rc = generation_recover(store);
	if (rc < 0)
		fail(error, rc, "the queue cannot be read: %s", strerror(-rc));
	else
		h->workers = workers_start(store, provider, config->workers, &config->trouble,
			orders_ended, h);
	if (h->workers)
		h->daemon = start_daemon(h, error);
	if (!h->daemon) {
		hub_destroy(h);
		return NULL;
	}
	h->url = url_of(config->listen, h->daemon);
	return h;
}

static void hub_stop_workers(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	struct workers *workers = h->workers;
	h->workers = NULL;
	pthread_mutex_unlock(&h->lock);
	workers_stop(workers);
}

const char *hub_url(const struct hub *h)
{
	return h->url;
}

void hub_run(struct hub *h, int stop_fd)
{
	struct pollfd p = {.fd = stop_fd, .events = POLLIN};
	int ready;

	while ((ready = poll(&p, 1, TICK_MS)) == 0 || (ready < 0 && errno == EINTR))
		orders_tick(h);
	const MHD_socket listening = MHD_quiesce_daemon(h->daemon);
	/* What the workers have in hand ends; requests that wait for more are told where to look. */
	hub_stop_workers(h);
	orders_stop_waiting(h);
	conns_drain(h->conns, DRAIN_MS);
	if (listening != MHD_INVALID_SOCKET)
		close(listening);
}

void hub_destroy(struct hub *h)
{
	if (!h)
		return;
	hub_stop_workers(h);
	orders_stop_waiting(h);
	orders_close(h);
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	conns_stop(h->conns);
	wire_models_release(&h->models);
	pthread_cond_destroy(&h->committed);
	pthread_mutex_destroy(&h->lock);
	free(h->url);
	free(h);
}

/*
 * A multipart body as imagehubd is sent it, with the boundary BB. The first byte says in what pieces it
 * comes: what it is read as does not depend on that.
 */
#include "base/picture.h"
#include "hub/request.h"
#include "hub/store.h"
#include "orders.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

static char dir[] = "/tmp/imagehubd-fuzz-XXXXXX";
static struct store *store;
static struct MHD_Daemon *daemon_;

/* What became of an upload. */
struct outcome_seen {
	enum outcome outcome;
	char *error;
	struct order order;
	int n_files;
	int64_t sizes[REFERENCES_MAX];
	unsigned char hash[HASH_SIZE];
	bool over;
};
static struct outcome_seen *seen;

static void outcome_release(struct outcome_seen *s)
{
	free(s->error);
	order_release(&s->order);
}

static void take_files(const struct upload *u)
{
	unsigned char head[64];

	seen->n_files = u->n_files;
	HOLDS(u->n_files <= REFERENCES_MAX);
	for (int i = 0; i < u->n_files; i++) {
		seen->sizes[i] = u->files[i].size;
		const ssize_t n = pread(u->files[i].fd, head, sizeof head, 0);
		HOLDS(seen->outcome != OUTCOME_OK ||
			(n > 0 && picture_probe(head, (size_t)n).type != PICTURE_UNKNOWN));
	}
}

static void end_upload(struct upload *u)
{
	seen->outcome = upload_end(u, &seen->error);
	order_copy(&seen->order, &u->order);
	take_files(u);
	if (seen->outcome == OUTCOME_OK)
		crypto_generichash_final(&u->hash, seen->hash, HASH_SIZE);
	seen->over = true;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *bytes, size_t *len, void **context)
{
	struct upload *u = *context;

	(void)cls;
	(void)url;
	(void)method;
	(void)version;
	if (!u) {
		u = *context = xcalloc(1, sizeof *u);
		HOLDS(upload_begin(u, connection, store, NULL) == 0);
		return MHD_YES;
	}
	if (*len > 0) {
		HOLDS(upload_add(u, bytes, *len));
		*len = 0;
		return MHD_YES;
	}
	end_upload(u);
	struct MHD_Response *none =
		MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
	const enum MHD_Result queued = MHD_queue_response(connection, 200, none);
	MHD_destroy_response(none);
	return queued;
}

static void completed(void *cls, struct MHD_Connection *connection, void **context,
	enum MHD_RequestTerminationCode why)
{
	(void)cls;
	(void)connection;
	(void)why;
	if (*context)
		upload_release(*context);
	free(*context);
	*context = NULL;
}

static void remove_all(void)
{
	CLEANUP_FREE char *command = xasprintf("rm -rf '%s'", dir);

	MHD_stop_daemon(daemon_);
	store_close(store);
	if (system(command) != 0)
		fprintf(stderr, "%s is left over\n", dir);
}

static void begin(void)
{
	bool busy;

	HOLDS(mkdtemp(dir));
	store = store_open(dir, &busy, NULL);
	daemon_ = MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, handle, NULL,
		MHD_OPTION_NOTIFY_COMPLETED, completed, NULL, MHD_OPTION_END);
	HOLDS(store && daemon_);
	atexit(remove_all);
}

static void say(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		const ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		HOLDS(n > 0 || errno == EAGAIN);
		bytes += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
		MHD_run(daemon_);
	}
	MHD_run(daemon_);
}

/* piece: bytes at once; 0: all of them. */
static struct outcome_seen post(const char *body, size_t len, size_t piece)
{
	struct outcome_seen s = {.over = false};
	const struct sockaddr_un nobody = {.sun_family = AF_UNIX};
	CLEANUP_FREE char *head = xasprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n"
		"Content-Type: multipart/form-data; boundary=BB\r\nConnection: close\r\n\r\n", len);
	int fds[2];

	seen = &s;
	HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	HOLDS(MHD_add_connection(daemon_, fds[0], (const struct sockaddr *)&nobody,
		      sizeof(sa_family_t)) == MHD_YES);
	say(fds[1], head, strlen(head));
	for (size_t at = 0; at < len; at += piece)
		say(fds[1], body + at, piece && piece < len - at ? piece : (piece = len - at));
	for (int i = 0; i < 1000 && !s.over; i++)
		MHD_run(daemon_);
	HOLDS(s.over);
	close(fds[1]);
	while (MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)
			->num_connections > 0)
		MHD_run(daemon_);
	return s;
}

/* Nothing of an upload stays. */
static void nothing_left(void)
{
	CLEANUP_FREE char *tmp = xasprintf("%s/tmp", dir);
	DIR *d = opendir(tmp);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	HOLDS(n == 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!store)
		begin();
	if (size < 2)
		return 0;
	struct outcome_seen whole = post((const char *)data + 1, size - 1, 0);
	struct outcome_seen pieces = post((const char *)data + 1, size - 1, 1 + data[0]);

	HOLDS(whole.outcome == pieces.outcome && fuzz_same(whole.error, pieces.error));
	HOLDS(order_equal(&whole.order, &pieces.order) && whole.n_files == pieces.n_files);
	HOLDS(memcmp(whole.sizes, pieces.sizes, sizeof whole.sizes) == 0);
	HOLDS(memcmp(whole.hash, pieces.hash, HASH_SIZE) == 0);
	nothing_left();
	if (whole.outcome == OUTCOME_OK) {
		order_survives(&whole.order);
		fuzz_accepted++;
	} else {
		HOLDS(whole.error && *whole.error);
		refusal_survives(whole.error);
	}
	outcome_release(&whole);
	outcome_release(&pieces);
	return 0;
}

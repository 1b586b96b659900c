#include "hub/admin.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { MESSAGE_MAX = 16 * 1024, WORDS_MAX = 16, ANSWER_MAX = 64 * 1024 * 1024, WAIT_S = 30 };

/* ---- words ---- */

struct words {
	int argc;
	const char *const *argv;
	/* Options, wherever they stand behind the command's own words. */
	const char *credits, *type, *expires;
	const char *plain[WORDS_MAX];
	int n_plain;
};

static int take_option(struct words *w, int *i, char **error)
{
	static const char *const names[] = {"--credits", "--type", "--expires"};
	const char **const values[] = {&w->credits, &w->type, &w->expires};

	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		if (strcmp(w->argv[*i], names[k]) != 0)
			continue;
		if (*i + 1 >= w->argc)
			return fail(error, -EINVAL, "%s needs a value", names[k]);
		*values[k] = w->argv[++*i];
		return 0;
	}
	return fail(error, -EINVAL, "unknown option %s", w->argv[*i]);
}

static int parse(struct words *w, char **error)
{
	for (int i = 0; i < w->argc; i++) {
		if (strncmp(w->argv[i], "--", 2) == 0) {
			const int rc = take_option(w, &i, error);

			if (rc < 0)
				return rc;
		} else if (w->n_plain < WORDS_MAX) {
			w->plain[w->n_plain++] = w->argv[i];
		}
	}
	return 0;
}

static int number(const char *text, int64_t *value, char **error)
{
	char *end;

	*value = strtoll(text, &end, 10);
	return *text && !*end ? 0 : fail(error, -EINVAL, "\"%s\" is no number of credits", text);
}

static int date(const char *text, int64_t *ms, char **error)
{
	*ms = 0;
	if (!text || clock_parse_iso(text, ms) == 0)
		return 0;
	return fail(error, -EINVAL,
		"\"%s\" is no date; write 2026-12-31 or 2026-12-31T18:00:00Z", text);
}

/* ---- commands ---- */

typedef int command_fn(struct store *s, const struct words *w, char **text, char **error);

static int do_account_add(struct store *s, const struct words *w, char **text, char **error)
{
	int64_t credits = 0;
	int rc = w->credits ? number(w->credits, &credits, error) : 0;

	if (rc == 0)
		rc = account_add(s, w->plain[2], credits, w->type ? w->type : "PRO", error);
	if (rc == 0)
		*text = xasprintf("account %s added with %lld credits\n", w->plain[2],
			(long long)credits);
	return rc;
}

static int do_account_list(struct store *s, const struct words *w, char **text, char **error)
{
	(void)w;
	(void)error;
	*text = account_table(s);
	return 0;
}

static int do_grant(struct store *s, const struct words *w, char **text, char **error)
{
	int64_t credits, expires;
	int rc = number(w->plain[3], &credits, error);

	if (rc == 0)
		rc = date(w->expires, &expires, error);
	if (rc == 0)
		rc = credits_grant(s, w->plain[2], credits, expires, error);
	if (rc == 0)
		*text = xasprintf("%lld credits granted to %s\n", (long long)credits, w->plain[2]);
	return rc;
}

static int do_key_create(struct store *s, const struct words *w, char **text, char **error)
{
	CLEANUP_FREE char *raw = NULL;
	int64_t expires;
	int rc = date(w->expires, &expires, error);

	if (rc == 0)
		rc = key_create(s, w->plain[2], expires, &raw, error);
	if (rc == 0)
		*text = xasprintf("%s\n", raw);
	return rc;
}

static int do_key_list(struct store *s, const struct words *w, char **text, char **error)
{
	(void)w;
	(void)error;
	*text = key_table(s);
	return 0;
}

static int do_key_revoke(struct store *s, const struct words *w, char **text, char **error)
{
	const int rc = key_revoke(s, w->plain[2], error);

	if (rc == 0)
		*text = xasprintf("key %s revoked\n", w->plain[2]);
	return rc;
}

static int do_ledger(struct store *s, const struct words *w, char **text, char **error)
{
	*text = ledger_table(s, w->plain[1], error);
	return *text ? 0 : -ENOENT;
}

static const struct {
	const char *first, *second; /* second NULL: none */
	int plain;		    /* words in all */
	command_fn *run;
	const char *usage;
} commands[] = {
	{"account", "add", 3, do_account_add, "account add NAME [--credits N] [--type TYPE]"},
	{"account", "list", 2, do_account_list, "account list"},
	{"credits", "grant", 4, do_grant, "credits grant NAME N [--expires DATE]"},
	{"key", "create", 3, do_key_create, "key create NAME [--expires DATE]"},
	{"key", "list", 2, do_key_list, "key list"},
	{"key", "revoke", 3, do_key_revoke, "key revoke PREFIX"},
	{"ledger", NULL, 2, do_ledger, "ledger NAME"},
};

int admin_run(struct store *s, int argc, const char *const *argv, char **text, char **error)
{
	struct words w = {.argc = argc, .argv = argv};
	int rc = parse(&w, error);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (w.n_plain < 1 || strcmp(commands[i].first, w.plain[0]) != 0)
			continue;
		if (commands[i].second &&
			(w.n_plain < 2 || strcmp(commands[i].second, w.plain[1]) != 0))
			continue;
		if (w.n_plain != commands[i].plain)
			return fail(error, -EINVAL, "usage: imagehubd --data DIR %s",
				commands[i].usage);
		return commands[i].run(s, &w, text, error);
	}
	return fail(error, -EINVAL, "there is no command \"%s%s%s\"; imagehubd --help shows them",
		w.n_plain > 0 ? w.plain[0] : "", w.n_plain > 1 ? " " : "",
		w.n_plain > 1 ? w.plain[1] : "");
}

/* ---- through the serving process: words ended by NULs, answered by a status and a text ---- */

static int address_of(const char *dir, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	const int n = snprintf(a->sun_path, sizeof a->sun_path, "%s/admin.sock", dir);
	return n < (int)sizeof a->sun_path ? 0 : -ENAMETOOLONG;
}

static void set_timeouts(int fd)
{
	const struct timeval t = {.tv_sec = WAIT_S};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static int exchange(int fd, int argc, const char *const *argv, struct buf *answer)
{
	struct buf words;
	int rc = 0;

	buf_init(&words, MESSAGE_MAX);
	for (int i = 0; i < argc; i++)
		rc |= buf_add(&words, argv[i], strlen(argv[i]) + 1);
	rc = rc < 0 ? -E2BIG : files_write_all(fd, words.data, words.len);
	buf_release(&words);
	if (rc == 0 && shutdown(fd, SHUT_WR) < 0)
		rc = -errno;
	return rc < 0 ? rc : files_read_fd(fd, answer);
}

int admin_ask(const char *dir, int argc, const char *const *argv, char **text, char **error)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	struct buf answer;

	if (fd < 0 || address_of(dir, &address) < 0 ||
		connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return fail(error, -ENOENT, "the hub that serves %s does not answer", dir);
	set_timeouts(fd);
	buf_init(&answer, ANSWER_MAX);
	int rc = exchange(fd, argc, argv, &answer);
	if (rc == 0 && answer.len == 0)
		rc = -EIO;
	if (rc < 0)
		fail(error, rc, "the hub that serves %s does not answer: %s", dir, strerror(-rc));
	else if (answer.data[0] == '+')
		*text = xstrdup(answer.data + 1);
	else
		rc = fail(error, -EINVAL, "%s", answer.data + 1);
	buf_release(&answer);
	return rc;
}

struct admin {
	struct store *store;
	char *path;
	int fd, stop[2];
	bool running;
	pthread_t thread;
};

static void serve_one(struct admin *a, int fd)
{
	const char *argv[WORDS_MAX * 2];
	CLEANUP_FREE char *text = NULL;
	CLEANUP_FREE char *error = NULL;
	struct buf words;
	int argc = 0;

	set_timeouts(fd);
	buf_init(&words, MESSAGE_MAX);
	if (files_read_fd(fd, &words) == 0) {
		for (size_t at = 0; at < words.len && argc < (int)ARRAY_SIZE(argv);
			at += strlen(words.data + at) + 1)
			argv[argc++] = words.data + at;
		const int rc = admin_run(a->store, argc, argv, &text, &error);
		const char *said = rc == 0 ? text : error ? error : strerror(-rc);

		if (files_write_all(fd, rc == 0 ? "+" : "-", 1) == 0)
			files_write_all(fd, said, strlen(said));
	}
	buf_release(&words);
}

static void *admin_main(void *arg)
{
	struct admin *a = arg;
	struct pollfd fds[2] = {{.fd = a->fd, .events = POLLIN}, {.fd = a->stop[0], .events = POLLIN}};

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			break;
		CLEANUP_CLOSE int fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			serve_one(a, fd);
	}
	return NULL;
}

struct admin *admin_start(struct store *s, char **error)
{
	struct admin *a = xcalloc(1, sizeof *a);
	struct sockaddr_un address;

	a->store = s;
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (a->fd < 0 || pipe2(a->stop, O_CLOEXEC) < 0 || address_of(store_dir(s), &address) < 0) {
		fail(error, -errno, "no socket for the owner's commands in %s", store_dir(s));
		free(a);
		return NULL;
	}
	unlink(address.sun_path);
	a->path = xstrdup(address.sun_path);
	const mode_t mask = umask(0177);
	const bool good = bind(a->fd, (struct sockaddr *)&address, sizeof address) == 0 &&
		listen(a->fd, 8) == 0;
	umask(mask);
	if (!good)
		log_warning("%s: %s; commands must wait until the hub stops", a->path,
			strerror(errno));
	a->running = thread_start(&a->thread, "admin", admin_main, a) == 0;
	return a;
}

void admin_stop(struct admin *a)
{
	if (!a)
		return;
	if (a->running && write(a->stop[1], "x", 1) == 1)
		pthread_join(a->thread, NULL);
	unlink(a->path);
	close(a->fd);
	close(a->stop[0]);
	close(a->stop[1]);
	free(a->path);
	free(a);
}

#include "local/embedded.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/exit_status.h"
#include "base/files.h"
#include "base/log.h"
#include "base/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

enum {
	OUTPUT_MAX = 64 * 1024,
	START_MS = 10 * 1000,
	STOP_MS = 3 * 1000,
	STEP_MS = 20,
	RESTART_MS = 1000,
	LISTEN_ARG = 4, /* in the arguments of `serve` */
};

/* imagehubd beside our own program, else by $PATH. */
static char *find_program(void)
{
	char self[4096];
	const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		CLEANUP_FREE char *beside =
			xasprintf("%.*s/imagehubd", (int)(slash - self), self);
		if (access(beside, X_OK) == 0) {
			char *found = beside;
			beside = NULL;
			return found;
		}
	}
	return xstrdup("imagehubd");
}

/* Starts it with these arguments; its output comes through *output, *input (may be NULL) leads to its
 * standard input, and what it has to say goes to log (-1: to ours). The pid, or a negative errno. */
static pid_t spawn(const char *const *argv, int *output, int *input, int log)
{
	int out[2], in[2] = {-1, -1};

	if (pipe2(out, O_CLOEXEC) < 0 || (input && pipe2(in, O_CLOEXEC) < 0))
		return -errno;
	const pid_t pid = fork();
	if (pid == 0) {
		const int from = input ? in[0] : open("/dev/null", O_RDONLY);
		sigset_t none;

		if (dup2(from, 0) < 0 || dup2(out[1], 1) < 0 || (log >= 0 && dup2(log, 2) < 0))
			_exit(126);
		sigemptyset(&none); /* a thread's are blocked */
		sigprocmask(SIG_SETMASK, &none, NULL);
		setpgid(0, 0);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	close(out[1]);
	if (input)
		close(in[0]);
	if (pid < 0) {
		const int err = errno;

		close(out[0]);
		if (input)
			close(in[1]);
		return -err;
	}
	*output = out[0];
	if (input)
		*input = in[1];
	return pid;
}

static int not_found(const char *program, char **error)
{
	fail(error, -ENOENT,
		"--local needs the program imagehubd beside this one or in $PATH (%s does not start)",
		program);
	return STATUS_NO_LOCAL_HUB;
}

/* Runs a command of imagehubd's to its end; its output into out. */
static int run(const char *program, const char *data, const char *const *words, struct buf *out,
	char **error)
{
	const char *argv[EMBEDDED_ARGS] = {program, "--data", data};
	int n = 3, output, status;

	while (*words)
		argv[n++] = *words++;
	const pid_t pid = spawn(argv, &output, NULL, -1);
	if (pid < 0)
		return not_found(program, error);
	const int rc = files_read_fd(output, out);
	close(output);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) == 127)
		return not_found(program, error);
	if (rc < 0 || WEXITSTATUS(status) != 0) {
		fail(error, -EIO, "the hub of --local cannot be prepared in %s", data);
		return STATUS_NO_LOCAL_HUB;
	}
	return STATUS_OK;
}

/* The key that was made at the first start, or a new one with its account. */
static int provision(const char *program, const char *state, const char *data, char **key,
	char **error)
{
	static const char *const add[] = {"account", "add", "local", "--credits", "1000", NULL};
	static const char *const make[] = {"key", "create", "local", NULL};
	CLEANUP_CLOSE int dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct buf b;
	int status = STATUS_OK;

	buf_init(&b, OUTPUT_MAX);
	if (dir < 0 || files_read(dir, "local-key", &b) < 0) {
		/* A start that was killed in between has left the account. */
		run(program, data, add, &b, NULL);
		buf_reset(&b);
		status = run(program, data, make, &b, error);
		if (status == STATUS_OK &&
			files_write_durable(dir, "local-key", b.data, b.len) < 0) {
			fail(error, -EIO, "the key of --local cannot be kept in %s", state);
			status = STATUS_NO_LOCAL_HUB;
		}
	}
	if (status == STATUS_OK)
		*key = xstrndup(b.data, strcspn(b.data, "\n"));
	buf_release(&b);
	return status;
}

static int read_url(int output, char **url, char **error)
{
	static const char words[] = "listening on ";
	const int64_t deadline = clock_mono_ms() + START_MS;
	char line[512] = "";
	size_t len = 0;

	while (len < sizeof line - 1 && !memchr(line, '\n', len)) {
		struct pollfd p = {.fd = output, .events = POLLIN};
		const int64_t left = deadline - clock_mono_ms();
		const int ready = left > 0 ? poll(&p, 1, (int)left) : 0;

		if (ready < 0 && errno == EINTR)
			continue;
		const ssize_t n = ready > 0 ? read(output, line + len, sizeof line - 1 - len) : 0;
		if (n <= 0) {
			fail(error, -EIO, "the hub of --local does not start");
			return STATUS_NO_LOCAL_HUB;
		}
		len += (size_t)n;
	}
	line[len] = '\0';
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, words, sizeof words - 1) != 0) {
		fail(error, -EIO, "the hub of --local says \"%s\"", line);
		return STATUS_NO_LOCAL_HUB;
	}
	*url = xstrdup(line + sizeof words - 1);
	return STATUS_OK;
}

/* Its first line says where it listens. */
static int start_hub(struct embedded *e, char **error)
{
	int output = -1, status;

	e->pid = spawn(e->argv, &output, &e->input, e->log);
	if (e->pid < 0)
		return not_found(e->argv[0], error);
	status = read_url(output, &e->url, error);
	close(output);
	return status;
}

static void set_arguments(struct embedded *e, const char *const *options, int n)
{
	const char *argv[] = {e->program, "--data", e->data, "--listen", "127.0.0.1:0",
		"--exit-with-stdin"};
	size_t k = ARRAY_SIZE(argv);

	memcpy(e->argv, argv, sizeof argv);
	for (int i = 0; i < n; i++)
		e->argv[k++] = options[i];
	e->argv[k] = "serve";
}

int embedded_start(const char *state, const char *const *options, int n, struct embedded *e,
	char **error)
{
	*e = (struct embedded){.input = -1, .log = -1, .stop = -1};
	e->program = find_program();
	e->data = files_join(state, "hub");
	set_arguments(e, options, n);
	int status = provision(e->program, state, e->data, &e->key, error);
	if (status)
		return status;
	/* Not into our own: that is often a pipe, whose reader would wait for as long as the hub lives. */
	CLEANUP_FREE char *log = files_join(state, "hub.log");
	e->log = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (e->log < 0) {
		fail(error, -errno, "%s cannot be written: %s", log, strerror(errno));
		return STATUS_NO_LOCAL_HUB;
	}
	status = start_hub(e, error);
	if (status && error && *error) {
		char *text = xasprintf("%s; %s may say why", *error, log);

		free(*error);
		*error = text;
	}
	return status;
}

/* ---- a hub that ends by itself ---- */

/* Once more, on the port that it had. */
static void restart(struct embedded *e)
{
	int output;

	e->argv[LISTEN_ARG] = strstr(e->url, "://") + 3;
	e->pid = spawn(e->argv, &output, &e->input, e->log);
	if (e->pid > 0)
		close(output);
	else
		e->input = -1;
}

static void clear_away(struct embedded *e)
{
	waitpid(e->pid, NULL, 0);
	close(e->input);
	e->input = -1;
	e->pid = 0;
	log_warning("the hub of --local has ended; it is started again");
}

static void *watch(void *arg)
{
	struct embedded *e = arg;

	for (;;) {
		CLEANUP_CLOSE int pidfd = e->pid > 0 ? pidfd_open(e->pid, 0) : -1;
		struct pollfd fds[2] = {{.fd = e->stop, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};

		if (e->pid > 0 && pidfd < 0)
			return NULL;
		if (poll(fds, 2, e->pid > 0 ? -1 : RESTART_MS) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		if (e->pid <= 0)
			restart(e);
		else if (fds[1].revents)
			clear_away(e);
	}
}

void embedded_watch(struct embedded *e)
{
	if (e->pid <= 0)
		return;
	e->stop = eventfd(0, EFD_CLOEXEC);
	e->watched = e->stop >= 0 && thread_start(&e->watcher, "local hub", watch, e) == 0;
}

/* ---- the end ---- */

static bool ended(pid_t pid, int ms)
{
	for (int64_t until = clock_mono_ms() + ms; clock_mono_ms() < until;) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return true;
		poll(NULL, 0, STEP_MS);
	}
	return false;
}

void embedded_stop(struct embedded *e)
{
	if (e->watched && write(e->stop, &(uint64_t){1}, sizeof(uint64_t)) > 0)
		pthread_join(e->watcher, NULL);
	if (e->stop >= 0)
		close(e->stop);
	if (e->input >= 0)
		close(e->input);
	if (e->pid > 0 && !ended(e->pid, STOP_MS)) {
		kill(e->pid, SIGTERM);
		if (!ended(e->pid, STOP_MS)) {
			kill(e->pid, SIGKILL);
			waitpid(e->pid, NULL, 0);
		}
	}
	if (e->log >= 0)
		close(e->log);
	free(e->url);
	free(e->key);
	free(e->program);
	free(e->data);
	*e = (struct embedded){.input = -1, .log = -1, .stop = -1};
}

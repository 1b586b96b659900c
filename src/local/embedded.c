#include "local/embedded.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/exit_status.h"
#include "base/files.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

enum {
	ARGS_MAX = 64,
	OUTPUT_MAX = 64 * 1024,
	START_MS = 10 * 1000,
	STOP_MS = 3 * 1000,
	STEP_MS = 20,
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

/* Starts it with these arguments; its output, and its stderr unless that is ours, comes through
 * *output, and *input (may be NULL) leads to its standard input. The pid, or a negative errno. */
static pid_t spawn(const char *const *argv, bool our_stderr, int *output, int *input)
{
	int out[2], in[2] = {-1, -1};

	if (pipe2(out, O_CLOEXEC) < 0 || (input && pipe2(in, O_CLOEXEC) < 0))
		return -errno;
	const pid_t pid = fork();
	if (pid == 0) {
		const int from = input ? in[0] : open("/dev/null", O_RDONLY);

		if (dup2(from, 0) < 0 || dup2(out[1], 1) < 0 ||
			(!our_stderr && dup2(out[1], 2) < 0))
			_exit(126);
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
	const char *argv[ARGS_MAX] = {program, "--data", data};
	int n = 3, output, status;

	while (*words)
		argv[n++] = *words++;
	const pid_t pid = spawn(argv, true, &output, NULL);
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

/* Of the line that says where it listens; NULL before that is complete. */
static char *find_url(const char *text)
{
	static const char words[] = "listening on ";
	const char *at = strstr(text, words);
	const char *end = at ? strchr(at, '\n') : NULL;

	return end && (at == text || at[-1] == '\n')
		? xstrndup(at + strlen(words), (size_t)(end - at) - strlen(words))
		: NULL;
}

static int read_url(int output, char **url, char **error)
{
	const int64_t deadline = clock_mono_ms() + START_MS;
	char text[4096] = "";
	size_t len = 0;

	while (!(*url = find_url(text)) && len < sizeof text - 1) {
		struct pollfd p = {.fd = output, .events = POLLIN};
		const int64_t left = deadline - clock_mono_ms();
		const int ready = left > 0 ? poll(&p, 1, (int)left) : 0;

		if (ready < 0 && errno == EINTR)
			continue;
		const ssize_t n = ready > 0 ? read(output, text + len, sizeof text - 1 - len) : 0;
		if (n <= 0)
			break;
		len += (size_t)n;
		text[len] = '\0';
	}
	if (*url)
		return STATUS_OK;
	text[strcspn(text, "\n")] = '\0';
	fail(error, -EIO, "the hub of --local does not start%s%s", *text ? ": " : "", text);
	return STATUS_NO_LOCAL_HUB;
}

int embedded_start(const char *state, const char *const *options, int n, bool foreground,
	struct embedded *e, char **error)
{
	CLEANUP_FREE char *program = find_program();
	CLEANUP_FREE char *data = files_join(state, "hub");
	const char *argv[ARGS_MAX] = {
		program, "--data", data, "--listen", "127.0.0.1:0", "--exit-with-stdin"};
	int args = 6, output;

	*e = (struct embedded){.input = -1};
	int status = provision(program, state, data, &e->key, error);
	if (status)
		return status;
	for (int i = 0; i < n; i++)
		argv[args++] = options[i];
	argv[args] = "serve";
	e->pid = spawn(argv, foreground, &output, &e->input);
	if (e->pid < 0)
		return not_found(program, error);
	status = read_url(output, &e->url, error);
	close(output);
	return status;
}

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
	if (e->input >= 0)
		close(e->input);
	if (e->pid > 0 && !ended(e->pid, STOP_MS)) {
		kill(e->pid, SIGTERM);
		if (!ended(e->pid, STOP_MS)) {
			kill(e->pid, SIGKILL);
			waitpid(e->pid, NULL, 0);
		}
	}
	free(e->url);
	free(e->key);
	*e = (struct embedded){.input = -1};
}

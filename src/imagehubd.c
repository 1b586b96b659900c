/*
 * imagehubd - a hub of one's own. Options and wiring only; src/hub/hub.h begins the rest.
 */
#include "base/files.h"
#include "base/log.h"
#include "hub/admin.h"
#include "hub/hub.h"
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

enum { EXIT_USAGE = 2, WORKERS_MAX = 64, WAIT_MAX_S = 800, PREDECESSOR_MS = 5000 };

static const char usage[] =
	"usage: imagehubd --data DIR [OPTION…] serve\n"
	"       imagehubd --data DIR account add NAME [--credits N] [--type TYPE]\n"
	"       imagehubd --data DIR account list\n"
	"       imagehubd --data DIR credits grant NAME N [--expires DATE]\n"
	"       imagehubd --data DIR key create NAME [--expires DATE]\n"
	"       imagehubd --data DIR key list | key revoke PREFIX\n"
	"       imagehubd --data DIR ledger NAME\n"
	"\n"
	"  --data DIR             where accounts, ledger and pictures are kept\n"
	"  --listen ADDRESS:PORT  127.0.0.1:8787; port 0 takes a free one\n"
	"  --public-url URL       what URLs in answers begin with (behind a proxy)\n"
	"  --provider sketch      what makes the pictures\n"
	"  --workers N            pictures made at once (2)\n"
	"  --wait-max SECONDS     a call without async waits so long at most (800)\n"
	"  --exit-with-stdin      end when standard input ends (for an embedding program)\n"
	"  --verbose              say more\n"
	"For tests: --sketch-delay MS, --sketch-fail EVERY, --sketch-fewer, --sketch-bytes N,\n"
	"--hold\n";

struct options {
	const char *data;
	struct hub_config hub;
	int sketch_bytes;
	bool exit_with_stdin, verbose;
};

enum { OPT_DATA = 256, OPT_LISTEN, OPT_PUBLIC_URL, OPT_PROVIDER, OPT_WORKERS, OPT_WAIT_MAX,
	OPT_EXIT_WITH_STDIN, OPT_VERBOSE, OPT_DELAY, OPT_FAIL, OPT_FEWER, OPT_BYTES, OPT_HOLD, OPT_HELP,
	OPT_SHOW_VERSION };

static const struct option long_options[] = {
	{"data", required_argument, NULL, OPT_DATA},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"public-url", required_argument, NULL, OPT_PUBLIC_URL},
	{"provider", required_argument, NULL, OPT_PROVIDER},
	{"workers", required_argument, NULL, OPT_WORKERS},
	{"wait-max", required_argument, NULL, OPT_WAIT_MAX},
	{"exit-with-stdin", no_argument, NULL, OPT_EXIT_WITH_STDIN},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"sketch-delay", required_argument, NULL, OPT_DELAY},
	{"sketch-fail", required_argument, NULL, OPT_FAIL},
	{"sketch-fewer", no_argument, NULL, OPT_FEWER},
	{"sketch-bytes", required_argument, NULL, OPT_BYTES},
	{"hold", no_argument, NULL, OPT_HOLD},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_SHOW_VERSION},
	{0},
};

PRINTF_LIKE(1, 2) static int bad(const char *format, ...)
{
	va_list args;

	fputs("imagehubd: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("\n(imagehubd --help shows what is possible)\n", stderr);
	return EXIT_USAGE;
}

static bool number(const char *text, int least, int most, int *value)
{
	char *end;
	const long n = strtol(text, &end, 10);

	*value = (int)n;
	return *text && !*end && n >= least && n <= most;
}

/* One option; -1 goes on, anything else is the exit status. */
static int take(struct options *o, int option)
{
	int seconds;

	switch (option) {
	case OPT_DATA:
		o->data = optarg;
		return -1;
	case OPT_LISTEN:
		o->hub.listen = optarg;
		return -1;
	case OPT_PUBLIC_URL:
		o->hub.public_url = optarg;
		return -1;
	case OPT_PROVIDER:
		return strcmp(optarg, "sketch") == 0 ? -1 : bad("there is no provider \"%s\"", optarg);
	case OPT_WORKERS:
		return number(optarg, 1, WORKERS_MAX, &o->hub.workers)
			? -1
			: bad("--workers %s: 1 to 64", optarg);
	case OPT_WAIT_MAX:
		if (!number(optarg, 1, WAIT_MAX_S, &seconds))
			return bad("--wait-max %s: 1 to %d seconds", optarg, WAIT_MAX_S);
		o->hub.wait_max_ms = seconds * 1000;
		return -1;
	case OPT_DELAY:
		return number(optarg, 0, 3600000, &o->hub.trouble.delay_ms)
			? -1
			: bad("--sketch-delay %s: milliseconds", optarg);
	case OPT_FAIL:
		return number(optarg, 0, 1000000, &o->hub.trouble.fail_every)
			? -1
			: bad("--sketch-fail %s: every how many", optarg);
	case OPT_FEWER:
		o->hub.trouble.fewer = true;
		return -1;
	case OPT_BYTES:
		return number(optarg, 0, PROVIDER_PICTURE_MAX, &o->sketch_bytes)
			? -1
			: bad("--sketch-bytes %s: the least size of a picture, up to 64 MiB", optarg);
	case OPT_HOLD:
		o->hub.trouble.hold = true;
		return -1;
	case OPT_EXIT_WITH_STDIN:
		o->exit_with_stdin = true;
		return -1;
	case OPT_VERBOSE:
		o->verbose = true;
		return -1;
	case OPT_HELP:
		fputs(usage, stdout);
		return 0;
	case OPT_SHOW_VERSION:
		puts("imagehubd " VERSION);
		return 0;
	default:
		return EXIT_USAGE;
	}
}

static int parse(int argc, char **argv, struct options *o)
{
	int option;

	*o = (struct options){.hub = {.listen = "127.0.0.1:8787", .workers = 2,
		.wait_max_ms = WAIT_MAX_S * 1000}};
	/* '+': the options of account, key and credits are theirs. */
	while ((option = getopt_long(argc, argv, "+", long_options, NULL)) != -1) {
		const int status = take(o, option);

		if (status >= 0)
			return status;
	}
	if (!o->data)
		return bad("--data DIR is missing");
	return optind < argc ? -1 : bad("what should it do? For instance: serve");
}

/* ---- serving ---- */

/* A descriptor that becomes readable when it is time to end. */
static int stop_signal(const struct options *o)
{
	sigset_t stop;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	if (!o->exit_with_stdin)
		sigaddset(&stop, SIGHUP);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	return signalfd(-1, &stop, SFD_CLOEXEC);
}

/* Two descriptors as one: stdin's end counts as a signal. */
static void wait_for_either(int signals, int input)
{
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = input, .events = POLLIN}};
	char rest[256];

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return;
		if (fds[0].revents || (fds[1].revents && read(input, rest, sizeof rest) <= 0))
			return;
	}
}

static void *watch_input(void *arg)
{
	wait_for_either(((const int *)arg)[0], STDIN_FILENO);
	if (write(((const int *)arg)[1], "x", 1) < 0)
		return NULL;
	return NULL;
}

static void raise_descriptors(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max < 65536 ? l.rlim_max : 65536;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static void run(struct hub *h, const struct options *o, int signals)
{
	int ends[2], both[2];
	pthread_t watcher;

	printf("listening on %s\n", hub_url(h));
	fflush(stdout);
	if (!o->exit_with_stdin || pipe(ends) < 0) {
		hub_run(h, signals);
		return;
	}
	both[0] = signals;
	both[1] = ends[1];
	if (pthread_create(&watcher, NULL, watch_input, both) == 0) {
		hub_run(h, ends[0]);
		pthread_join(watcher, NULL);
	}
	close(ends[0]);
	close(ends[1]);
}

static int serve(const struct options *o, struct store *s)
{
	CLEANUP_FREE char *error = NULL;
	const int signals = stop_signal(o);
	struct provider *provider = sketch_create((size_t)o->sketch_bytes);
	struct admin *admin = admin_start(s, &error);
	struct hub *h = admin ? hub_create(&o->hub, s, provider, &error) : NULL;

	raise_descriptors();
	if (h)
		run(h, o, signals);
	else
		log_error("%s", error);
	admin_stop(admin);
	hub_destroy(h);
	provider->destroy(provider);
	close(signals);
	return h ? 0 : 1;
}

/* ---- commands ---- */

static int command(const struct options *o, struct store *s, int argc, const char *const *argv)
{
	CLEANUP_FREE char *error = NULL;
	CLEANUP_FREE char *text = NULL;
	const int rc = s ? admin_run(s, argc, argv, &text, &error)
			 : admin_ask(o->data, argc, argv, &text, &error);

	if (rc == 0)
		fputs(text, stdout);
	else
		log_error("%s", error ? error : strerror(-rc));
	return rc == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	CLEANUP_FREE char *error = NULL;
	struct options o;
	bool busy = false;
	int status;

	files_hold_standard();
	status = parse(argc, argv, &o);
	if (status >= 0)
		return status;
	log_init("imagehubd", o.verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	const bool serves = strcmp(argv[optind], "serve") == 0;
	if (serves && optind + 1 < argc)
		return bad("unexpected: %s", argv[optind + 1]);
	/* The one before of an embedding program that was killed is about to end. */
	const int wait_ms = serves && o.exit_with_stdin ? PREDECESSOR_MS : 0;
	struct store *s = store_open(o.data, wait_ms, &busy, &error);
	if (!s && (!busy || serves)) {
		log_error("%s", error);
		return 1;
	}
	status = serves ? serve(&o, s)
			: command(&o, s, argc - optind, (const char *const *)argv + optind);
	store_close(s);
	return status;
}

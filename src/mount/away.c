/*
 * The end of a mount that was taken away here and lives on elsewhere.
 *
 * The kernel ends a connection with the last mount of it. A mount namespace that was made meanwhile (by
 * a container, by unshare(1)) has a copy that `fusermount3 -u` does not reach, and the program would go
 * on, send and hold its state for as long as that lives. So a thread watches /proc/self/mountinfo: once
 * this file system is not there any more and nothing is open on it (what is open outlives a lazy
 * unmount), the loop ends.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>

enum {
	AGAIN_MS = 50,
	GRACE_MS = 2000, /* for the kernel to end what nobody else has */
	DEVICE_MAX = 32,
};

static const char mountinfo[] = "/proc/self/mountinfo";

struct away {
	struct mount *m;
	char device[DEVICE_MAX]; /* the file system's "major:minor" */
	int changes, poke;	 /* descriptors: of mountinfo, an eventfd */
	pthread_t thread, loop;
	atomic_int open; /* files and folders */
	atomic_bool gone, stopping;
};

/* ---- /proc/self/mountinfo ---- */

/* "\040" is how a blank stands there. */
static void unescape(char *text)
{
	unsigned code;
	char *to = text;

	for (; *text; to++)
		if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
			*to = (char)code;
			text += 4;
		} else {
			*to = *text++;
		}
	*to = '\0';
}

/* Each mount, the latest last, until fn returns false. Whether they could be read. */
static bool each_mount(bool (*fn)(void *arg, const char *device, const char *path), void *arg)
{
	char device[DEVICE_MAX], *line = NULL, *path;
	size_t size = 0;
	bool more = true;
	FILE *f = fopen(mountinfo, "re");

	while (f && more && getline(&line, &size, f) > 0) {
		if (sscanf(line, "%*s %*s %31s %*s %ms", device, &path) != 2)
			continue;
		unescape(path);
		more = fn(arg, device, path);
		free(path);
	}
	free(line);
	return f && fclose(f) == 0;
}

static bool note_device(void *arg, const char *device, const char *path)
{
	struct away *a = arg;

	if (strcmp(path, a->m->path) == 0)
		snprintf(a->device, sizeof a->device, "%s", device);
	return true;
}

struct search {
	const char *device;
	bool found;
};

static bool compare_device(void *arg, const char *device, const char *path)
{
	struct search *s = arg;

	(void)path;
	s->found = strcmp(device, s->device) == 0;
	return !s->found;
}

static bool is_mounted(const struct away *a)
{
	struct search s = {.device = a->device};

	return !each_mount(compare_device, &s) || s.found;
}

/* ---- the thread ---- */

static void poke(struct away *a)
{
	eventfd_write(a->poke, 1);
}

static void wait_for_change(struct away *a)
{
	struct pollfd p[] = {{.fd = a->changes, .events = POLLPRI}, {.fd = a->poke, .events = POLLIN}};
	eventfd_t count;

	poll(p, 2, -1);
	if (p[1].revents)
		eventfd_read(a->poke, &count);
}

/* Whether the kernel has not ended the connection by itself, as it does when the last mount has gone. */
static bool lives_on(struct away *a)
{
	struct pollfd device = {.fd = fuse_session_fd(a->m->session)}; /* POLLERR is always told */
	const int64_t end = clock_mono_ms() + GRACE_MS;

	while (!atomic_load(&a->stopping) && clock_mono_ms() < end)
		if (poll(&device, 1, AGAIN_MS) > 0)
			return false;
	return !atomic_load(&a->stopping);
}

/* The loop's thread waits for its workers, and looks whether it should end only when a signal comes. */
static void end_loop(struct away *a)
{
	struct pollfd p = {.fd = a->poke, .events = POLLIN};

	fuse_session_exit(a->m->session);
	do
		pthread_kill(a->loop, SIGUSR1);
	while (poll(&p, 1, AGAIN_MS) <= 0 || !atomic_load(&a->stopping));
}

static void *away_main(void *arg)
{
	struct away *a = arg;

	while (!atomic_load(&a->stopping)) {
		if (!is_mounted(a))
			atomic_store(&a->gone, true);
		if (atomic_load(&a->gone) && atomic_load(&a->open) == 0) {
			if (lives_on(a))
				end_loop(a);
			break;
		}
		wait_for_change(a);
	}
	return NULL;
}

static void nothing(int number)
{
	(void)number;
}

struct away *away_start(struct mount *m)
{
	struct away *a = xcalloc(1, sizeof *a);
	const struct sigaction interrupt = {.sa_handler = nothing};

	a->m = m;
	a->loop = pthread_self();
	a->changes = open(mountinfo, O_RDONLY | O_CLOEXEC);
	a->poke = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	each_mount(note_device, a);
	sigaction(SIGUSR1, &interrupt, NULL);
	if (a->changes >= 0 && a->poke >= 0 && a->device[0] &&
		thread_start(&a->thread, "away", away_main, a) == 0)
		return a;
	log_warning("cannot watch for the end of the mount: where another mount namespace has a copy, end "
		    "this program by SIGTERM");
	close(a->changes);
	close(a->poke);
	free(a);
	return NULL;
}

bool away_stop(struct away *a)
{
	if (!a)
		return false;
	atomic_store(&a->stopping, true);
	poke(a);
	pthread_join(a->thread, NULL);
	const bool gone = atomic_load(&a->gone);
	close(a->changes);
	close(a->poke);
	free(a);
	return gone;
}

/* ---- what is open ---- */

int away_reply_open(struct mount *m, fuse_req_t req, const struct fuse_file_info *fi)
{
	away_opened(m);
	const int rc = fuse_reply_open(req, fi);
	if (rc < 0)
		away_closed(m);
	return rc;
}

void away_opened(struct mount *m)
{
	if (m->away)
		atomic_fetch_add(&m->away->open, 1);
}

void away_closed(struct mount *m)
{
	struct away *a = m->away;

	if (a && atomic_fetch_sub(&a->open, 1) == 1 && atomic_load(&a->gone))
		poke(a);
}

/*
 * Deleting prompts: whoever removes cat.prompt makes cat.status and cat.png go as well, and then
 * still removes those, as it has listed them before. `rm -r` and file managers would complain. So for
 * a few seconds, and only for the process that removed the prompt, those names can still be found and
 * removed, when it has listed the folder itself or its parent has (`rm *`: the shell).
 */
#include "base/clock.h"
#include "mount/internal.h"
#include <fcntl.h>
#include <stdio.h>

enum { LISTED_MS = 60 * 1000, GHOST_MS = 5 * 1000, MOST = 4096 };

struct trace {
	struct list link;
	int64_t dir;
	pid_t process;
	int64_t until_ms;
	char *name;	/* a ghost; NULL: the process has listed dir */
	fuse_ino_t ino; /* a ghost's */
};

struct ghosts {
	pthread_mutex_t lock;
	struct list traces; /* oldest first */
	int count;
};

struct ghosts *ghosts_create(void)
{
	struct ghosts *g = xcalloc(1, sizeof *g);

	pthread_mutex_init(&g->lock, NULL);
	list_init(&g->traces);
	return g;
}

static void drop(struct ghosts *g, struct trace *t)
{
	list_remove(&t->link);
	g->count--;
	free(t->name);
	free(t);
}

void ghosts_destroy(struct ghosts *g)
{
	if (!g)
		return;
	list_for_each_safe (pos, next, &g->traces)
		drop(g, CONTAINER_OF(pos, struct trace, link));
	pthread_mutex_destroy(&g->lock);
	free(g);
}

static pid_t field(const char *status, const char *name)
{
	const char *line = strstr(status, name);

	return line ? (pid_t)atoi(line + strlen(name)) : 0;
}

/* FUSE tells the thread; programs delete with several. 0 when it has ended. parent may be NULL. */
static pid_t process_of(pid_t thread, pid_t *parent)
{
	char path[64], text[1024];
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	if (parent)
		*parent = field(text, "\nPPid:");
	return field(text, "\nTgid:");
}

/* Under lock. */
static void forget_old(struct ghosts *g)
{
	const int64_t now = clock_mono_ms();

	list_for_each_safe (pos, next, &g->traces) {
		struct trace *t = CONTAINER_OF(pos, struct trace, link);

		if (t->until_ms <= now || g->count > MOST)
			drop(g, t);
	}
}

/* Under lock. */
static struct trace *find(struct ghosts *g, int64_t dir, const char *name, pid_t process)
{
	list_for_each_safe (pos, next, &g->traces) {
		struct trace *t = CONTAINER_OF(pos, struct trace, link);

		if (t->dir == dir && t->process == process &&
			(name ? t->name && strcmp(t->name, name) == 0 : !t->name))
			return t;
	}
	return NULL;
}

static void add(struct ghosts *g, int64_t dir, const char *name, fuse_ino_t ino, pid_t process,
	int64_t keep_ms)
{
	struct trace *t = xcalloc(1, sizeof *t);

	*t = (struct trace){.dir = dir, .process = process, .ino = ino,
		.until_ms = clock_mono_ms() + keep_ms, .name = xstrdup_or_null(name)};
	list_append(&g->traces, &t->link);
	g->count++;
}

void ghosts_listed(struct ghosts *g, int64_t dir, pid_t pid)
{
	const pid_t process = process_of(pid, NULL);

	pthread_mutex_lock(&g->lock);
	forget_old(g);
	struct trace *t = find(g, dir, NULL, process);
	if (t)
		t->until_ms = clock_mono_ms() + LISTED_MS;
	else
		add(g, dir, NULL, 0, process, LISTED_MS);
	pthread_mutex_unlock(&g->lock);
}

void ghosts_add(struct ghosts *g, int64_t dir, const char *name, fuse_ino_t ino, pid_t pid)
{
	pid_t parent;
	const pid_t process = process_of(pid, &parent);

	pthread_mutex_lock(&g->lock);
	forget_old(g);
	if (find(g, dir, NULL, process) || find(g, dir, NULL, parent))
		add(g, dir, name, ino, process, GHOST_MS);
	pthread_mutex_unlock(&g->lock);
}

bool ghosts_find(struct ghosts *g, int64_t dir, const char *name, pid_t pid, bool take,
	fuse_ino_t *ino)
{
	bool found = false;

	pthread_mutex_lock(&g->lock);
	const bool possible = !list_empty(&g->traces);
	pthread_mutex_unlock(&g->lock);
	if (!possible)
		return false;

	const pid_t process = process_of(pid, NULL);
	pthread_mutex_lock(&g->lock);
	struct trace *t = find(g, dir, name, process);
	if (t && t->until_ms > clock_mono_ms()) {
		found = true;
		if (ino)
			*ino = t->ino;
		if (take)
			drop(g, t);
	}
	pthread_mutex_unlock(&g->lock);
	return found;
}

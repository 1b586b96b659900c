/*
 * Deleting prompts: whoever removes cat.prompt makes cat.status and cat.png go as well, and then
 * still removes those, as it has listed them before. `rm -r` and file managers would complain. So until
 * a few seconds after its last removal, and only for the process that removed the prompt, those names
 * can still be found and removed, when it has listed the folder itself or its parent has (`rm *`: the
 * shell).
 */
#include "base/clock.h"
#include "mount/internal.h"
#include <fcntl.h>
#include <search.h>
#include <stdio.h>

enum {
	LISTED_MS = 60 * 1000,
	REMOVING_MS = 5 * 1000,
	MOST_VISITS = 256,
	MOST_NAMES = 200 * 1000, /* rm lists half as many at once */
};

struct ghost {
	fuse_ino_t ino;
	char name[];
};

/* A process in a folder. */
struct visit {
	struct list link;
	int64_t dir;
	pid_t process;
	int64_t listed_until_ms, removing_until_ms;
	void *ghosts; /* tsearch(3), by name */
	int count;
};

struct ghosts {
	pthread_mutex_t lock;
	struct list visits; /* the newest last */
	int n_visits, n_names;
};

struct ghosts *ghosts_create(void)
{
	struct ghosts *g = xcalloc(1, sizeof *g);

	pthread_mutex_init(&g->lock, NULL);
	list_init(&g->visits);
	return g;
}

static void drop(struct ghosts *g, struct visit *v)
{
	list_remove(&v->link);
	g->n_visits--;
	g->n_names -= v->count;
	tdestroy(v->ghosts, free);
	free(v);
}

void ghosts_destroy(struct ghosts *g)
{
	if (!g)
		return;
	list_for_each_safe (pos, next, &g->visits)
		drop(g, CONTAINER_OF(pos, struct visit, link));
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

/* Under lock, as all below. */
static void forget_old(struct ghosts *g)
{
	const int64_t now = clock_mono_ms();

	list_for_each_safe (pos, next, &g->visits) {
		struct visit *v = CONTAINER_OF(pos, struct visit, link);

		if ((v->listed_until_ms <= now && v->removing_until_ms <= now) ||
			g->n_visits > MOST_VISITS)
			drop(g, v);
	}
}

static struct visit *find(struct ghosts *g, int64_t dir, pid_t process)
{
	list_for_each_safe (pos, next, &g->visits) {
		struct visit *v = CONTAINER_OF(pos, struct visit, link);

		if (v->dir == dir && v->process == process)
			return v;
	}
	return NULL;
}

static struct visit *find_or_add(struct ghosts *g, int64_t dir, pid_t process)
{
	struct visit *v = find(g, dir, process);

	if (v)
		return v;
	v = xcalloc(1, sizeof *v);
	*v = (struct visit){.dir = dir, .process = process};
	list_append(&g->visits, &v->link);
	g->n_visits++;
	return v;
}

static int compare(const void *a, const void *b)
{
	const struct ghost *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static struct ghost *new_ghost(const char *name, fuse_ino_t ino)
{
	const size_t size = strlen(name) + 1;
	struct ghost *ghost = xmalloc(sizeof *ghost + size);

	ghost->ino = ino;
	memcpy(ghost->name, name, size);
	return ghost;
}

static void add(struct ghosts *g, struct visit *v, const char *name, fuse_ino_t ino)
{
	struct ghost *ghost = new_ghost(name, ino);
	struct ghost **there = tsearch(ghost, &v->ghosts, compare);

	if (*there != ghost) {
		(*there)->ino = ino;
		free(ghost);
		return;
	}
	v->count++;
	g->n_names++;
}

static void take(struct ghosts *g, struct visit *v, struct ghost *ghost)
{
	tdelete(ghost, &v->ghosts, compare);
	free(ghost);
	v->count--;
	g->n_names--;
	v->removing_until_ms = clock_mono_ms() + REMOVING_MS;
}

/* ---- what the mount calls ---- */

void ghosts_listed(struct ghosts *g, int64_t dir, pid_t pid)
{
	const pid_t process = process_of(pid, NULL);

	pthread_mutex_lock(&g->lock);
	forget_old(g);
	find_or_add(g, dir, process)->listed_until_ms = clock_mono_ms() + LISTED_MS;
	pthread_mutex_unlock(&g->lock);
}

void ghosts_add(struct ghosts *g, int64_t dir, const char *name, fuse_ino_t ino, pid_t pid)
{
	pid_t parent;
	const pid_t process = process_of(pid, &parent);

	pthread_mutex_lock(&g->lock);
	forget_old(g);
	if (g->n_names < MOST_NAMES && (find(g, dir, process) || find(g, dir, parent))) {
		struct visit *v = find_or_add(g, dir, process);

		add(g, v, name, ino);
		v->removing_until_ms = clock_mono_ms() + REMOVING_MS;
	}
	pthread_mutex_unlock(&g->lock);
}

bool ghosts_find(struct ghosts *g, int64_t dir, const char *name, pid_t pid, bool take_it,
	fuse_ino_t *ino)
{
	pthread_mutex_lock(&g->lock);
	const bool possible = g->n_names > 0;
	pthread_mutex_unlock(&g->lock);
	if (!possible)
		return false;

	CLEANUP_FREE struct ghost *key = new_ghost(name, 0);
	const pid_t process = process_of(pid, NULL);

	pthread_mutex_lock(&g->lock);
	struct visit *v = find(g, dir, process);
	struct ghost **there = v && v->removing_until_ms > clock_mono_ms()
		? tfind(key, &v->ghosts, compare)
		: NULL;
	if (there && ino)
		*ino = (*there)->ino;
	if (there && take_it)
		take(g, v, *there);
	pthread_mutex_unlock(&g->lock);
	return there != NULL;
}

#include "mount/announced.h"
#include "base/clock.h"
#include "mount/notifier.h"
#include <pthread.h>
#include <search.h>

enum { KEEP_MS = NOTIFIER_NEW_MS + 5000, SWEEP_MS = 1000 };

struct name {
	uint64_t parent, ino;
	int64_t until_ms;
	bool made;
};

struct announced {
	pthread_mutex_t lock;
	void *names; /* under lock, as swept_ms: tsearch(3) */
	int64_t swept_ms;
};

struct announced *announced_create(void)
{
	struct announced *a = xcalloc(1, sizeof *a);

	pthread_mutex_init(&a->lock, NULL);
	return a;
}

void announced_destroy(struct announced *a)
{
	if (!a)
		return;
	tdestroy(a->names, free);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static int compare(const void *a, const void *b)
{
	const struct name *x = a, *y = b;

	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

void announced_note(struct announced *a, uint64_t parent, uint64_t ino, bool made)
{
	struct name *new = xcalloc(1, sizeof *new);

	*new = (struct name){parent, ino, clock_mono_ms() + KEEP_MS, made};
	pthread_mutex_lock(&a->lock);
	struct name **there = tsearch(new, &a->names, compare);
	if (*there != new) {
		(*there)->until_ms = new->until_ms;
		(*there)->made |= made;
		free(new);
	}
	pthread_mutex_unlock(&a->lock);
}

bool announced_has(struct announced *a, uint64_t parent, uint64_t ino, bool made)
{
	const struct name key = {.parent = parent, .ino = ino};

	pthread_mutex_lock(&a->lock);
	struct name *const *found = tfind(&key, &a->names, compare);
	const bool has = found && (!made || (*found)->made);
	pthread_mutex_unlock(&a->lock);
	return has;
}

void announced_forget(struct announced *a, uint64_t parent, uint64_t ino)
{
	const struct name key = {.parent = parent, .ino = ino};

	pthread_mutex_lock(&a->lock);
	struct name *const *found = tfind(&key, &a->names, compare);
	struct name *name = found ? *found : NULL;
	tdelete(&key, &a->names, compare);
	pthread_mutex_unlock(&a->lock);
	free(name);
}

static __thread struct {
	struct name *items[256];
	int count;
	int64_t now_ms;
} old;

static void collect_old(const void *node, VISIT visit, int depth)
{
	struct name *name = *(struct name *const *)node;

	(void)depth;
	if ((visit == postorder || visit == leaf) && name->until_ms <= old.now_ms &&
		old.count < (int)ARRAY_SIZE(old.items))
		old.items[old.count++] = name;
}

/* Under lock. */
static void drop_old(struct announced *a, int64_t now)
{
	do {
		old.count = 0;
		old.now_ms = now;
		twalk(a->names, collect_old);
		for (int i = 0; i < old.count; i++) {
			tdelete(old.items[i], &a->names, compare);
			free(old.items[i]);
		}
	} while (old.count == (int)ARRAY_SIZE(old.items));
}

int64_t announced_sweep(struct announced *a)
{
	const int64_t now = clock_mono_ms();

	pthread_mutex_lock(&a->lock);
	if (now - a->swept_ms >= SWEEP_MS) {
		a->swept_ms = now;
		drop_old(a, now);
	}
	const int64_t next = a->names ? a->swept_ms + SWEEP_MS : INT64_MAX;
	pthread_mutex_unlock(&a->lock);
	return next;
}

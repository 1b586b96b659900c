#include "mount/park.h"
#include <errno.h>
#include <pthread.h>

enum { BUCKETS = 256 };

struct park {
	pthread_mutex_t lock;
	pthread_cond_t armed;
	struct list buckets[BUCKETS];
	uint64_t last;
};

struct park *park_create(void)
{
	struct park *park = xcalloc(1, sizeof *park);

	pthread_mutex_init(&park->lock, NULL);
	pthread_cond_init(&park->armed, NULL);
	for (int i = 0; i < BUCKETS; i++)
		list_init(&park->buckets[i]);
	return park;
}

void park_destroy(struct park *park)
{
	if (!park)
		return;
	pthread_cond_destroy(&park->armed);
	pthread_mutex_destroy(&park->lock);
	free(park);
}

void parked_free(struct parked *p)
{
	free(p);
}

/* Under lock. */
static struct parked *find(struct park *park, uint64_t token)
{
	list_for_each_safe (pos, next, &park->buckets[token % BUCKETS]) {
		struct parked *p = CONTAINER_OF(pos, struct parked, link);

		if (p->token == token)
			return p;
	}
	return NULL;
}

static void interrupted(fuse_req_t req, void *data)
{
	struct park *park = mount_park(fuse_req_userdata(req));
	const uint64_t token = (uint64_t)(uintptr_t)data;

	pthread_mutex_lock(&park->lock);
	struct parked *p = find(park, token);
	if (p && p->arming) {
		p->interrupted = true;
		p = NULL;
	} else if (p) {
		list_remove(&p->link);
	}
	pthread_mutex_unlock(&park->lock);
	if (p) {
		fuse_reply_err(req, EINTR);
		parked_free(p);
	}
}

uint64_t park_add(struct park *park, fuse_req_t req, const struct parked *what)
{
	struct parked *p = xmalloc(sizeof *p);

	*p = *what;
	p->req = req;
	p->arming = true;
	p->interrupted = false;
	pthread_mutex_lock(&park->lock);
	const uint64_t token = p->token = ++park->last;
	list_append(&park->buckets[token % BUCKETS], &p->link);
	pthread_mutex_unlock(&park->lock);

	fuse_req_interrupt_func(req, interrupted, (void *)(uintptr_t)token);

	pthread_mutex_lock(&park->lock);
	p->arming = false;
	const bool now = p->interrupted;
	if (now)
		list_remove(&p->link);
	pthread_cond_broadcast(&park->armed);
	pthread_mutex_unlock(&park->lock);
	if (!now)
		return token;
	fuse_req_interrupt_func(req, NULL, NULL);
	fuse_reply_err(req, EINTR);
	parked_free(p);
	return 0;
}

/* Under lock; waits until p is armed. False when it is gone by then. */
static bool wait_armed(struct park *park, uint64_t token, struct parked **p)
{
	while ((*p = find(park, token)) != NULL && (*p)->arming)
		pthread_cond_wait(&park->armed, &park->lock);
	return *p != NULL;
}

/* Ends the interrupt callback's interest; waits for one that is running. */
static struct parked *disarmed(struct parked *p)
{
	fuse_req_interrupt_func(p->req, NULL, NULL);
	return p;
}

struct parked *park_take(struct park *park, uint64_t token)
{
	struct parked *p;

	pthread_mutex_lock(&park->lock);
	const bool found = wait_armed(park, token, &p);
	if (found)
		list_remove(&p->link);
	pthread_mutex_unlock(&park->lock);
	return found ? disarmed(p) : NULL;
}

typedef bool match_fn(const struct parked *p, int64_t value);

static bool of_node(const struct parked *p, int64_t node)
{
	return p->kind == PARKED_WAIT && p->node == node;
}

static bool is_due(const struct parked *p, int64_t now_ms)
{
	return p->deadline_ms != 0 && p->deadline_ms <= now_ms;
}

static bool any(const struct parked *p, int64_t unused)
{
	(void)p;
	(void)unused;
	return true;
}

static struct parked *take_matching(struct park *park, match_fn *match, int64_t value,
	uint64_t before)
{
	struct parked *found = NULL;

	pthread_mutex_lock(&park->lock);
	for (int i = 0; i < BUCKETS && !found; i++)
		list_for_each_safe (pos, next, &park->buckets[i]) {
			struct parked *p = CONTAINER_OF(pos, struct parked, link);

			if (p->arming || p->token >= before || !match(p, value))
				continue;
			list_remove(&p->link);
			found = p;
			break;
		}
	pthread_mutex_unlock(&park->lock);
	return found ? disarmed(found) : NULL;
}

struct parked *park_take_of_node(struct park *park, int64_t node, uint64_t before)
{
	return take_matching(park, of_node, node, before);
}

struct parked *park_take_due(struct park *park, int64_t now_ms, uint64_t before)
{
	return take_matching(park, is_due, now_ms, before);
}

uint64_t park_next_token(struct park *park)
{
	pthread_mutex_lock(&park->lock);
	const uint64_t next = park->last + 1;
	pthread_mutex_unlock(&park->lock);
	return next;
}

bool park_has_lookup(struct park *park)
{
	bool found = false;

	pthread_mutex_lock(&park->lock);
	for (int i = 0; i < BUCKETS && !found; i++)
		list_for_each_safe (pos, next, &park->buckets[i])
			found |= CONTAINER_OF(pos, struct parked, link)->kind == PARKED_LOOKUP;
	pthread_mutex_unlock(&park->lock);
	return found;
}

int64_t park_next_deadline(struct park *park)
{
	int64_t soonest = INT64_MAX;

	pthread_mutex_lock(&park->lock);
	for (int i = 0; i < BUCKETS; i++)
		list_for_each_safe (pos, next, &park->buckets[i]) {
			const struct parked *p = CONTAINER_OF(pos, struct parked, link);

			if (p->deadline_ms && p->deadline_ms < soonest)
				soonest = p->deadline_ms;
		}
	pthread_mutex_unlock(&park->lock);
	return soonest;
}

void park_end(struct park *park, int error)
{
	struct parked *p;

	while ((p = take_matching(park, any, 0, UINT64_MAX)) != NULL) {
		fuse_reply_err(p->req, error);
		parked_free(p);
	}
}

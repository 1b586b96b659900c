#include "engine/ahead.h"
#include "catalogue/generation.h"
#include <pthread.h>

enum { STREAMS = 8, EVERY_ORDER = (1 << IMAGE_ORDERS) - 1 };

/* A sequence that is being read. */
struct stream {
	uint64_t used;	 /* when it was last read, by the count of reads; 0: free */
	unsigned orders; /* those that are still possible, a bit each */
	int window;	 /* how far to look ahead now */
	int64_t next[IMAGE_ORDERS]; /* what each would read next; 0: nothing, or only one is left */
	int64_t given[AHEAD_MOST];  /* out and not read yet, in order */
	int n_given;
};

struct ahead {
	struct catalogue *cat;
	int most;
	pthread_mutex_t lock; /* of `given`, as other threads see it */
	struct stream streams[STREAMS];
	uint64_t reads;
};

struct ahead *ahead_create(struct catalogue *cat, int most)
{
	struct ahead *a = xcalloc(1, sizeof *a);

	a->cat = cat;
	a->most = most < AHEAD_MOST ? most : AHEAD_MOST;
	pthread_mutex_init(&a->lock, NULL);
	return a;
}

void ahead_destroy(struct ahead *a)
{
	if (!a)
		return;
	pthread_mutex_destroy(&a->lock);
	free(a);
}

/* Its place among what was given out, or -1. */
static int place_of(const struct stream *s, int64_t image)
{
	for (int i = 0; i < s->n_given; i++)
		if (s->given[i] == image)
			return i;
	return -1;
}

bool ahead_expects(struct ahead *a, int64_t image)
{
	bool found = false;

	pthread_mutex_lock(&a->lock);
	for (int i = 0; i < STREAMS && !found; i++)
		found = place_of(&a->streams[i], image) >= 0;
	pthread_mutex_unlock(&a->lock);
	return found;
}

/* The orders that led to the picture. */
static unsigned orders_to(const struct stream *s, int64_t image)
{
	unsigned orders = 0;

	for (int o = 0; o < IMAGE_ORDERS; o++)
		orders |= s->next[o] == image ? 1u << o : 0;
	return orders;
}

static void drop_given(struct ahead *a, struct stream *s, int count)
{
	pthread_mutex_lock(&a->lock);
	s->n_given -= count;
	memmove(s->given, s->given + count, (size_t)s->n_given * sizeof s->given[0]);
	pthread_mutex_unlock(&a->lock);
}

/* Whether the picture goes on with this sequence; then that is noted. */
static bool goes_on(struct ahead *a, struct stream *s, int64_t image)
{
	const int place = s->used ? place_of(s, image) : -1;
	const unsigned orders = s->used ? orders_to(s, image) : 0;

	if (place < 0 && !orders)
		return false;
	if (orders)
		s->orders = s->orders & orders ? s->orders & orders : orders;
	drop_given(a, s, place >= 0 ? place + 1 : s->n_given);
	s->window = s->window * 2 < a->most ? s->window * 2 : a->most;
	return true;
}

static struct stream *begin(struct ahead *a)
{
	struct stream *oldest = &a->streams[0];

	for (int i = 1; i < STREAMS; i++)
		if (a->streams[i].used < oldest->used)
			oldest = &a->streams[i];
	drop_given(a, oldest, oldest->n_given);
	oldest->orders = EVERY_ORDER;
	oldest->window = AHEAD_FIRST < a->most ? AHEAD_FIRST : a->most;
	return oldest;
}

static struct stream *stream_of(struct ahead *a, int64_t image)
{
	for (int i = 0; i < STREAMS; i++)
		if (goes_on(a, &a->streams[i], image))
			return &a->streams[i];
	return begin(a);
}

/* Up to n pictures behind `from` on which all orders that are possible agree. */
static int agreed(struct ahead *a, unsigned orders, int64_t from, int64_t *ids, int n)
{
	int64_t other[AHEAD_MOST] = {0};
	bool first = true;

	for (int o = 0; o < IMAGE_ORDERS && n > 0; o++) {
		if (!(orders & 1u << o))
			continue;
		const int found = image_following(a->cat, from, (enum image_order)o,
			first ? ids : other, n);

		n = found < n ? found : n;
		for (int i = 0; !first && i < n; i++)
			if (ids[i] != other[i])
				n = i;
		first = false;
	}
	return n > 0 ? n : 0;
}

/* While several orders are possible: what each of them would read next, which tells them apart. */
static void expect(struct ahead *a, struct stream *s, int64_t image)
{
	const bool open = (s->orders & (s->orders - 1)) != 0;

	for (int o = 0; o < IMAGE_ORDERS; o++)
		if (!open ||
			image_following(a->cat, image, (enum image_order)o, &s->next[o], 1) != 1)
			s->next[o] = 0;
}

int ahead_read(struct ahead *a, int64_t image, int64_t ids[AHEAD_MOST])
{
	struct stream *s = stream_of(a, image);
	const int64_t from = s->n_given ? s->given[s->n_given - 1] : image;
	const int n = agreed(a, s->orders, from, ids, s->window - s->n_given);

	s->used = ++a->reads;
	expect(a, s, image);
	pthread_mutex_lock(&a->lock);
	memcpy(s->given + s->n_given, ids, (size_t)n * sizeof ids[0]);
	s->n_given += n;
	pthread_mutex_unlock(&a->lock);
	return n;
}

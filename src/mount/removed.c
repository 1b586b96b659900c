/*
 * Nodes of /requests that have lost their name while the kernel still knows them: the working
 * directory of a process, an open directory, a descriptor of O_PATH. Their attributes can be read and
 * set, without links, until the kernel forgets them. (A file that is open for reading or writing has its row.)
 */
#include "mount/internal.h"
#include <search.h>
#include <time.h>

struct removed {
	fuse_ino_t ino; /* the table's key */
	struct stat st;
};

static int compare(const void *a, const void *b)
{
	const fuse_ino_t x = ((const struct removed *)a)->ino, y = ((const struct removed *)b)->ino;

	return x < y ? -1 : x > y;
}

void removed_add(struct mount *m, const struct node *n)
{
	struct removed *r = xcalloc(1, sizeof *r);

	*r = (struct removed){.ino = ino_make(INO_TREE, n->id), .st = n->st};
	r->st.st_nlink = 0;
	clock_gettime(CLOCK_REALTIME_COARSE, &r->st.st_ctim);
	pthread_mutex_lock(&m->removed_lock);
	struct removed *const *known = tsearch(r, &m->removed, compare);
	const bool added = *known == r;
	pthread_mutex_unlock(&m->removed_lock);
	if (!added)
		free(r);
}

bool removed_stat(struct mount *m, fuse_ino_t ino, struct stat *st)
{
	const struct removed key = {.ino = ino};

	pthread_mutex_lock(&m->removed_lock);
	struct removed *const *r = tfind(&key, &m->removed, compare);
	if (r)
		*st = (*r)->st;
	st->st_ino = ino;
	pthread_mutex_unlock(&m->removed_lock);
	return r != NULL;
}

bool removed_setattr(struct mount *m, fuse_ino_t ino, const struct stat *attr, unsigned what)
{
	const struct removed key = {.ino = ino};

	pthread_mutex_lock(&m->removed_lock);
	struct removed *const *r = tfind(&key, &m->removed, compare);
	if (r)
		tree_apply(&(*r)->st, attr, what);
	pthread_mutex_unlock(&m->removed_lock);
	return r != NULL;
}

void removed_destroy(struct mount *m)
{
	tdestroy(m->removed, free);
	pthread_mutex_destroy(&m->removed_lock);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n_lookups)
{
	struct mount *m = fuse_req_userdata(req);
	const struct removed key = {.ino = ino};
	struct removed *gone = NULL;

	(void)n_lookups;
	pthread_mutex_lock(&m->removed_lock);
	struct removed *const *r = tfind(&key, &m->removed, compare);
	if (r) {
		gone = *r;
		tdelete(gone, &m->removed, compare);
	}
	pthread_mutex_unlock(&m->removed_lock);
	free(gone);
	fuse_reply_none(req);
}

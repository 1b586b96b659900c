#include "engine/cache.h"
#include "base/files.h"
#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

enum { NAME_SIZE = 48, FOLDERS = 256 };

struct cache {
	char *path;
	int dir; /* always the same number: see make_again() */
	int64_t max;
	pthread_mutex_t lock;
	int64_t total; /* under lock; -1 before the scan */
};

static void name_of(int64_t image, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "%02x/%lld", (unsigned)(image % FOLDERS), (long long)image);
}

static void tmp_name_of(int64_t image, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "tmp/%lld", (long long)image);
}

static void count(struct cache *c, int64_t bytes)
{
	pthread_mutex_lock(&c->lock);
	if (c->total >= 0)
		c->total += bytes;
	pthread_mutex_unlock(&c->lock);
}

static int64_t on_disk(const struct stat *st)
{
	return (int64_t)st->st_blocks * 512;
}

/* ---- walking ---- */

typedef void walk_fn(struct cache *c, int folder, const char *name, int64_t image, void *arg);

static DIR *open_folder(int dir, const char *name)
{
	const int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d && fd >= 0)
		close(fd);
	return d;
}

static void walk_folder(struct cache *c, const char *name, walk_fn *fn, void *arg)
{
	DIR *d = open_folder(c->dir, name);
	struct dirent *entry;

	while (d && (entry = readdir(d)) != NULL) {
		char *end;
		const int64_t image = strtoll(entry->d_name, &end, 10);

		if (*end == '\0' && image > 0)
			fn(c, dirfd(d), entry->d_name, image, arg);
	}
	if (d)
		closedir(d);
}

static void walk(struct cache *c, walk_fn *fn, void *arg)
{
	for (unsigned i = 0; i < FOLDERS; i++) {
		char name[8];

		snprintf(name, sizeof name, "%02x", i);
		walk_folder(c, name, fn, arg);
	}
}

static void drop(struct cache *c, int folder, const char *name, int64_t image, void *arg)
{
	(void)c;
	(void)image;
	(void)arg;
	unlinkat(folder, name, 0);
}

/* ---- opening ---- */

static int make_folder(int dir, const char *name)
{
	return mkdirat(dir, name, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

struct cache *cache_open(const char *dir, int64_t max, char **error)
{
	int rc = files_mkdir_private(dir);
	const int fd = rc < 0 ? rc : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (rc == 0 && fd >= 0)
		rc = make_folder(fd, "tmp");
	if (rc < 0 || fd < 0) {
		fail(error, rc < 0 ? rc : -errno, "the cache directory %s cannot be used: %s", dir,
			strerror(rc < 0 ? -rc : errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	struct cache *c = xcalloc(1, sizeof *c);
	*c = (struct cache){.path = xstrdup(dir), .dir = fd, .max = max, .total = -1};
	pthread_mutex_init(&c->lock, NULL);
	walk_folder(c, "tmp", drop, NULL);
	return c;
}

void cache_close(struct cache *c)
{
	if (!c)
		return;
	close(c->dir);
	pthread_mutex_destroy(&c->lock);
	free(c->path);
	free(c);
}

/* The folder of temporary files, when somebody has cleared the cache away; with the cache's own, which
 * then takes the old one's descriptor. */
static int make_again(struct cache *c)
{
	struct stat st;
	int rc = 0;

	if (fstat(c->dir, &st) < 0)
		return -errno;
	if (st.st_nlink == 0) {
		rc = files_mkdir_private(c->path);
		CLEANUP_CLOSE int fd = rc < 0 ? -1 : open(c->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (rc == 0 && (fd < 0 || dup3(fd, c->dir, O_CLOEXEC) < 0))
			rc = -errno;
	}
	return rc < 0 ? rc : make_folder(c->dir, "tmp");
}

/* ---- one picture ---- */

int cache_find(struct cache *c, int64_t image, int64_t size)
{
	char name[NAME_SIZE];
	struct stat st;

	name_of(image, name);
	const int fd = openat(c->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -ENOENT;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == size)
		return fd;
	close(fd);
	log_warning("the cached picture %s has another size; it is fetched again", name);
	cache_remove(c, image);
	return -ENOENT;
}

int cache_begin(struct cache *c, int64_t image)
{
	char name[NAME_SIZE];

	tmp_name_of(image, name);
	int fd = openat(c->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 && errno == ENOENT) {
		const int rc = make_again(c);

		if (rc < 0)
			return rc;
		fd = openat(c->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	}
	return fd < 0 ? -errno : fd;
}

int cache_finish(struct cache *c, int64_t image, int fd)
{
	char from[NAME_SIZE], to[NAME_SIZE], folder[8];
	struct stat st;

	tmp_name_of(image, from);
	name_of(image, to);
	snprintf(folder, sizeof folder, "%02x", (unsigned)(image % FOLDERS));
	if (fdatasync(fd) < 0 || fstat(fd, &st) < 0)
		return -errno;
	const int rc = make_folder(c->dir, folder);
	if (rc < 0)
		return rc;
	if (renameat(c->dir, from, c->dir, to) < 0)
		return -errno;
	count(c, on_disk(&st));
	return 0;
}

void cache_abandon(struct cache *c, int64_t image)
{
	char name[NAME_SIZE];

	tmp_name_of(image, name);
	unlinkat(c->dir, name, 0);
}

void cache_remove(struct cache *c, int64_t image)
{
	char name[NAME_SIZE];
	struct stat st;

	name_of(image, name);
	if (fstatat(c->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		unlinkat(c->dir, name, 0) == 0)
		count(c, -on_disk(&st));
}

void cache_touch(int fd)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};

	futimens(fd, times);
}

/* ---- the limit ---- */

static void add_up(struct cache *c, int folder, const char *name, int64_t image, void *arg)
{
	struct stat st;

	(void)c;
	(void)image;
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		*(int64_t *)arg += on_disk(&st);
}

static void set_total(struct cache *c, int64_t total)
{
	pthread_mutex_lock(&c->lock);
	c->total = total;
	pthread_mutex_unlock(&c->lock);
}

void cache_scan(struct cache *c)
{
	int64_t total = 0;

	walk(c, add_up, &total);
	set_total(c, total);
}

int64_t cache_total(struct cache *c)
{
	pthread_mutex_lock(&c->lock);
	const int64_t total = c->total;
	pthread_mutex_unlock(&c->lock);
	return total;
}

bool cache_is_over(struct cache *c)
{
	return c->max > 0 && cache_total(c) > c->max;
}

struct aged {
	int64_t image;
	int64_t read_ns;
};

struct ages {
	struct aged *items;
	size_t count, alloc;
	int64_t bytes; /* of all */
};

static void note_age(struct cache *c, int folder, const char *name, int64_t image, void *arg)
{
	struct ages *ages = arg;
	struct stat st;

	(void)c;
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (ages->count == ages->alloc) {
		ages->alloc = ages->alloc ? ages->alloc * 2 : 1024;
		ages->items = xrealloc(ages->items, ages->alloc * sizeof *ages->items);
	}
	ages->items[ages->count++] = (struct aged){
		image, (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec};
	ages->bytes += on_disk(&st);
}

static int older(const void *a, const void *b)
{
	const struct aged *x = a, *y = b;

	return x->read_ns < y->read_ns ? -1 : x->read_ns > y->read_ns;
}

void cache_trim(struct cache *c, bool (*busy)(void *arg, int64_t image), void *arg)
{
	const int64_t wanted = c->max / 10 * 9;
	struct ages ages = {0};

	if (!cache_is_over(c))
		return;
	walk(c, note_age, &ages);
	set_total(c, ages.bytes); /* others may have removed files */
	qsort(ages.items, ages.count, sizeof *ages.items, older);
	for (size_t i = 0; i < ages.count && cache_total(c) > wanted; i++)
		if (!busy(arg, ages.items[i].image))
			cache_remove(c, ages.items[i].image);
	free(ages.items);
}

struct each {
	void (*fn)(void *arg, int64_t image, int fd);
	void *arg;
};

static void visit(struct cache *c, int folder, const char *name, int64_t image, void *arg)
{
	const struct each *each = arg;
	CLEANUP_CLOSE int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	(void)c;
	if (fd >= 0)
		each->fn(each->arg, image, fd);
}

void cache_each(struct cache *c, void (*fn)(void *arg, int64_t image, int fd), void *arg)
{
	walk(c, visit, &(struct each){fn, arg});
}

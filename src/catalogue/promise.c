#include "base/files.h"
#include "base/log.h"
#include "catalogue/internal.h"
#include <errno.h>
#include <fcntl.h>

/* MANY: so many are worth a sync of the whole file system, or a few milliseconds at the next start. */
enum { BOOT_ID_MAX = 64, BATCH = 64, MANY = 1000 };

/* ---- making and dropping ---- */

int promise_keep(struct catalogue *cat, int64_t id, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size > PROMISE_MAX)
		return -EFBIG;
	CLEANUP_FREE char *content = xmalloc((size_t)st.st_size + 1);
	const ssize_t n = pread(fd, content, (size_t)st.st_size, 0);
	if (n != st.st_size)
		return n < 0 ? -errno : -EFBIG; /* it is changing: let the disk have it */
	const int rc = db_run(cat->db,
		"INSERT INTO promise VALUES(?, ?, ?) ON CONFLICT(node) DO UPDATE SET"
		" mtime = excluded.mtime, content = excluded.content",
		"iib", id, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
		(const void *)content, (size_t)n);
	return rc < 0 ? rc : 0;
}

/* Mostly there is none: to see that takes no lock for writing. */
int promise_drop(struct catalogue *cat, int64_t id)
{
	int64_t kept;

	db_lock(cat->db);
	int rc = db_get_int(cat->db, &kept, "SELECT 1 FROM promise WHERE node = ?", "i", id);
	if (rc > 0)
		rc = db_run(cat->db, "DELETE FROM promise WHERE node = ?", "i", id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

/* ---- starts and ends ---- */

struct kept {
	int64_t node, mtime;
	char *content;
	size_t len;
};

static bool is_kept(int fd, const struct kept *k)
{
	CLEANUP_FREE char *now = xmalloc(k->len + 1);

	return pread(fd, now, k->len + 1, 0) == (ssize_t)k->len &&
		memcmp(now, k->content, k->len) == 0;
}

static int restore(int fd, const struct kept *k)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, ns_to_timespec(k->mtime)};

	log_info("file %lld: the %zu bytes that a power loss has taken are written again",
		(long long)k->node, k->len);
	if (pwrite(fd, k->content, k->len, 0) != (ssize_t)k->len ||
		ftruncate(fd, (off_t)k->len) < 0 || futimens(fd, times) < 0)
		return errno ? -errno : -EIO;
	return 0;
}

/* After a power loss the promise is right, and what agrees with it has come from the disk. After a
 * kill the spool is: it may have been written on since, without a new promise. */
static int reconcile_one(struct catalogue *cat, const struct kept *k, bool power_lost)
{
	char name[SPOOL_NAME_SIZE];
	CLEANUP_CLOSE int fd = openat(cat->spool, spool_name(k->node, name),
		O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	const bool same = is_kept(fd, k);
	if (!same && power_lost)
		return restore(fd, k);
	return same == power_lost ? promise_drop(cat, k->node) : 0;
}

static int read_batch(struct catalogue *cat, int64_t after, struct kept *batch)
{
	int n = 0;
	struct db_rows *r = db_query(cat->db,
		"SELECT node, mtime, content FROM promise WHERE node > ? ORDER BY node LIMIT ?", "ii",
		after, (int64_t)BATCH);

	while (n < BATCH && db_next(r)) {
		const void *content = db_blob(r, 2, &batch[n].len);

		batch[n].node = db_int(r, 0);
		batch[n].mtime = db_int(r, 1);
		batch[n].content = xmalloc(batch[n].len + 1);
		if (batch[n].len > 0)
			memcpy(batch[n].content, content, batch[n].len);
		n++;
	}
	const int rc = db_done(r);
	return rc < 0 ? rc : n;
}

static int reconcile(struct catalogue *cat, bool power_lost)
{
	struct kept batch[BATCH];
	int64_t after = 0;
	int n = 0, rc = 0;

	while (rc == 0 && (n = read_batch(cat, after, batch)) > 0) {
		catalogue_begin(cat, DB_NORMAL);
		for (int i = 0; i < n; i++) {
			after = batch[i].node;
			if (rc == 0)
				rc = reconcile_one(cat, &batch[i], power_lost);
			free(batch[i].content);
		}
		rc = catalogue_end(cat, rc);
	}
	return rc < 0 ? rc : n < 0 ? n : 0;
}

/* Another at each start of the machine: what was in memory then is gone. */
static void boot_id(char id[BOOT_ID_MAX])
{
	CLEANUP_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	const ssize_t n = fd < 0 ? -1 : read(fd, id, BOOT_ID_MAX - 1);

	id[n > 0 ? n : 0] = '\0';
	id[strcspn(id, "\n")] = '\0';
}

int promises_check(struct catalogue *cat, bool clean)
{
	CLEANUP_FREE char *then = catalogue_setting(cat, "boot");
	char now[BOOT_ID_MAX];
	int rc = 0;

	boot_id(now);
	const bool power_lost = !then || !*now || strcmp(then, now) != 0;
	if (power_lost || !clean)
		rc = reconcile(cat, power_lost);
	return rc < 0 || !power_lost ? rc : catalogue_set(cat, "boot", now);
}

void promises_settle(struct catalogue *cat)
{
	int64_t n = 0;

	if (db_get_int(cat->db, &n, "SELECT count(*) FROM promise", "") == 1 && n > MANY &&
		syncfs(cat->spool) == 0)
		db_run(cat->db, "DELETE FROM promise", "");
}

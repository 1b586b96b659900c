#include "catalogue/catalogue.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "catalogue/internal.h"
#include "catalogue/request.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* A mount that has just been unmounted says in a moment that it ends. */
enum { LOCK_WAIT_MS = 500 };

int64_t timespec_to_ns(struct timespec t)
{
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t now_ns(void)
{
	struct timespec t;

	/* The clock that the kernel stamps the files of the spool with: what is done later is no older. */
	clock_gettime(CLOCK_REALTIME_COARSE, &t);
	return timespec_to_ns(t);
}

struct timespec ns_to_timespec(int64_t ns)
{
	int64_t sec = ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		sec--;
		rest += 1000000000;
	}
	return (struct timespec){.tv_sec = sec, .tv_nsec = rest};
}

/* ---- opening, and what a crash left ---- */

static int open_folder(int dir, const char *name)
{
	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	const int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int take_lock(struct catalogue *cat, const char *dir, bool *busy, char **error)
{
	pid_t holder = 0;

	cat->lock = files_lock_dir(cat->dir, LOCK_WAIT_MS, &holder);
	if (cat->lock >= 0)
		return 0;
	if (cat->lock != -EWOULDBLOCK)
		return fail(error, cat->lock, "%s cannot be locked: %s", dir, strerror(-cat->lock));
	if (busy)
		*busy = true;
	return fail(error, -EBUSY,
		"the state in %s is in use by process %d; a second mount takes a profile of its own: "
		"--profile NAME (kill %d ends the first)",
		dir, (int)holder, (int)holder);
}

/* The root of /requests belongs to whoever mounts first. */
static int prepare_root(struct catalogue *cat)
{
	const int64_t now = now_ns();

	return db_run(cat->db,
		"UPDATE node SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ?"
		" WHERE id = 1 AND mode = 0",
		"iiiiii", (int64_t)(S_IFDIR | 0755), (int64_t)geteuid(), (int64_t)getegid(), now,
		now, now);
}

static int drop_unlinked(struct catalogue *cat)
{
	return db_run(cat->db, "DELETE FROM node WHERE parent IS NULL AND id <> 1", "");
}

/* Of millions of files, each is a question to the database: a start or an end waits no longer. */
enum { TIDY_AT_ONCE_MS = 50 };

/* Calls known() for each entry of a folder and removes those it does not know. */
static void sweep(int folder, bool (*known)(struct catalogue *cat, const char *name),
	void (*drop)(int folder, const char *name), struct catalogue *cat)
{
	const int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!d && fd >= 0)
		close(fd);
	while (d && (entry = readdir(d)) != NULL)
		if (entry->d_name[0] != '.' && !known(cat, entry->d_name))
			drop(folder, entry->d_name);
	if (d)
		closedir(d);
}

static bool known_node(struct catalogue *cat, const char *name)
{
	char *end;
	const int64_t id = strtoll(name, &end, 10);
	int64_t found;

	return *end == '\0' && db_get_int(cat->db, &found, "SELECT 1 FROM node WHERE id = ?", "i",
				       id) != 0;
}

static void drop_file(int folder, const char *name)
{
	unlinkat(folder, name, 0);
}

bool catalogue_tidy(struct catalogue *cat, int64_t most_ms)
{
	const int64_t end = clock_mono_ms() + most_ms;
	const struct dirent *entry;

	while (cat->untidy && (entry = readdir(cat->untidy)) != NULL) {
		/* A new file has its row first, and both under the lock. */
		db_lock(cat->db);
		if (entry->d_name[0] != '.' && !known_node(cat, entry->d_name))
			drop_file(cat->spool, entry->d_name);
		db_unlock(cat->db);
		if (clock_mono_ms() >= end)
			return false;
	}
	if (cat->untidy)
		closedir(cat->untidy);
	cat->untidy = NULL;
	return true;
}

static void begin_to_tidy(struct catalogue *cat)
{
	const int fd = openat(cat->spool, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	cat->untidy = fd < 0 ? NULL : fdopendir(fd);
	if (!cat->untidy && fd >= 0)
		close(fd);
}

static bool known_key(struct catalogue *cat, const char *name)
{
	int64_t found;

	return db_get_int(cat->db, &found, "SELECT 1 FROM request WHERE key = ?", "s", name) != 0;
}

static bool never(struct catalogue *cat, const char *name)
{
	(void)cat;
	(void)name;
	return false;
}

static void drop_folder(int folder, const char *name)
{
	const int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd >= 0) {
		sweep(fd, never, drop_file, NULL);
		close(fd);
	}
	unlinkat(folder, name, AT_REMOVEDIR);
}

void request_refs_remove(struct catalogue *cat, const char *key)
{
	drop_folder(cat->refs, key);
}

/* Only after a close that was not clean: spool and refs are held against the rows. */
static int clean_up(struct catalogue *cat)
{
	CLEANUP_FREE char *open = catalogue_setting(cat, "open");
	const bool clean = !open || strcmp(open, "0") == 0;
	int rc = drop_unlinked(cat);

	if (rc >= 0)
		rc = promises_check(cat, clean);
	if (!clean) {
		db_lock(cat->db);
		sweep(cat->refs, known_key, drop_folder, cat);
		db_unlock(cat->db);
		begin_to_tidy(cat);
		catalogue_tidy(cat, TIDY_AT_ONCE_MS);
	}
	if (rc >= 0)
		rc = catalogue_set(cat, "open", "1");
	return rc < 0 ? rc : 0;
}

/* ---- a copy ---- */

/* When the database's file was made here, owned; a copy of it is another file. NULL where the file system
 * does not tell. */
static char *birth(struct catalogue *cat)
{
	struct statx x;

	if (statx(cat->dir, "catalogue.db", AT_SYMLINK_NOFOLLOW, STATX_BTIME, &x) < 0 ||
		!(x.stx_mask & STATX_BTIME))
		return NULL;
	return xasprintf("%lld.%09u", (long long)x.stx_btime.tv_sec, x.stx_btime.tv_nsec);
}

static bool has_unsent(struct catalogue *cat)
{
	int64_t found;

	return db_get_int(cat->db, &found,
		"SELECT 1 FROM node WHERE pending <> 0 UNION ALL"
		" SELECT 1 FROM request_count WHERE state IN ('queued', 'held') AND n > 0 LIMIT 1",
		"") != 0;
}

/* A backup that was put back, or a copy that another mount uses as well: what waits in it may have been
 * sent since, and hubs do not know a repeated request. So nothing is sent from it before the user says so. */
static int check_copy(struct catalogue *cat)
{
	CLEANUP_FREE char *then = catalogue_setting(cat, "birth");
	CLEANUP_FREE char *now = birth(cat);

	if (!now || (then && strcmp(then, now) == 0))
		return 0;
	catalogue_begin(cat, DB_NORMAL);
	int rc = catalogue_set(cat, "birth", now);
	if (rc == 0 && then && has_unsent(cat)) {
		log_warning("the state is a copy, or was restored from a backup: nothing is sent until resume");
		rc = catalogue_set(cat, "paused", CATALOGUE_COPIED);
	}
	return catalogue_end(cat, rc);
}

static int open_all(struct catalogue *cat, const char *dir, bool *busy, char **error)
{
	CLEANUP_FREE char *path = files_join(dir, "catalogue.db");
	int rc = files_mkdir_private(dir);

	if (rc == 0)
		cat->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rc < 0 || cat->dir < 0)
		return fail(error, rc < 0 ? rc : -errno, "the state directory %s: %s", dir,
			rc == -EPERM ? "it belongs to another user" : strerror(rc < 0 ? -rc : errno));
	rc = take_lock(cat, dir, busy, error);
	if (rc < 0)
		return rc;
	cat->spool = open_folder(cat->dir, "spool");
	cat->refs = open_folder(cat->dir, "refs");
	if (cat->spool < 0 || cat->refs < 0)
		return fail(error, -EIO, "the state directory %s cannot be used", dir);
	cat->db = db_open(path, schema_migrations, schema_count, error);
	if (!cat->db)
		return -EIO;
	rc = prepare_root(cat);
	if (rc >= 0)
		rc = clean_up(cat);
	if (rc >= 0)
		rc = check_copy(cat);
	return rc < 0 ? fail(error, rc, "%s cannot be written: %s", path, strerror(-rc)) : 0;
}

struct catalogue *catalogue_open(const char *dir, bool *busy, char **error)
{
	struct catalogue *cat = xcalloc(1, sizeof *cat);

	cat->dir = cat->spool = cat->refs = cat->lock = -1;
	pthread_mutex_init(&cat->files_lock, NULL);
	if (open_all(cat, dir, busy, error) < 0) {
		db_close(cat->db);
		cat->db = NULL;
		catalogue_close(cat);
		return NULL;
	}
	return cat;
}

void catalogue_close(struct catalogue *cat)
{
	if (!cat)
		return;
	const int *fds[] = {&cat->dir, &cat->spool, &cat->refs, &cat->lock};

	if (cat->db) {
		drop_unlinked(cat);
		const bool tidy = catalogue_tidy(cat, TIDY_AT_ONCE_MS);
		/* Handles that nobody closed may have left spool files: swept by the next start, as is
		 * what this one has not come to. */
		if (!files_release(cat) && tidy)
			catalogue_set(cat, "open", "0");
		promises_settle(cat);
		db_close(cat->db);
	}
	if (cat->untidy)
		closedir(cat->untidy);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (*fds[i] >= 0)
			close(*fds[i]);
	pthread_mutex_destroy(&cat->files_lock);
	free(cat);
}

void catalogue_ending(struct catalogue *cat)
{
	files_lock_ending(cat->lock);
}

/* ---- transactions ---- */

void catalogue_begin(struct catalogue *cat, enum db_durability durability)
{
	db_lock(cat->db);
	db_begin(cat->db, durability);
}

int catalogue_end(struct catalogue *cat, int rc)
{
	rc = db_end(cat->db, rc);
	db_unlock(cat->db);
	return rc;
}

int catalogue_sync(struct catalogue *cat)
{
	return db_sync(cat->db);
}

/* ---- settings ---- */

char *catalogue_setting(struct catalogue *cat, const char *name)
{
	char *value = NULL;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db, "SELECT value FROM setting WHERE name = ?", "s", name);
	if (db_next(r))
		value = db_text_dup(r, 0);
	db_done(r);
	db_unlock(cat->db);
	return value;
}

int catalogue_set(struct catalogue *cat, const char *name, const char *value)
{
	db_lock(cat->db);
	const int rc = value
		? db_run(cat->db,
			  "INSERT INTO setting VALUES(?, ?)"
			  " ON CONFLICT(name) DO UPDATE SET value = excluded.value",
			  "ss", name, value)
		: db_run(cat->db, "DELETE FROM setting WHERE name = ?", "s", name);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

/* A body and when it was read, as two settings in one transaction. */
static int save_read(struct catalogue *cat, const char *name, const char *time_name,
	const char *body, int64_t as_of_ms)
{
	CLEANUP_FREE char *at = xasprintf("%lld", (long long)as_of_ms);

	catalogue_begin(cat, DB_NORMAL);
	int rc = catalogue_set(cat, name, body);
	if (rc == 0)
		rc = catalogue_set(cat, time_name, at);
	return catalogue_end(cat, rc);
}

static char *load_read(struct catalogue *cat, const char *name, const char *time_name,
	int64_t *as_of_ms)
{
	db_lock(cat->db);
	char *body = catalogue_setting(cat, name);
	CLEANUP_FREE char *at = catalogue_setting(cat, time_name);
	db_unlock(cat->db);
	*as_of_ms = at && body ? strtoll(at, NULL, 10) : 0;
	return body;
}

int catalogue_models_save(struct catalogue *cat, const char *raw_json, int64_t as_of_ms)
{
	return save_read(cat, "models", "models_at", raw_json, as_of_ms);
}

int catalogue_models_load(struct catalogue *cat, struct wire_models *out, int64_t *as_of_ms)
{
	CLEANUP_FREE char *body = load_read(cat, "models", "models_at", as_of_ms);

	*out = (struct wire_models){0};
	return body ? wire_models_decode(body, strlen(body), out, NULL) : 0;
}

int catalogue_balance_save(struct catalogue *cat, const struct wire_balance *b, int64_t as_of_ms)
{
	CLEANUP_FREE char *body = wire_balance_encode(b);

	return save_read(cat, "balance", "balance_at", body, as_of_ms);
}

int catalogue_balance_load(struct catalogue *cat, struct wire_balance *out, int64_t *as_of_ms)
{
	CLEANUP_FREE char *body = load_read(cat, "balance", "balance_at", as_of_ms);

	*out = (struct wire_balance){.credits = -1};
	return body ? wire_balance_decode(body, strlen(body), out, NULL) : 0;
}

int catalogue_statvfs(struct catalogue *cat, struct statvfs *out)
{
	return fstatvfs(cat->spool, out) < 0 ? -errno : 0;
}

int64_t catalogue_changes(struct catalogue *cat)
{
	db_lock(cat->db);
	const int64_t n = db_total_changes(cat->db);
	db_unlock(cat->db);
	return n;
}

int64_t catalogue_scanned(struct catalogue *cat)
{
	return db_scanned(cat->db);
}

int catalogue_dirfd(struct catalogue *cat)
{
	return cat->dir;
}

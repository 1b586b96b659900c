#include "hub/store.h"
#include "base/files.h"
#include "base/list.h"
#include "base/log.h"
#include "base/thread.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>

enum { BATCH_MAX = 256, UPLOAD_FILES_MAX = 17, READERS = 4 };

struct job {
	struct list link;
	store_job_fn *fn;
	store_done_fn *done;
	void *arg;
	int rc;
};

struct store {
	char *dir;
	int lock;
	struct db *db;
	struct keys *keys;
	pthread_t writer;
	bool running;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	struct list jobs; /* under mutex */
	bool stopping;	  /* under mutex */

	pthread_mutex_t readers_mutex;
	pthread_cond_t reader_free;
	struct db *readers[READERS]; /* those that nobody has at present; under readers_mutex */
	int n_readers;
};

static const char *const migrations[] = {
	"CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
	" type TEXT NOT NULL, created INTEGER NOT NULL,"
	" balance INTEGER NOT NULL DEFAULT 0 CHECK(balance >= 0)) STRICT;"
	"CREATE TABLE api_key(id INTEGER PRIMARY KEY,"
	" account INTEGER NOT NULL REFERENCES account(id), prefix TEXT NOT NULL,"
	" hash BLOB NOT NULL UNIQUE, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER)"
	" STRICT;"
	"CREATE TABLE credit_grant(id INTEGER PRIMARY KEY,"
	" account INTEGER NOT NULL REFERENCES account(id), credits INTEGER NOT NULL,"
	" left INTEGER NOT NULL CHECK(left >= 0), expires INTEGER) STRICT;"
	"CREATE INDEX grant_left ON credit_grant(account, expires) WHERE left > 0;"
	"CREATE TABLE ledger(id INTEGER PRIMARY KEY AUTOINCREMENT,"
	" account INTEGER NOT NULL REFERENCES account(id), at INTEGER NOT NULL,"
	" kind TEXT NOT NULL CHECK(kind IN ('grant', 'charge', 'refund', 'expiry')),"
	" credits INTEGER NOT NULL, generation TEXT) STRICT;"
	"CREATE INDEX ledger_account ON ledger(account);"
	"CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger BEGIN"
	" SELECT raise(ABORT, 'the ledger is immutable'); END;"
	"CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger BEGIN"
	" SELECT raise(ABORT, 'the ledger is immutable'); END;"
	"CREATE TRIGGER ledger_sum AFTER INSERT ON ledger BEGIN"
	" UPDATE account SET balance = balance + new.credits WHERE id = new.account; END;"
	"CREATE TABLE taken(generation TEXT NOT NULL, credit_grant INTEGER NOT NULL,"
	" credits INTEGER NOT NULL, PRIMARY KEY(generation, credit_grant)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE generation(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
	" account INTEGER NOT NULL REFERENCES account(id), status TEXT NOT NULL,"
	" wanted TEXT NOT NULL, requested INTEGER NOT NULL, credits INTEGER NOT NULL DEFAULT 0,"
	" n_references INTEGER NOT NULL, idempotency TEXT, body_hash BLOB NOT NULL,"
	" error_message TEXT, error_code TEXT, created INTEGER NOT NULL, finished INTEGER) STRICT;"
	"CREATE UNIQUE INDEX generation_key ON generation(account, idempotency)"
	" WHERE idempotency IS NOT NULL;"
	"CREATE INDEX generation_open ON generation(status, seq)"
	" WHERE status IN ('queued', 'processing');"
	"CREATE TABLE image(id TEXT PRIMARY KEY, generation TEXT NOT NULL,"
	" number INTEGER NOT NULL, ext TEXT NOT NULL, created INTEGER NOT NULL) STRICT,"
	" WITHOUT ROWID;"
	"CREATE INDEX image_generation ON image(generation, number);",
	/* What answers say of an order, beside `wanted`, which has all of it. */
	"ALTER TABLE generation ADD COLUMN model TEXT;"
	"ALTER TABLE generation ADD COLUMN size TEXT;"
	"ALTER TABLE generation ADD COLUMN n INTEGER NOT NULL DEFAULT 1;"
	"UPDATE generation SET model = wanted ->> 'model', size = wanted ->> 'size',"
	" n = coalesce(wanted ->> 'n', 1);",
};

/* ---- the writer ---- */

/* Under mutex: takes up to BATCH_MAX jobs. */
static void take_batch(struct store *s, struct list *batch)
{
	for (int n = 0; n < BATCH_MAX && !list_empty(&s->jobs); n++) {
		struct list *link = s->jobs.next;

		list_remove(link);
		list_append(batch, link);
	}
}

static int run_part(struct db *db, struct job *job)
{
	int rc = db_part_begin(db);

	if (rc < 0)
		return rc;
	rc = job->fn(db, job->arg);
	return db_part_end(db, rc);
}

static void run_batch(struct store *s, struct list *batch)
{
	db_lock(s->db);
	int rc = db_begin(s->db, DB_FULL);
	list_for_each_safe (pos, next, batch) {
		struct job *job = CONTAINER_OF(pos, struct job, link);

		job->rc = rc < 0 ? rc : run_part(s->db, job);
	}
	rc = db_commit(s->db);
	db_unlock(s->db);

	list_for_each_safe (pos, next, batch) {
		struct job *job = CONTAINER_OF(pos, struct job, link);

		list_remove(pos);
		job->done(job->arg, rc < 0 && job->rc >= 0 ? rc : job->rc);
		free(job);
	}
}

static void *writer_main(void *arg)
{
	struct store *s = arg;

	pthread_mutex_lock(&s->mutex);
	for (;;) {
		struct list batch = LIST_INIT(batch);

		while (list_empty(&s->jobs) && !s->stopping)
			pthread_cond_wait(&s->wake, &s->mutex);
		if (list_empty(&s->jobs))
			break;
		take_batch(s, &batch);
		pthread_mutex_unlock(&s->mutex);
		run_batch(s, &batch);
		pthread_mutex_lock(&s->mutex);
	}
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

void store_submit(struct store *s, store_job_fn *fn, store_done_fn *done, void *arg)
{
	struct job *job = xcalloc(1, sizeof *job);

	*job = (struct job){.fn = fn, .done = done, .arg = arg};
	pthread_mutex_lock(&s->mutex);
	list_append(&s->jobs, &job->link);
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->mutex);
}

struct waiting {
	store_job_fn *fn;
	void *arg;
	pthread_mutex_t mutex;
	pthread_cond_t over;
	bool done;
	int rc;
};

static int waiting_job(struct db *db, void *arg)
{
	struct waiting *w = arg;

	return w->fn(db, w->arg);
}

static void waiting_done(void *arg, int rc)
{
	struct waiting *w = arg;

	pthread_mutex_lock(&w->mutex);
	w->rc = rc;
	w->done = true;
	pthread_cond_signal(&w->over);
	pthread_mutex_unlock(&w->mutex);
}

int store_run(struct store *s, store_job_fn *fn, void *arg)
{
	struct waiting w = {.fn = fn, .arg = arg, .mutex = PTHREAD_MUTEX_INITIALIZER,
		.over = PTHREAD_COND_INITIALIZER};

	store_submit(s, waiting_job, waiting_done, &w);
	pthread_mutex_lock(&w.mutex);
	while (!w.done)
		pthread_cond_wait(&w.over, &w.mutex);
	pthread_mutex_unlock(&w.mutex);
	pthread_mutex_destroy(&w.mutex);
	pthread_cond_destroy(&w.over);
	return w.rc;
}

/* ---- readers ---- */

/* The last one given back is taken first: its statements and pages are the warmest. */
struct db *store_read(struct store *s)
{
	pthread_mutex_lock(&s->readers_mutex);
	while (s->n_readers == 0)
		pthread_cond_wait(&s->reader_free, &s->readers_mutex);
	struct db *db = s->readers[--s->n_readers];
	pthread_mutex_unlock(&s->readers_mutex);
	return db;
}

void store_read_end(struct store *s, struct db *db)
{
	pthread_mutex_lock(&s->readers_mutex);
	s->readers[s->n_readers++] = db;
	pthread_cond_signal(&s->reader_free);
	pthread_mutex_unlock(&s->readers_mutex);
}

struct keys *store_keys(struct store *s)
{
	return s->keys;
}

static bool open_readers(struct store *s, const char *path, char **error)
{
	while (s->n_readers < READERS) {
		struct db *db = db_open_reader(path, error);

		if (!db)
			return false;
		s->readers[s->n_readers++] = db;
	}
	return true;
}

/* ---- life ---- */

static int make_folders(int dir)
{
	static const char *const folders[] = {"images", "refs", "tmp"};

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (mkdirat(dir, folders[i], 0700) < 0 && errno != EEXIST)
			return -errno;
	return 0;
}

/* Whether a generation that is not at its end may still need its references. */
static bool is_open(struct store *s, const char *id)
{
	struct db *db = store_read(s);
	int64_t found;
	const int rc = db_get_int(db, &found,
		"SELECT 1 FROM generation WHERE id = ? AND status IN ('queued', 'processing')", "s",
		id);

	store_read_end(s, db);
	return rc != 0;
}

static void remove_files(int dir, const char *name)
{
	char path[600];

	for (int k = 1; k <= UPLOAD_FILES_MAX; k++) {
		snprintf(path, sizeof path, "%s/%d", name, k);
		unlinkat(dir, path, 0);
	}
	unlinkat(dir, name, AT_REMOVEDIR);
}

/* What a hub that was killed has left: uploads under way, and references that were moved to their
 * generation before it was committed or are no longer needed. */
static void sweep(struct store *s, const char *folder, bool (*needed)(struct store *, const char *))
{
	CLEANUP_FREE char *path = files_join(s->dir, folder);
	DIR *d = opendir(path);
	const struct dirent *entry;

	while (d && (entry = readdir(d)) != NULL)
		if (entry->d_name[0] != '.' && !(needed && needed(s, entry->d_name)))
			remove_files(dirfd(d), entry->d_name);
	if (d)
		closedir(d);
}

static int take_lock(struct store *s, const char *dir, int wait_ms, bool *busy, char **error)
{
	pid_t holder = 0;
	CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : make_folders(fd);

	if (rc == 0)
		rc = s->lock = files_lock_dir(fd, wait_ms, &holder);
	if (rc == -EWOULDBLOCK) {
		*busy = true;
		return fail(error, -EBUSY, "%s is served by process %d already", dir, (int)holder);
	}
	return rc < 0 ? fail(error, rc, "%s cannot be used: %s", dir, strerror(-rc)) : 0;
}

struct store *store_open(const char *dir, int wait_ms, bool *busy, char **error)
{
	struct store *s = xcalloc(1, sizeof *s);
	CLEANUP_FREE char *path = files_join(dir, "hub.db");

	*busy = false;
	s->dir = xstrdup(dir);
	s->lock = -1;
	s->keys = keys_create();
	list_init(&s->jobs);
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->wake, NULL);
	pthread_mutex_init(&s->readers_mutex, NULL);
	pthread_cond_init(&s->reader_free, NULL);
	const int rc = sodium_init() < 0 ? -EIO : files_mkdir_private(dir);
	if (rc < 0)
		fail(error, rc, "%s cannot be made: %s", dir, strerror(-rc));
	else if (take_lock(s, dir, wait_ms, busy, error) == 0)
		s->db = db_open(path, migrations, ARRAY_SIZE(migrations), error);
	if (!s->db || !open_readers(s, path, error)) {
		store_close(s);
		return NULL;
	}
	sweep(s, "tmp", NULL);
	sweep(s, "refs", is_open);
	s->running = thread_start(&s->writer, "writer", writer_main, s) == 0;
	return s;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	if (s->running) {
		pthread_mutex_lock(&s->mutex);
		s->stopping = true;
		pthread_cond_signal(&s->wake);
		pthread_mutex_unlock(&s->mutex);
		pthread_join(s->writer, NULL);
	}
	while (s->n_readers > 0)
		db_close(s->readers[--s->n_readers]);
	db_close(s->db);
	if (s->lock >= 0)
		close(s->lock);
	keys_destroy(s->keys);
	pthread_cond_destroy(&s->reader_free);
	pthread_mutex_destroy(&s->readers_mutex);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->mutex);
	free(s->dir);
	free(s);
}

const char *store_dir(const struct store *s)
{
	return s->dir;
}

void hub_id_make(char id[HUB_ID_SIZE], const char *prefix, int letters)
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	enum { LETTERS = sizeof alphabet - 1, FAIR = 256 - 256 % LETTERS };
	unsigned char bytes[HUB_ID_SIZE * 2]; /* at once, as each time is a system call */
	size_t at = (size_t)snprintf(id, HUB_ID_SIZE, "%s", prefix), used = sizeof bytes;

	while (letters > 0 && at < HUB_ID_SIZE - 1) {
		if (used == sizeof bytes) {
			randombytes_buf(bytes, sizeof bytes);
			used = 0;
		}
		if (bytes[used++] >= FAIR)
			continue;
		id[at++] = alphabet[bytes[used - 1] % LETTERS];
		letters--;
	}
	id[at] = '\0';
}

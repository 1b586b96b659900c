#include "catalogue/file.h"
#include "base/files.h"
#include "base/log.h"
#include "base/names.h"
#include "catalogue/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <search.h>

/*
 * A node that has handles, or whose last close could not be noted yet. It comes and goes under the
 * database's lock; its fields are under files_lock.
 */
struct open_file {
	int64_t id; /* the table's key */
	int handles, writers;
	bool written;	  /* since it was last closed by all writers: a commit is owed */
	uint64_t changes; /* made so far; counted when they are done, so that whoever flushes behind
			   * a change finds it */
	uint64_t synced;  /* so many of them are durable */
	uint64_t flushed; /* so many of them a writer has closed behind */
	int error;	  /* what a writer was told (a full disk): the content is not whole */
	bool killed;	  /* the last writer that flushed was being killed */
	bool unlinked;	  /* the row goes with the last handle */
};

struct file {
	struct catalogue *cat;
	struct open_file *shared;
	int fd;
	bool writable;
};

static int compare(const void *a, const void *b)
{
	const int64_t x = ((const struct open_file *)a)->id;
	const int64_t y = ((const struct open_file *)b)->id;

	return x < y ? -1 : x > y;
}

/* Under files_lock. */
static struct open_file *find(struct catalogue *cat, int64_t id)
{
	const struct open_file key = {.id = id};
	struct open_file *const *found = tfind(&key, &cat->open_files, compare);

	return found ? *found : NULL;
}

static struct open_file *attach(struct catalogue *cat, int64_t id, bool writable)
{
	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	if (!o) {
		o = xcalloc(1, sizeof *o);
		o->id = id;
		tsearch(o, &cat->open_files, compare);
	}
	o->handles++;
	o->writers += writable;
	pthread_mutex_unlock(&cat->files_lock);
	return o;
}

/* ---- opening ---- */

static int open_spool(struct catalogue *cat, int64_t id, int flags)
{
	char name[SPOOL_NAME_SIZE];
	const int fd = openat(cat->spool, spool_name(id, name),
		flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? -errno : fd;
}

static bool is_written(struct catalogue *cat, const struct open_file *o)
{
	pthread_mutex_lock(&cat->files_lock);
	const bool written = o->written;
	pthread_mutex_unlock(&cat->files_lock);
	return written;
}

/* Noted, durably, before the bytes change: a crash in the middle of a re-write submits nothing. */
static int begin_write(struct catalogue *cat, struct open_file *o)
{
	struct node n;

	if (is_written(cat, o))
		return 0;
	db_lock(cat->db);
	int rc = tree_get(cat, o->id, &n);
	if (rc == 0 && n.pending == PENDING_CLOSED) {
		catalogue_begin(cat, DB_FULL);
		rc = catalogue_end(cat, tree_set_pending(cat, o->id, PENDING_WRITTEN));
	}
	if (rc == 0)
		rc = promise_drop(cat, o->id);
	if (rc == 0) {
		pthread_mutex_lock(&cat->files_lock);
		o->written = true;
		pthread_mutex_unlock(&cat->files_lock);
	}
	db_unlock(cat->db);
	return rc;
}

/* rc: of the change. A failed one leaves the file not whole. */
static void end_write(struct catalogue *cat, struct open_file *o, int rc)
{
	pthread_mutex_lock(&cat->files_lock);
	o->changes++;
	if (rc < 0)
		o->error = rc;
	pthread_mutex_unlock(&cat->files_lock);
}

int file_open(struct catalogue *cat, int64_t id, int flags, struct file **out)
{
	const bool writable = (flags & O_ACCMODE) != O_RDONLY;
	struct node n;

	/* Under the database's lock, so that it comes before a commit's transaction or after it. */
	db_lock(cat->db);
	int rc = tree_get(cat, id, &n);
	if (rc == 0 && !S_ISREG(n.st.st_mode))
		rc = S_ISDIR(n.st.st_mode) ? -EISDIR : -EINVAL;
	const int fd = rc == 0 ? open_spool(cat, id, writable ? O_RDWR : O_RDONLY) : rc;
	struct open_file *o = fd >= 0 ? attach(cat, id, writable) : NULL;
	db_unlock(cat->db);
	if (!o)
		return fd;

	struct file *f = xcalloc(1, sizeof *f);
	*f = (struct file){.cat = cat, .shared = o, .fd = fd, .writable = writable};
	*out = f;
	return 0;
}

int file_fd(const struct file *f)
{
	return f->fd;
}

int64_t file_node(const struct file *f)
{
	return f->shared->id;
}

bool file_writable(const struct file *f)
{
	return f->writable;
}

int file_write_begin(struct file *f)
{
	return begin_write(f->cat, f->shared);
}

void file_write_end(struct file *f, int rc)
{
	end_write(f->cat, f->shared, rc);
}

int file_truncate(struct file *f)
{
	struct open_file *o = f->shared;
	struct stat st;
	int rc = fstat(f->fd, &st) < 0 ? -errno : 0;

	const bool changes = rc == 0 && st.st_size > 0;
	if (changes)
		rc = begin_write(f->cat, o);
	/* Of an empty file it sets the times. */
	if (rc == 0 && ftruncate(f->fd, 0) < 0)
		rc = -errno;
	if (changes)
		end_write(f->cat, o, 0);
	if (rc == 0) {
		pthread_mutex_lock(&f->cat->files_lock);
		o->error = 0;
		pthread_mutex_unlock(&f->cat->files_lock);
	}
	return rc;
}

int file_make_durable(struct catalogue *cat, int64_t id)
{
	CLEANUP_CLOSE int fd = open_spool(cat, id, O_RDONLY);

	if (fd < 0)
		return fd;
	if (fdatasync(fd) < 0)
		return -errno;
	return files_sync_dir(cat->spool);
}

static bool is_prompt_node(struct catalogue *cat, int64_t id)
{
	CLEANUP_FREE char *name = tree_name(cat, id);

	return name && names_is_prompt(name);
}

/* Under the database's lock. */
int file_changed(struct catalogue *cat, int64_t id, off_t size)
{
	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	const bool writer = o && o->writers > 0;
	if (writer)
		o->written = true;
	if (o) {
		o->changes++;
		o->error = size == 0 ? 0 : o->error;
	}
	pthread_mutex_unlock(&cat->files_lock);
	const int rc = promise_drop(cat, id);
	if (rc < 0 || !is_prompt_node(cat, id))
		return rc;
	/* truncate(2) on a path is a whole change of its own. */
	return tree_set_pending(cat, id, writer ? PENDING_WRITTEN : PENDING_CLOSED);
}

/* Under the database's lock. */
int file_renamed(struct catalogue *cat, int64_t id, bool *due)
{
	int rc = file_make_durable(cat, id);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	const bool writer = o && o->writers > 0;
	if (writer)
		o->written = true;
	pthread_mutex_unlock(&cat->files_lock);
	rc = tree_set_pending(cat, id, writer ? PENDING_WRITTEN : PENDING_CLOSED);
	*due |= rc == 0 && !writer;
	return rc;
}

/* ---- durability ---- */

/* Content, name and row, in this order, so that no row speaks of content that may be lost. */
static int sync_all(struct file *f, bool flushed)
{
	struct catalogue *cat = f->cat;
	int rc = fdatasync(f->fd) < 0 ? -errno : files_sync_dir(cat->spool);

	if (rc == 0)
		rc = promise_drop(cat, f->shared->id);
	if (rc == 0 && flushed)
		rc = tree_set_pending(cat, f->shared->id, PENDING_WRITTEN);
	/* A row that is new or was touched is made durable even if pending stays the same. */
	return rc < 0 ? rc : catalogue_sync(cat);
}

/* A small prompt's content becomes durable with its row, by one sync. */
static int sync_prompt(struct file *f)
{
	struct catalogue *cat = f->cat;

	catalogue_begin(cat, DB_NORMAL);
	int rc = promise_keep(cat, f->shared->id, f->fd);
	if (rc == 0)
		rc = tree_set_pending(cat, f->shared->id, PENDING_WRITTEN);
	rc = catalogue_end(cat, rc);
	return rc == -EFBIG ? sync_all(f, true) : rc < 0 ? rc : catalogue_sync(cat);
}

int file_flush(struct file *f, bool killed)
{
	struct open_file *o = f->shared;
	struct catalogue *cat = f->cat;

	if (!f->writable)
		return 0;
	pthread_mutex_lock(&cat->files_lock);
	const uint64_t changes = o->flushed = o->changes;
	const bool dirty = changes != o->synced;
	if (dirty || killed)
		o->killed = killed;
	int rc = o->error;
	pthread_mutex_unlock(&cat->files_lock);
	if ((!dirty && rc == 0) || !is_prompt_node(cat, o->id))
		return 0;

	if (rc == 0)
		rc = sync_prompt(f);
	pthread_mutex_lock(&cat->files_lock);
	if (rc < 0)
		o->error = rc;
	else if (o->synced < changes)
		o->synced = changes;
	pthread_mutex_unlock(&cat->files_lock);
	return rc < 0 ? rc : 1;
}

int file_sync(struct file *f)
{
	const int rc = sync_all(f, false);

	if (rc < 0 && f->writable) {
		pthread_mutex_lock(&f->cat->files_lock);
		f->shared->error = rc;
		pthread_mutex_unlock(&f->cat->files_lock);
	}
	return rc;
}

/* ---- closing: what a file that its last writer has left owes ---- */

/* Why it is not to be sent as it is, owned, or NULL. */
static char *draft_reason(const struct open_file *o)
{
	if (o->killed)
		return xstrdup("the program that wrote it was killed before it was done");
	if (o->error)
		return xasprintf("not all that was written could be kept (%s), and its program was "
				 "told so",
			strerror(-o->error));
	return NULL;
}

static int note_close(struct catalogue *cat, const struct open_file *o, struct file_closed *closed)
{
	CLEANUP_FREE char *draft = draft_reason(o);

	catalogue_begin(cat, DB_NORMAL);
	int rc = tree_set_pending(cat, o->id, draft ? PENDING_NONE : PENDING_CLOSED);
	if (rc == 0 && draft)
		rc = tree_draft_set(cat, o->id, o->killed ? ECANCELED : -o->error, draft);
	rc = catalogue_end(cat, rc);
	/* What could not be noted is looked at again: see file_settle(). */
	closed->due = rc < 0 || !draft;
	closed->draft = rc == 0 && draft;
	return rc;
}

static int settle_prompt(struct catalogue *cat, struct open_file *o, struct file_closed *closed)
{
	struct node n;

	if (!o->written) {
		/* Who only looked in has stopped the settle time of what was due. */
		closed->due = tree_get(cat, o->id, &n) == 0 && n.pending == PENDING_CLOSED;
		return 0;
	}
	/* What came behind the last flush (a mapping's pages) nobody has made durable yet. */
	const int rc = !o->error && o->synced != o->changes ? file_make_durable(cat, o->id) : 0;
	closed->due = rc < 0;
	return rc < 0 ? rc : note_close(cat, o, closed);
}

/* Under the database's lock, after the last writer. */
static int settle_debt(struct catalogue *cat, struct open_file *o, struct file_closed *closed)
{
	int rc = 0;

	pthread_mutex_lock(&cat->files_lock);
	const bool promised = o->changes == o->synced;
	pthread_mutex_unlock(&cat->files_lock);
	/* What was written behind the last flush, or under another name, was not. */
	if (!promised)
		rc = promise_drop(cat, o->id);
	if (rc == 0 && is_prompt_node(cat, o->id))
		rc = settle_prompt(cat, o, closed);
	if (rc < 0) {
		log_error("file %lld: its close cannot be noted yet: %s", (long long)o->id,
			strerror(-rc));
		return rc;
	}
	pthread_mutex_lock(&cat->files_lock);
	o->written = o->killed = false;
	o->error = 0;
	pthread_mutex_unlock(&cat->files_lock);
	return 0;
}

/* Under the database's lock. */
static void forget_if_idle(struct catalogue *cat, struct open_file *o)
{
	pthread_mutex_lock(&cat->files_lock);
	const bool idle = o->handles == 0 && (!o->written || o->unlinked);
	if (idle)
		tdelete(o, &cat->open_files, compare);
	pthread_mutex_unlock(&cat->files_lock);
	if (idle)
		free(o);
}

int file_settle(struct catalogue *cat, int64_t id, struct file_closed *closed)
{
	int rc = 0;

	*closed = (struct file_closed){0};
	db_lock(cat->db);
	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	const bool owes = o && o->writers == 0 && o->written;
	pthread_mutex_unlock(&cat->files_lock);
	if (owes) {
		rc = settle_debt(cat, o, closed);
		forget_if_idle(cat, o);
	}
	db_unlock(cat->db);
	return rc;
}

static void remove_node(struct catalogue *cat, int64_t id)
{
	char name[SPOOL_NAME_SIZE];

	unlinkat(cat->spool, spool_name(id, name), 0);
	db_lock(cat->db);
	tree_delete_row(cat, id);
	db_unlock(cat->db);
}

void file_close(struct file *f, struct file_closed *closed)
{
	struct catalogue *cat = f->cat;
	struct open_file *o = f->shared;

	*closed = (struct file_closed){0};
	/* Under the database's lock: a commit sees either the writer or what it left. */
	db_lock(cat->db);
	pthread_mutex_lock(&cat->files_lock);
	o->handles--;
	o->writers -= f->writable;
	closed->last_writer = f->writable && o->writers == 0;
	const bool unlinked = o->unlinked, last = o->handles == 0;
	pthread_mutex_unlock(&cat->files_lock);
	if (closed->last_writer && !unlinked)
		settle_debt(cat, o, closed);
	if (last && unlinked)
		remove_node(cat, o->id);
	forget_if_idle(cat, o);
	db_unlock(cat->db);
	close(f->fd);
	free(f);
}

bool file_is_open(struct catalogue *cat, int64_t id)
{
	pthread_mutex_lock(&cat->files_lock);
	const struct open_file *o = find(cat, id);
	const bool open = o && o->handles > 0;
	pthread_mutex_unlock(&cat->files_lock);
	return open;
}

/* Under the database's lock. */
void file_unlinked(struct catalogue *cat, int64_t id)
{
	char name[SPOOL_NAME_SIZE];

	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	if (o)
		o->unlinked = true;
	const bool open = o && o->handles > 0;
	pthread_mutex_unlock(&cat->files_lock);
	if (o)
		forget_if_idle(cat, o);
	if (!open)
		unlinkat(cat->spool, spool_name(id, name), 0);
}

bool files_release(struct catalogue *cat)
{
	bool left = false;

	while (cat->open_files) {
		struct open_file *o = *(struct open_file **)cat->open_files;

		left |= o->handles > 0;
		if (o->handles == 0 && o->written)
			settle_debt(cat, o, &(struct file_closed){0});
		tdelete(o, &cat->open_files, compare);
		free(o);
	}
	return left;
}

/* ---- asking ---- */

bool file_has_writer(struct catalogue *cat, int64_t id)
{
	pthread_mutex_lock(&cat->files_lock);
	const struct open_file *o = find(cat, id);
	const bool writer = o && o->writers > 0;
	pthread_mutex_unlock(&cat->files_lock);
	return writer;
}

bool file_is_midway(struct catalogue *cat, int64_t id)
{
	pthread_mutex_lock(&cat->files_lock);
	const struct open_file *o = find(cat, id);
	const bool midway = o && o->writers > 0 && o->changes != o->flushed;
	pthread_mutex_unlock(&cat->files_lock);
	return midway;
}

bool file_is_changing(struct catalogue *cat, int64_t id)
{
	pthread_mutex_lock(&cat->files_lock);
	const struct open_file *o = find(cat, id);
	const bool changing = o && o->written;
	pthread_mutex_unlock(&cat->files_lock);
	return changing;
}

int file_spool_open(struct catalogue *cat, int64_t id)
{
	return open_spool(cat, id, O_RDONLY);
}

int file_content(struct catalogue *cat, int64_t id, struct buf *out)
{
	CLEANUP_CLOSE int fd = file_spool_open(cat, id);

	return fd < 0 ? fd : files_read_fd(fd, out);
}

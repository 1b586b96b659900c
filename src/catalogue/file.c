#include "catalogue/file.h"
#include "base/files.h"
#include "base/log.h"
#include "base/names.h"
#include "catalogue/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <search.h>

/* A node that has handles. */
struct open_file {
	int64_t id; /* the table's key */
	int handles, writers;
	bool written;  /* since it was last closed by all writers: a commit is owed */
	bool dirty;    /* since the last flush */
	bool killed;   /* the last writer that flushed was being killed */
	bool unlinked; /* the row goes with the last handle */
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

/* Noted before the bytes change, so that a crash in the middle of a re-write submits nothing. */
static int begin_write(struct catalogue *cat, struct open_file *o)
{
	struct node n;

	pthread_mutex_lock(&cat->files_lock);
	const bool first = !o->written;
	o->written = o->dirty = true;
	pthread_mutex_unlock(&cat->files_lock);
	if (!first)
		return 0;
	db_lock(cat->db);
	int rc = tree_get(cat, o->id, &n);
	if (rc == 0 && n.pending == PENDING_CLOSED)
		rc = tree_set_pending(cat, o->id, PENDING_WRITTEN);
	db_unlock(cat->db);
	return rc;
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
	if (writable && (flags & O_TRUNC) && n.st.st_size > 0) {
		rc = begin_write(cat, o);
		if (rc == 0 && ftruncate(fd, 0) < 0)
			rc = -errno;
		if (rc < 0) {
			file_close(f, &(struct file_closed){0});
			return rc;
		}
	}
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

/* Under the database's lock. */
void file_changed(struct catalogue *cat, int64_t id)
{
	struct node n;

	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	if (o)
		o->written = o->dirty = true;
	const bool writer = o && o->writers > 0;
	pthread_mutex_unlock(&cat->files_lock);
	if (tree_get(cat, id, &n) == 0 && n.pending == PENDING_CLOSED && writer)
		tree_set_pending(cat, id, PENDING_WRITTEN);
	/* truncate(2) on a path is a whole change of its own. */
	else if (!writer)
		tree_set_pending(cat, id, PENDING_CLOSED);
}

/* ---- durability ---- */

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

int file_flush(struct file *f, bool killed)
{
	struct open_file *o = f->shared;
	struct catalogue *cat = f->cat;

	if (!f->writable)
		return 0;
	pthread_mutex_lock(&cat->files_lock);
	const bool dirty = o->dirty;
	o->dirty = false;
	if (dirty || killed)
		o->killed = killed;
	pthread_mutex_unlock(&cat->files_lock);
	if (!dirty || !is_prompt_node(cat, o->id))
		return 0;

	int rc = fdatasync(f->fd) < 0 ? -errno : files_sync_dir(cat->spool);
	if (rc == 0) {
		catalogue_begin(cat, DB_FULL);
		rc = tree_set_pending(cat, o->id, PENDING_WRITTEN);
		/* A row that is new or was touched is made durable even if pending stays the same. */
		if (rc == 0)
			rc = catalogue_set(cat, "flushed", "1");
		rc = catalogue_end(cat, rc);
	}
	if (rc < 0) {
		pthread_mutex_lock(&cat->files_lock);
		o->dirty = true;
		pthread_mutex_unlock(&cat->files_lock);
	}
	return rc < 0 ? rc : 1;
}

int file_sync(struct file *f)
{
	int rc = fsync(f->fd) < 0 ? -errno : files_sync_dir(f->cat->spool);

	if (rc == 0) {
		catalogue_begin(f->cat, DB_FULL);
		rc = catalogue_end(f->cat, catalogue_set(f->cat, "flushed", "1"));
	}
	return rc;
}

/* ---- closing ---- */

/* What a file that its last writer has left owes, once. */
static void settle_debt(struct catalogue *cat, int64_t id, bool killed, struct file_closed *closed)
{
	int rc;

	if (!is_prompt_node(cat, id))
		return;
	if (killed) {
		rc = tree_set_pending(cat, id, PENDING_NONE);
		if (rc == 0)
			rc = tree_draft_set(cat, id, EINTR,
				"the program that wrote it was killed before it was done");
	} else {
		rc = tree_set_pending(cat, id, PENDING_CLOSED);
	}
	if (rc < 0)
		log_error("file %lld: its close cannot be noted: %s", (long long)id, strerror(-rc));
	closed->due = !killed && rc == 0;
	closed->draft = killed;
}

/* Whether its commit is still owed from an earlier close, which this handle's opening put off: who
 * opens a file to touch it and writes nothing must not make it be forgotten. */
static bool is_still_due(struct catalogue *cat, int64_t id)
{
	struct node n;

	return tree_get(cat, id, &n) == 0 && n.pending == PENDING_CLOSED && is_prompt_node(cat, id);
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
	const int64_t id = o->id;
	bool debt = false, killed, gone, last;

	*closed = (struct file_closed){0};
	/* Under the database's lock: a commit sees either the writer or what it left. */
	db_lock(cat->db);
	pthread_mutex_lock(&cat->files_lock);
	o->handles--;
	o->writers -= f->writable;
	closed->last_writer = f->writable && o->writers == 0;
	if (closed->last_writer) {
		debt = o->written;
		o->written = false;
	}
	killed = o->killed;
	last = o->handles == 0;
	gone = last && o->unlinked;
	if (last)
		tdelete(o, &cat->open_files, compare);
	pthread_mutex_unlock(&cat->files_lock);
	if (debt && !gone)
		settle_debt(cat, id, killed, closed);
	else if (closed->last_writer && !gone)
		closed->due = is_still_due(cat, id);
	if (gone)
		remove_node(cat, id);
	db_unlock(cat->db);

	if (last)
		free(o);
	close(f->fd);
	free(f);
}

bool file_drop(struct catalogue *cat, int64_t id)
{
	char name[SPOOL_NAME_SIZE];

	pthread_mutex_lock(&cat->files_lock);
	struct open_file *o = find(cat, id);
	if (o)
		o->unlinked = true;
	pthread_mutex_unlock(&cat->files_lock);
	if (o)
		return false;
	unlinkat(cat->spool, spool_name(id, name), 0);
	return true;
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

int file_spool_open(struct catalogue *cat, int64_t id)
{
	return open_spool(cat, id, O_RDONLY);
}

int file_content(struct catalogue *cat, int64_t id, struct buf *out)
{
	CLEANUP_CLOSE int fd = file_spool_open(cat, id);

	return fd < 0 ? fd : files_read_fd(fd, out);
}

#include "base/log.h"
#include "base/names.h"
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* ---- opening ---- */

/* An open file that has no file behind it: the helper's. */
enum { HELPER_FH = 1 };

static struct file *file_of(const struct fuse_file_info *fi)
{
	return (struct file *)(uintptr_t)fi->fh;
}

/* Whatever it was opened for, and however that went: what is due stays due. */
static void close_tree(struct mount *m, struct file *f)
{
	const struct engine_event draft = {.what = CHANGE_REQUEST, .node = file_node(f)};
	struct file_closed closed;

	file_close(f, &closed);
	if (closed.due)
		engine_settle(m->engine, draft.node);
	if (closed.draft)
		notifier_changed(m->notifier, &draft);
}

static void open_tree(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct file *f = NULL;
	int rc = file_open(m->cat, ino_id(ino), fi->flags, &f);

	if (rc == 0 && file_writable(f))
		engine_disturb(m->engine, ino_id(ino));
	/* Linux truncates at O_RDONLY | O_TRUNC as well, and the kernel takes it that we have. */
	if (rc == 0 && (fi->flags & O_TRUNC))
		rc = file_writable(f) ? file_truncate(f) : empty_node(m, ino_id(ino));
	if (rc < 0) {
		if (f)
			close_tree(m, f);
		fuse_reply_err(req, -rc);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)f;
	/* The user's own files change through the kernel alone. */
	fi->keep_cache = 1;
	fi->noflush = !file_writable(f);
	if (away_reply_open(m, req, fi) < 0)
		close_tree(m, f);
}

/* The helper touches what has changed; nobody else writes to what is not theirs. */
static bool open_for_helper(struct mount *m, fuse_req_t req, struct fuse_file_info *fi)
{
	if (!is_helper(m, req))
		return false;
	fi->fh = HELPER_FH;
	fi->direct_io = 1;
	fi->noflush = 1; /* the mount is busy while it is open */
	fuse_reply_open(req, fi);
	return true;
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	const bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;

	if (ino_type(ino) == INO_TREE) {
		open_tree(m, req, ino, fi);
		return;
	}
	if (writes && open_for_helper(m, req, fi))
		return;
	if (writes && ino != STATIC_CONTROL) {
		fuse_reply_err(req, ino_type(ino) == INO_STATUS || ino_type(ino) == INO_ERROR ||
						ino_type(ino) == INO_IMAGE || ino_type(ino) == INO_WAIT
					? EACCES
					: EROFS);
		return;
	}
	if (ino_type(ino) == INO_IMAGE)
		image_open(m, req, ino, fi);
	else if (ino_type(ino) == INO_WAIT)
		wait_open(m, req, ino, fi);
	else if (is_text(ino))
		text_open(m, req, ino, fi);
	else
		fuse_reply_err(req, EISDIR);
}

/* The helper's call that makes a derived name real for all. */
static void announce(struct mount *m, fuse_req_t req, fuse_ino_t parent, const char *name,
	struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	struct derived d;
	struct image i;
	fuse_ino_t ino = 0;
	int rc = -ENOENT;

	if (ino_type(parent) == INO_TREE) {
		rc = derived_find(m, ino_id(parent), name, &d);
		if (rc == 0)
			ino = ino_of_derived(&d);
	} else if (ino_type(parent) == INO_GENERATION) {
		rc = image_find(m->cat, ino_id(parent), atoi(name), &i);
		if (rc == 0)
			ino = ino_make(INO_IMAGE, i.id);
		if (rc == 0)
			image_release(&i);
	}
	if (rc == 0)
		rc = node_entry(m, parent, ino, &e);
	if (rc < 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	notifier_announced(m->notifier, parent, ino);
	fi->fh = HELPER_FH;
	fi->direct_io = 1;
	fi->noflush = 1; /* the mount is busy while it is open */
	fuse_reply_create(req, &e, fi);
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct fuse_entry_param e;
	struct file *f = NULL;
	struct node n;

	if (is_helper(m, req)) {
		announce(m, req, parent, name, fi);
		return;
	}
	int rc = create_node(m, req, parent, name, S_IFREG | (mode & 07777), NULL, &n);
	if (rc == 0)
		rc = file_open(m->cat, n.id, fi->flags, &f);
	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	tree_node_entry(&n, &e);
	fi->fh = (uint64_t)(uintptr_t)f;
	fi->keep_cache = 1;
	fi->noflush = !file_writable(f);
	away_opened(m);
	if (fuse_reply_create(req, &e, fi) < 0) {
		away_closed(m);
		close_tree(m, f);
	}
}

/* ---- reading and writing ---- */

static void read_tree(fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);

	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = file_fd(file_of(fi));
	buf.buf[0].pos = off;
	fuse_reply_data(req, &buf, FUSE_BUF_SPLICE_MOVE);
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);

	if (fi->fh == HELPER_FH)
		fuse_reply_buf(req, NULL, 0);
	else if (ino_type(ino) == INO_TREE)
		read_tree(req, size, off, fi);
	else if (ino_type(ino) == INO_IMAGE)
		image_read(m, req, size, off, fi);
	else if (ino_type(ino) == INO_WAIT)
		wait_read(m, req, size, fi);
	else
		text_read(m, req, size, off, fi);
}

static void write_control(struct mount *m, fuse_req_t req, struct control *c,
	struct fuse_bufvec *in)
{
	const size_t len = fuse_buf_size(in);
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(len);
	CLEANUP_FREE char *bytes = xmalloc(len + 1);

	out.buf[0].mem = bytes;
	const ssize_t n = fuse_buf_copy(&out, in, 0);
	const int rc = n < 0 ? (int)n : control_write(m, c, bytes, (size_t)n);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_write(req, (size_t)n);
}

void op_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in, off_t off,
	struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	struct fuse_bufvec out = FUSE_BUFVEC_INIT(fuse_buf_size(in));

	if (ino == STATIC_CONTROL && fi->fh != HELPER_FH) {
		write_control(m, req, text_control(fi), in);
		return;
	}
	if (ino_type(ino) != INO_TREE || fi->fh == HELPER_FH) {
		fuse_reply_err(req, EROFS);
		return;
	}
	const int rc = file_write_begin(file_of(fi));
	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	out.buf[0].fd = file_fd(file_of(fi));
	out.buf[0].pos = off;
	const ssize_t n = fuse_buf_copy(&out, in, 0);
	file_write_end(file_of(fi), n < 0 ? (int)n : 0);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	int rc = ino_type(ino) == INO_TREE ? file_write_begin(file_of(fi)) : -EROFS;

	if (rc == 0) {
		if (fallocate(file_fd(file_of(fi)), mode, off, len) < 0)
			rc = -errno;
		file_write_end(file_of(fi), 0);
	}
	fuse_reply_err(req, rc < 0 ? -rc : 0);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	if (ino_type(ino) != INO_TREE) {
		fuse_reply_err(req, ENOSYS);
		return;
	}
	const off_t at = lseek(file_fd(file_of(fi)), off, whence);
	if (at < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_lseek(req, at);
}

/* ---- the end of writing ---- */

/* Whether a process is being ended by a signal: PF_SIGNALED (linux/sched.h) in the ninth field of
 * its stat. Its FLUSH comes from the kernel closing its files. */
static bool is_killed(pid_t pid)
{
	enum { SIGNALED = 0x400 };
	char path[64], text[1024], *end;
	unsigned long flags = 0;
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	end = strrchr(text, ')');
	return end && sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
		(flags & SIGNALED);
}

void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);
	int rc = 0;

	if (ino_type(ino) == INO_TREE && fi->fh != HELPER_FH && file_writable(file_of(fi))) {
		const bool killed = is_killed(fuse_req_ctx(req)->pid);

		rc = file_flush(file_of(fi), killed);
		if (rc > 0)
			rc = killed ? 0 : engine_validate(m->engine, ino_id(ino));
	} else if (ino == STATIC_CONTROL && fi->fh != HELPER_FH && text_control(fi)) {
		rc = is_killed(fuse_req_ctx(req)->pid) ? 0 : control_flush(m, text_control(fi));
	}
	fuse_reply_err(req, rc < 0 ? -rc : 0);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);

	if (fi->fh == HELPER_FH)
		;
	else if (ino_type(ino) == INO_TREE)
		close_tree(m, file_of(fi));
	else if (ino_type(ino) == INO_IMAGE)
		image_close(fi);
	else if (ino_type(ino) == INO_WAIT)
		wait_release(fi);
	else
		text_release(m, fi);
	if (fi->fh != HELPER_FH)
		away_closed(m);
	fuse_reply_err(req, 0);
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync;
	const int rc = ino_type(ino) == INO_TREE && fi->fh != HELPER_FH ? file_sync(file_of(fi)) : 0;
	fuse_reply_err(req, rc < 0 ? -rc : 0);
}

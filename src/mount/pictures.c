#include "base/clock.h"
#include "base/files.h"
#include "mount/internal.h"
#include <errno.h>
#include <stdatomic.h>

/* An open picture. */
struct picture_handle {
	struct picture *picture;
	int64_t image;
	atomic_int fd; /* of the finished file; -1 until it is known to be here */
	atomic_flag begun; /* something was read through this handle */
};

static struct picture_handle *handle_of(uint64_t fh)
{
	return (struct picture_handle *)(uintptr_t)fh;
}

void image_open(struct mount *m, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct picture_handle *h = xcalloc(1, sizeof *h);
	const int rc = picture_open(m->engine, ino_id(ino), &h->picture);

	if (rc < 0) {
		free(h);
		fuse_reply_err(req, -rc);
		return;
	}
	h->image = ino_id(ino);
	atomic_init(&h->fd, -1);
	atomic_flag_clear(&h->begun);
	fi->fh = (uint64_t)(uintptr_t)h;
	/* A listed picture never changes: what the kernel has of it stays right. */
	fi->keep_cache = 1;
	fi->noflush = 1;
	if (away_reply_open(m, req, fi) < 0)
		image_close(fi);
}

void image_close(struct fuse_file_info *fi)
{
	struct picture_handle *h = handle_of(fi->fh);

	picture_close(h->picture);
	free(h);
}

static void reply_range(fuse_req_t req, struct picture *p, int fd, size_t size, off_t off)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);
	const int rc = picture_check(p, fd, off, size);

	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = fd;
	buf.buf[0].pos = off;
	fuse_reply_data(req, &buf, FUSE_BUF_SPLICE_MOVE);
}

struct reading {
	struct mount *m;
	uint64_t token;
};

/* The bytes are here, or never will be. On any thread. */
static void picture_ready(void *arg, int fd_or_error)
{
	struct reading *r = arg;
	struct parked *p = park_take(r->m->park, r->token);

	free(r);
	if (!p)
		return;
	if (fd_or_error < 0)
		fuse_reply_err(p->req, -fd_or_error);
	else
		reply_range(p->req, handle_of(p->fh)->picture, fd_or_error, p->size, p->off);
	parked_free(p);
}

/* Parks the request until its bytes are here. Whoever answers it, an interrupt included, lets the
 * handle be closed: the picture is held for as long as it is spoken of here. */
static void read_later(struct mount *m, fuse_req_t req, size_t size, off_t off, uint64_t fh,
	bool leads_on)
{
	const struct parked what = {.kind = PARKED_READ, .size = size, .off = off, .fh = fh};
	struct picture *p = picture_hold(handle_of(fh)->picture);
	const int64_t image = handle_of(fh)->image;
	const uint64_t token = park_add(m->park, req, &what);

	if (token) {
		struct reading *r = xmalloc(sizeof *r);

		*r = (struct reading){m, token};
		picture_wait(p, off, size, picture_ready, r);
		if (leads_on)
			engine_fetch_following(m->engine, image);
	}
	picture_close(p);
}

void image_read(struct mount *m, fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct picture_handle *h = handle_of(fi->fh);
	const bool leads_on =
		!atomic_flag_test_and_set(&h->begun) && picture_leads_on(h->picture);
	int fd = atomic_load(&h->fd);
	bool complete = fd >= 0;

	if (fd < 0)
		fd = picture_fd(h->picture, off, size, &complete);
	if (fd < 0) {
		read_later(m, req, size, off, fi->fh, leads_on);
		return;
	}
	if (leads_on)
		engine_fetch_following(m->engine, h->image);
	if (complete) {
		atomic_store(&h->fd, fd);
		reply_range(req, h->picture, fd, size, off);
	} else {
		/* Held, as the reply lets the handle be closed. */
		struct picture *p = picture_hold(h->picture);

		reply_range(req, p, fd, size, off);
		picture_fd_done(p);
		picture_close(p);
	}
}

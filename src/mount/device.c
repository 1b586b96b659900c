/*
 * The kernel's /dev/fuse, with one word in the first answer on it that libfuse leaves out.
 *
 * Without FUSE_PARALLEL_DIROPS the kernel lets one look-up or listing of a folder run at a time, the
 * others wait for a lock at which not even SIGKILL ends them: all of /generations behind one look-up
 * that waits for the hub. libfuse before 3.17 takes FUSE_CAP_PARALLEL_DIROPS and never passes it on
 * (libfuse pull request 861). So its answer to INIT, the first that is written, gets the flag here;
 * everything else is passed as libfuse would pass it itself.
 */
#include "mount/internal.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/uio.h>

static atomic_bool initialised;

/* Of a struct fuse_init_out behind the header; an error, or an answer to something else (a version
 * that has to be negotiated first), is left as it is. */
static bool add_flag(const struct iovec *iov, int count)
{
	const struct fuse_out_header *head = iov[0].iov_base;
	struct fuse_init_out *init = count > 1 ? iov[1].iov_base : NULL;

	if (iov[0].iov_len != sizeof *head || head->error != 0 || !init ||
		iov[1].iov_len < offsetof(struct fuse_init_out, max_background) || init->flags == 0)
		return false;
	init->flags |= FUSE_PARALLEL_DIROPS;
	return true;
}

static ssize_t device_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	if (!atomic_load(&initialised) && add_flag(iov, count))
		atomic_store(&initialised, true);
	return writev(fd, iov, count);
}

static ssize_t device_read(int fd, void *bytes, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, bytes, len);
}

static ssize_t device_splice(int from, off_t *from_off, int to, off_t *to_off, size_t len,
	unsigned flags, void *userdata)
{
	(void)userdata;
	return splice(from, from_off, to, to_off, len, flags);
}

int device_attach(struct fuse_session *session)
{
	static const struct fuse_custom_io io = {
		.writev = device_writev,
		.read = device_read,
		.splice_receive = device_splice,
		.splice_send = device_splice,
	};

	if (fuse_version() >= 317)
		return 0;
	return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}

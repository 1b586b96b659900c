#include "base/files.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { CHUNK = 64 * 1024, LOCK_STEP_MS = 20, LOCK_ENDING_MS = 10 * 1000 };

static const char ending[] = " is ending";

/* Makes what was created in a directory that was opened with O_PATH survive. A directory that we may
 * write but not read cannot be synced. */
static int sync_parent(int parent)
{
	CLEANUP_CLOSE int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == EACCES ? 0 : -errno;
	return files_sync_dir(fd);
}

/* Steps from the directory *at into its part `name`, which is created if missing. */
static int enter(int *at, const char *name)
{
	int rc = mkdirat(*at, name, 0700) < 0 ? -errno : sync_parent(*at);
	const int next = openat(*at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

	/* Some file systems answer EROFS or EACCES for a directory that exists. */
	if (next < 0)
		return rc < 0 && rc != -EEXIST ? rc : -errno;
	if (rc == -EEXIST || rc == -EROFS || rc == -EACCES)
		rc = 0;
	close(*at);
	*at = next;
	return rc;
}

int files_mkdir_private(const char *path)
{
	CLEANUP_FREE char *copy = xstrdup(path);
	CLEANUP_CLOSE int at = open(*path == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *rest = copy, *part;
	struct stat st;

	if (at < 0)
		return -errno;
	if (*path == '\0')
		return -ENOENT;
	while ((part = strsep(&rest, "/"))) {
		const int rc = *part ? enter(&at, part) : 0;

		if (rc < 0)
			return rc;
	}
	if (fstat(at, &st) < 0)
		return -errno;
	return st.st_uid == geteuid() ? 0 : -EPERM;
}

int files_write_all(int fd, const void *bytes, size_t len)
{
	const char *p = bytes;

	while (len > 0) {
		const ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int files_pwrite_all(int fd, const void *bytes, size_t len, off_t offset)
{
	const char *p = bytes;

	while (len > 0) {
		const ssize_t n = pwrite(fd, p, len, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t files_pread_full(int fd, void *bytes, size_t len, off_t offset)
{
	size_t got = 0;

	while (got < len) {
		const ssize_t n = pread(fd, (char *)bytes + got, len - got, offset + (off_t)got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int files_read_fd(int fd, struct buf *out)
{
	char *chunk = xmalloc(CHUNK);
	int rc = 0;

	for (;;) {
		const ssize_t n = read(fd, chunk, CHUNK);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = -errno;
		else if (n > 0 && buf_add(out, chunk, (size_t)n) < 0)
			rc = -EFBIG;
		if (n <= 0 || rc < 0)
			break;
	}
	free(chunk);
	return rc;
}

int files_read(int dirfd, const char *path, struct buf *out)
{
	CLEANUP_CLOSE int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : files_read_fd(fd, out);
}

int files_sync_dir(int dirfd)
{
	return fsync(dirfd) < 0 ? -errno : 0;
}

static int write_synced(int dirfd, const char *name, const void *bytes, size_t len)
{
	CLEANUP_CLOSE int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	const int rc = files_write_all(fd, bytes, len);
	return rc < 0 ? rc : fsync(fd) < 0 ? -errno : 0;
}

int files_write_durable(int dirfd, const char *name, const void *bytes, size_t len)
{
	static atomic_uint count;
	CLEANUP_FREE char *temporary = xasprintf("%s.new.%d.%u", name, (int)getpid(),
		atomic_fetch_add(&count, 1));

	/* With our pid and a number not used before, it can only be a dead process's. */
	unlinkat(dirfd, temporary, 0);
	int rc = write_synced(dirfd, temporary, bytes, len);

	if (rc == 0 && renameat(dirfd, temporary, dirfd, name) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(dirfd, temporary, 0);
		return rc;
	}
	return files_sync_dir(dirfd);
}

static int copy_by_hand(int from, int to, off_t offset)
{
	char *chunk = xmalloc(CHUNK);
	ssize_t n;
	int rc = 0;

	while (rc == 0 && (n = files_pread_full(from, chunk, CHUNK, offset)) != 0) {
		rc = n < 0 ? (int)n : files_pwrite_all(to, chunk, (size_t)n, offset);
		offset += n > 0 ? n : 0;
	}
	free(chunk);
	return rc;
}

int files_copy(int from, int to)
{
	off_t in = 0, out = 0;

	for (;;) {
		const ssize_t n = copy_file_range(from, &in, to, &out, 1 << 30, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EXDEV || errno == ENOSYS || errno == EOPNOTSUPP ||
				     errno == EINVAL))
			return copy_by_hand(from, to, in);
		if (n < 0)
			return -errno;
		/* Files of unknown size (/proc) look empty to it. */
		if (n == 0)
			return in > 0 ? 0 : copy_by_hand(from, to, 0);
	}
}

/* "PID", and behind it whether it is about to end. */
static bool read_holder(int fd, pid_t *holder)
{
	char text[32] = "";

	*holder = files_pread_full(fd, text, sizeof text - 1, 0) > 0 ? (pid_t)atoi(text) : 0;
	return strstr(text, ending) != NULL;
}

static int lock_or_wait(int fd, int wait_ms, pid_t *holder)
{
	for (int waited = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited += LOCK_STEP_MS) {
		const int err = errno;
		const bool ends = read_holder(fd, holder);

		if (err != EWOULDBLOCK || waited >= (ends ? LOCK_ENDING_MS : wait_ms))
			return -err;
		poll(NULL, 0, LOCK_STEP_MS);
	}
	return 0;
}

int files_lock_dir(int dirfd, int wait_ms, pid_t *holder)
{
	const int fd = openat(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char text[32];

	if (fd < 0)
		return -errno;
	const int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	int rc = lock_or_wait(fd, wait_ms, holder);
	if (rc == 0 && ftruncate(fd, 0) < 0)
		rc = -errno;
	if (rc == 0)
		rc = files_pwrite_all(fd, text, (size_t)n, 0);
	if (rc < 0)
		close(fd);
	return rc < 0 ? rc : fd;
}

/* That it cannot be written only costs whoever comes next a wait. */
void files_lock_ending(int lock)
{
	char text[32];
	const int n = snprintf(text, sizeof text, "%d%s\n", (int)getpid(), ending);

	(void)files_pwrite_all(lock, text, (size_t)n, 0);
}

void files_hold_standard(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

char *files_join(const char *dir, const char *name)
{
	const size_t len = strlen(dir);

	return xasprintf("%s%s%s", dir, len && dir[len - 1] == '/' ? "" : "/", name);
}

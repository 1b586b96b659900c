#include "mount/mount.h"
#include "base/clock.h"
#include "base/exit_status.h"
#include "base/log.h"
#include "mount/internal.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/statvfs.h>

enum { WORKERS = 16, MAX_READ = 1024 * 1024 };

struct park *mount_park(struct mount *m)
{
	return m->park;
}

/* ---- operations of the whole ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct mount *m = userdata;
	const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS |
		FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ |
		FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_ATOMIC_O_TRUNC |
		FUSE_CAP_CACHE_SYMLINKS;

	conn->want |= conn->capable & wanted;
	/* What is cached of a file is known to be right: see keep_cache. */
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_HANDLE_KILLPRIV |
		FUSE_CAP_WRITEBACK_CACHE);
	conn->max_readahead = MAX_READ;
	/* Every RELEASE is one of them, and so is every read-ahead, which may be parked: few would let
	 * readers of what does not arrive hold up the closing of prompts. */
	conn->max_background = conn->congestion_threshold = UINT16_MAX;
	if (m->ready)
		m->ready(m->ready_arg);
}

/* btrfs does not count its inodes, nor a tmpfs without a limit its blocks: all 0, which a file manager
 * takes for full. */
static void fill_uncounted(struct statvfs *st)
{
	if (st->f_blocks == 0)
		st->f_blocks = st->f_bfree = st->f_bavail = (fsblkcnt_t)1 << 30;
	if (st->f_files == 0)
		st->f_files = st->f_ffree = st->f_favail = (fsfilcnt_t)1 << 30;
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct mount *m = fuse_req_userdata(req);
	struct statvfs st;
	const int rc = catalogue_statvfs(m->cat, &st);

	(void)ino;
	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	fill_uncounted(&st);
	st.f_namemax = 255;
	fuse_reply_statfs(req, &st);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct mount *m = fuse_req_userdata(req);

	(void)datasync;
	(void)fi;
	fuse_reply_err(req, ino_type(ino) == INO_TREE ? -catalogue_sync(m->cat) : 0);
}

static const struct fuse_lowlevel_ops operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.create = op_create,
	.read = op_read,
	.write_buf = op_write_buf,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
};

/* ---- life ---- */

static int add_options(struct mount *m, struct fuse_args *args)
{
	CLEANUP_FREE char *own = xasprintf("-ofsname=%s,subtype=imagehubfs,default_permissions",
		m->config.hub ? m->config.hub : "imagehub");

	fuse_opt_add_arg(args, m->config.program ? m->config.program : "imagehubfs");
	fuse_opt_add_arg(args, own);
	if (m->config.options && *m->config.options) {
		CLEANUP_FREE char *more = xasprintf("-o%s", m->config.options);
		fuse_opt_add_arg(args, more);
	}
	return m->config.debug ? fuse_opt_add_arg(args, "-d") : 0;
}

/* libfuse writes its own reasons to stderr through this. */
static char last_fuse_words[256];

PRINTF_LIKE(2, 0)
static void fuse_words(enum fuse_log_level level, const char *format, va_list args)
{
	vsnprintf(last_fuse_words, sizeof last_fuse_words, format, args);
	last_fuse_words[strcspn(last_fuse_words, "\n")] = '\0';
	if (level <= FUSE_LOG_ERR)
		log_debug("%s", last_fuse_words);
	else if (level == FUSE_LOG_DEBUG)
		fprintf(stderr, "%s\n", last_fuse_words);
}

const char *mount_path(const struct mount *m)
{
	return m->path;
}

static int mount_session(struct mount *m, int *status, char **error)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	CLEANUP_FREE char *text = NULL;

	fuse_set_log_func(fuse_words);
	add_options(m, &args);
	m->session = fuse_session_new(&args, &operations, sizeof operations, m);
	fuse_opt_free_args(&args);
	if (!m->session) {
		/* libfuse tells which one in pieces, of which only the last is here. */
		text = m->config.options
			? xasprintf("not possible as mount options: -o %s", m->config.options)
			: xstrdup(last_fuse_words);
		*status = STATUS_USAGE;
		return fail(error, -EINVAL, "%s", text);
	}
	if (fuse_session_mount(m->session, m->path) < 0) {
		*status = mountpoint_refused(
			m->path, m->config.options, errno, last_fuse_words, error);
		return -1;
	}
	m->mounted = true;
	*status = STATUS_FAILED;
	return device_attach(m->session) < 0 ? fail(error, -EIO, "libfuse takes no device") : 0;
}

struct mount *mount_create(const struct mount_config *config, int *status, char **error)
{
	struct mount *m = xcalloc(1, sizeof *m);

	m->config = *config;
	m->config.program = xstrdup_or_null(config->program);
	m->config.options = xstrdup_or_null(config->options);
	m->config.hub = xstrdup_or_null(config->hub);
	m->config.profile = xstrdup_or_null(config->profile);
	m->uid = geteuid();
	m->gid = getegid();
	m->since_ms = clock_wall_ms();
	list_init(&m->snapshots);
	pthread_mutex_init(&m->snapshots_lock, NULL);
	pthread_mutex_init(&m->removed_lock, NULL);
	pthread_mutex_init(&m->complete_lock, NULL);
	m->park = park_create();
	m->ghosts = ghosts_create();
	*status = mountpoint_find(config->mountpoint, &m->path, error);
	if (*status == STATUS_OK) {
		*status = STATUS_FAILED;
		m->notifier = notifier_create(m->path, error);
		if (m->notifier && mount_session(m, status, error) == 0)
			return m;
	}
	mount_destroy(m);
	return NULL;
}

static void changed(void *arg, const struct engine_event *event)
{
	struct mount *m = arg;

	notifier_changed(m->notifier, event);
}

struct engine_events mount_events(struct mount *m)
{
	return (struct engine_events){.changed = changed, .arg = m};
}

/* Whether the kernel has ended the connection. While it lives elsewhere, unmounting it here would take
 * away what is mounted there by now. */
static bool is_dead(struct fuse_session *session)
{
	struct pollfd p = {.fd = fuse_session_fd(session)};

	return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

int mount_run(struct mount *m, struct catalogue *cat, struct engine *e, void (*ready)(void *),
	void *arg)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	m->cat = cat;
	m->engine = e;
	m->ready = ready;
	m->ready_arg = arg;
	int rc = notifier_start(m->notifier, m);
	m->away = away_start(m);
	if (rc == 0 && fuse_set_signal_handlers(m->session) < 0)
		rc = -EIO;
	if (rc == 0) {
		fuse_loop_cfg_set_max_threads(config, WORKERS);
		fuse_loop_cfg_set_clone_fd(config, 1);
		rc = fuse_session_loop_mt(m->session, config);
		fuse_remove_signal_handlers(m->session);
		/* A positive number is the signal that ended it. */
		if (rc > 0)
			rc = 0;
	}
	fuse_loop_cfg_destroy(config);
	const bool gone = away_stop(m->away);
	m->away = NULL;
	notifier_stop(m->notifier);
	park_end(m->park, ENOTCONN);
	if (m->mounted && (!gone || is_dead(m->session)))
		fuse_session_unmount(m->session);
	m->mounted = false;
	return rc;
}

void mount_destroy(struct mount *m)
{
	if (!m)
		return;
	if (m->mounted)
		fuse_session_unmount(m->session);
	if (m->session)
		fuse_session_destroy(m->session);
	notifier_destroy(m->notifier);
	park_destroy(m->park);
	ghosts_destroy(m->ghosts);
	pthread_mutex_destroy(&m->snapshots_lock);
	removed_destroy(m);
	pthread_mutex_destroy(&m->complete_lock);
	free(m->complete);
	free((char *)m->config.program);
	free((char *)m->config.options);
	free((char *)m->config.hub);
	free((char *)m->config.profile);
	free(m->path);
	free(m);
}

#include "local/profile.h"
#include "base/exit_status.h"
#include "base/files.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

enum { KEY_MAX = 4096 };

static const char *home(void)
{
	const char *dir = getenv("HOME");

	if (dir && *dir == '/')
		return dir;
	const struct passwd *me = getpwuid(geteuid());
	return me && me->pw_dir ? me->pw_dir : "/";
}

/* $VARIABLE/imagehubfs, or ~/FALLBACK/imagehubfs. */
static char *xdg(const char *variable, const char *fallback)
{
	const char *dir = getenv(variable);

	return dir && *dir == '/' ? xasprintf("%s/imagehubfs", dir)
				  : xasprintf("%s/%s/imagehubfs", home(), fallback);
}

/* what: as in the option --WHAT that names another one. */
static int make_private(char **path, const char *what, char **error)
{
	int rc = files_mkdir_private(*path);
	char *real = rc == 0 ? realpath(*path, NULL) : NULL;

	if (rc == 0 && (!real || access(real, R_OK | W_OK | X_OK) < 0))
		rc = -errno;
	if (rc < 0) {
		fail(error, rc, "the %s directory %s cannot be used: %s; choose another one: --%s DIR",
			what, *path,
			rc == -EPERM ? "it belongs to another user" : strerror(-rc), what);
		free(real);
		return STATUS_STATE_UNUSABLE;
	}
	free(*path);
	*path = real;
	return STATUS_OK;
}

int profile_find(const struct options *o, struct profile *p, char **error)
{
	CLEANUP_FREE char *state = xdg("XDG_STATE_HOME", ".local/state");
	CLEANUP_FREE char *cache = xdg("XDG_CACHE_HOME", ".cache");

	p->name = xstrdup(o->profile ? o->profile : o->local ? "local" : "default");
	p->state = o->state ? xstrdup(o->state) : files_join(state, p->name);
	p->cache = o->cache ? xstrdup(o->cache) : files_join(cache, p->name);
	const int status = make_private(&p->state, "state", error);
	return status ? status : make_private(&p->cache, "cache", error);
}

void profile_release(struct profile *p)
{
	free(p->name);
	free(p->state);
	free(p->cache);
	*p = (struct profile){0};
}

/* ---- the key ---- */

/* The first word of a text. It becomes part of a request's head: a control character in it would
 * begin another line there. */
static int take_key(const char *text, const char *from, char **key, char **error)
{
	const char *begin = text + strspn(text, " \t\r\n");
	const size_t len = strcspn(begin, " \t\r\n");
	bool good = len > 0;

	for (size_t i = 0; i < len; i++)
		good &= begin[i] > ' ' && begin[i] < 0x7f;
	if (!good) {
		fail(error, -EINVAL, "%s holds no key", from);
		return STATUS_NO_KEY;
	}
	*key = xstrndup(begin, len);
	return STATUS_OK;
}

static int read_key(const char *path, bool check_mode, char **key, char **error)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	struct buf b;

	if (fd < 0 || fstat(fd, &st) < 0) {
		fail(error, -errno, "the key file %s cannot be read: %s", path, strerror(errno));
		return STATUS_NO_KEY;
	}
	if (check_mode && (st.st_mode & 077)) {
		fail(error, -EPERM, "others can read the key file %s; make it yours alone: chmod 600 '%s'",
			path, path);
		return STATUS_KEY_EXPOSED;
	}
	buf_init(&b, KEY_MAX);
	CLEANUP_FREE char *from = xasprintf("the key file %s", path);
	const int status = take_key(files_read_fd(fd, &b) < 0 ? "" : b.data, from, key, error);
	buf_release(&b);
	return status;
}

static bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

int profile_key(const struct options *o, char **key, char **error)
{
	const char *credentials = getenv("CREDENTIALS_DIRECTORY");
	const char *variable = getenv("IMAGEHUB_API_KEY");
	CLEANUP_FREE char *config = xdg("XDG_CONFIG_HOME", ".config");
	CLEANUP_FREE char *file = files_join(config, "key");
	CLEANUP_FREE char *systemd = credentials ? files_join(credentials, "imagehub-key") : NULL;

	if (o->key_file)
		return read_key(o->key_file, true, key, error);
	if (systemd && is_there(systemd))
		return read_key(systemd, false, key, error);
	if (variable && *variable)
		return take_key(variable, "$IMAGEHUB_API_KEY", key, error);
	if (is_there(file))
		return read_key(file, true, key, error);
	fail(error, -ENOKEY,
		"there is no API key: make one at %s (account, API keys),\n"
		"and put it into %s (then: chmod 600 '%s'), or into $IMAGEHUB_API_KEY.\n"
		"To try it without one: imagehubfs --local MOUNTPOINT",
		o->hub ? o->hub : OPTIONS_HOSTED_HUB, file, file);
	return STATUS_NO_KEY;
}

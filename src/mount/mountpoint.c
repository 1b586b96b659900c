/*
 * Where it is to be mounted: whether that can be, and if not, what the user can do about it.
 */
#include "base/exit_status.h"
#include "base/log.h"
#include "mount/internal.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

static const char fs_type[] = "fuse.imagehubfs";
static const char fuse_conf[] = "/etc/fuse.conf";
/* libfuse looks there as well, before $PATH. */
static const char fusermount[] = "/usr/bin/fusermount3";

/* ---- what is mounted there ---- */

/* The type of what is mounted on exactly this path, owned; NULL if nothing is. mountinfo writes
 * white space and backslashes as \ooo. */
static char *mounted_type(const char *path)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *type = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0) {
		char at[4096], rest[256];
		const char *dash = strstr(line, " - ");

		if (!dash || sscanf(line, "%*d %*d %*s %*s %4095s", at) != 1 ||
			sscanf(dash, " - %255s", rest) != 1)
			continue;
		char *out = at;
		for (const char *p = at; *p; p++, out++) {
			if (p[0] == '\\' && p[1] && p[2] && p[3]) {
				*out = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
				p += 3;
			} else {
				*out = *p;
			}
		}
		*out = '\0';
		if (strcmp(at, path) == 0) {
			free(type);
			type = xstrdup(rest);
		}
	}
	free(line);
	if (f)
		fclose(f);
	return type;
}

/* What a killed process of ours left. Not by stat(2): the kernel still has the attributes of the
 * root. Who asks while it is dying is told that the connection was aborted. */
static bool is_stale(const char *path, const char *type)
{
	struct statvfs st;

	return strcmp(type, fs_type) == 0 && statvfs(path, &st) < 0 &&
	       (errno == ENOTCONN || errno == ECONNABORTED);
}

static void unmount_lazily(const char *path)
{
	if (umount2(path, MNT_DETACH) == 0)
		return;
	const pid_t child = fork();
	if (child == 0) {
		execl(fusermount, "fusermount3", "-uzq", "--", path, (char *)NULL);
		execlp("fusermount3", "fusermount3", "-uzq", "--", path, (char *)NULL);
		_exit(127);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}

static int check_mounts(const char *path, char **error)
{
	CLEANUP_FREE char *type = mounted_type(path);

	if (type && is_stale(path, type)) {
		log_info("%s: an earlier mount was killed there; taking it away", path);
		unmount_lazily(path);
		free(type);
		type = mounted_type(path);
		if (type && is_stale(path, type)) {
			fail(error, -EBUSY,
				"%s: that mount cannot be taken away; do it by hand: "
				"sudo umount -l '%s'",
				path, path);
			return STATUS_MOUNTPOINT_BUSY;
		}
	}
	if (!type)
		return STATUS_OK;
	if (strncmp(type, "fuse", 4) == 0)
		fail(error, -EBUSY,
			"%s is mounted on already (%s); choose another folder, or unmount "
			"it: fusermount3 -u '%s'",
			path, type, path);
	else
		fail(error, -EBUSY, "%s is mounted on already (%s); choose another folder", path,
			type);
	return STATUS_MOUNTPOINT_BUSY;
}

/* ---- the folder ---- */

/* Without touching the file system under it: an absolute path whose last part is taken as it is,
 * unless it is a symbolic link. */
static char *absolute(const char *path)
{
	CLEANUP_FREE char *copy = xstrdup(path);
	size_t len = strlen(copy);
	struct stat st;

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	if (lstat(copy, &st) == 0 && S_ISLNK(st.st_mode))
		return realpath(copy, NULL);
	char *slash = strrchr(copy, '/');
	const char *name = slash ? slash + 1 : copy;
	CLEANUP_FREE char *parent = slash == copy ? xstrdup("/")
				    : slash       ? xstrndup(copy, (size_t)(slash - copy))
						  : xstrdup(".");
	const bool named = *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
	char *real = named ? realpath(parent, NULL) : NULL;

	if (!real)
		return realpath(path, NULL);
	char *full = xasprintf("%s/%s", strcmp(real, "/") ? real : "", name);
	free(real);
	return full;
}

static bool is_empty_dir(const char *path)
{
	DIR *d = opendir(path);
	const struct dirent *entry;
	bool empty = true;

	while (d && empty && (entry = readdir(d)) != NULL)
		empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	if (d)
		closedir(d);
	return empty;
}

/* As fusermount3 sees it, which mounts for all but root. */
static bool is_ours_to_mount_on(const char *path, const struct stat *st)
{
	return geteuid() == 0 || (access(path, W_OK | X_OK) == 0 &&
					 (!(st->st_mode & S_ISVTX) || st->st_uid == geteuid()));
}

static int no_folder(const char *path, int err, char **error)
{
	if (err == ENOENT)
		fail(error, -err, "%s: %s; make the folder first: mkdir -p '%s'", path,
			strerror(err), path);
	else
		fail(error, -err, "%s: %s; choose a folder of your own", path, strerror(err));
	return STATUS_NO_MOUNTPOINT;
}

static int check_folder(const char *path, char **error)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return no_folder(path, errno, error);
	if (!S_ISDIR(st.st_mode)) {
		fail(error, -ENOTDIR, "%s is not a folder", path);
		return STATUS_NO_MOUNTPOINT;
	}
	if (!is_ours_to_mount_on(path, &st)) {
		fail(error, -EACCES,
			"%s is not yours to write in, so you cannot mount on it; choose a "
			"folder of your own",
			path);
		return STATUS_NO_MOUNTPOINT;
	}
	if (!is_empty_dir(path)) {
		fail(error, -ENOTEMPTY, "%s is not empty; choose an empty folder", path);
		return STATUS_MOUNTPOINT_BUSY;
	}
	return STATUS_OK;
}

static int check_device(char **error)
{
	if (access("/dev/fuse", F_OK) < 0)
		fail(error, -ENODEV,
			"there is no /dev/fuse; load the kernel's module: sudo modprobe fuse");
	else if (access("/dev/fuse", R_OK | W_OK) < 0)
		fail(error, -EACCES,
			"you may not open /dev/fuse (%s); root can change that: sudo chmod "
			"666 /dev/fuse",
			strerror(errno));
	else
		return STATUS_OK;
	return STATUS_NO_FUSE;
}

int mountpoint_find(const char *given, char **path, char **error)
{
	*path = absolute(given);
	if (!*path)
		return no_folder(given, errno, error);
	int status = check_mounts(*path, error);
	if (status == STATUS_OK)
		status = check_folder(*path, error);
	return status == STATUS_OK ? check_device(error) : status;
}

/* ---- what could not be mounted ---- */

static bool wants_others(const char *options)
{
	return options && (strstr(options, "allow_other") || strstr(options, "allow_root"));
}

/* Whether users may let others in. */
static bool users_may_allow_others(void)
{
	FILE *f = fopen(fuse_conf, "re");
	char line[256], word[64], rest[2];
	bool may = false;

	while (f && !may && fgets(line, sizeof line, f)) {
		line[strcspn(line, "#")] = '\0';
		may = sscanf(line, " %63s %1s", word, rest) == 1 &&
		      strcmp(word, "user_allow_other") == 0;
	}
	if (f)
		fclose(f);
	return may;
}

static int user_refused(const char *path, const char *options, char **error)
{
	if (access(fusermount, X_OK) < 0 && access("/bin/fusermount3", X_OK) < 0) {
		fail(error, -ENOENT, "fusermount3 is missing; install the package fuse3");
	} else if (wants_others(options) && !users_may_allow_others()) {
		fail(error, -EPERM,
			"-o %s takes the line user_allow_other in %s, which root can add: "
			"echo user_allow_other | sudo tee -a %s",
			options, fuse_conf, fuse_conf);
		return STATUS_USAGE;
	} else {
		fail(error, -EPERM, "fusermount3 does not mount on %s; what it says above is why",
			path);
	}
	return STATUS_NO_FUSE;
}

int mountpoint_refused(
	const char *path, const char *options, int err, const char *words, char **error)
{
	if (geteuid() != 0)
		return user_refused(path, options, error);
	fail(error, -err, "%s cannot be mounted on: %s", path, *words ? words : strerror(err));
	return err == EBUSY ? STATUS_MOUNTPOINT_BUSY : STATUS_NO_FUSE;
}

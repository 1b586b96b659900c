/*
 * The command line of imagehubfs, a word a line; and the same bytes as a key file and as
 * $IMAGEHUB_API_KEY.
 */
#include "base/exit_status.h"
#include "fuzz.h"
#include "local/options.h"
#include "local/profile.h"
#include <getopt.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { WORDS_MAX = 24 };

static void options_hold(const struct options *o)
{
	HOLDS(o->mountpoint || o->verify_cache);
	HOLDS(o->cache_max >= 0);
	HOLDS(o->max_spend >= -1 && o->max_spend <= 1000000000);
	HOLDS(o->settle_ms >= 0 && o->settle_ms <= 3600 * 1000);
	HOLDS(o->read_ahead >= 0 && o->read_ahead <= OPTIONS_READ_AHEAD_MAX);
	HOLDS(!o->profile || names_is_hub_id(o->profile));
	HOLDS(!(o->local && o->hub));
}

static void as_options(const uint8_t *data, size_t size)
{
	char *argv[WORDS_MAX + 2] = {xstrdup("imagehubfs")}, *permuted[WORDS_MAX + 2];
	int argc = 1;
	struct options o;
	char *said = NULL;
	size_t said_len = 0;
	FILE *const out = stdout, *const err = stderr;

	while (argc <= WORDS_MAX && (argv[argc] = fuzz_line(&data, &size)) != NULL)
		argc++;
	argv[argc] = NULL;
	memcpy(permuted, argv, sizeof argv);
	stdout = stderr = open_memstream(&said, &said_len);
	optind = 0; /* from the beginning, in glibc */
	const int status = options_parse(argc, permuted, &o);
	fclose(stderr);
	stdout = out;
	stderr = err;

	HOLDS(status == -1 || status == STATUS_OK || status == STATUS_USAGE);
	HOLDS((said_len == 0) == (status == -1));
	if (status == -1) {
		options_hold(&o);
		fuzz_accepted++;
	}
	free(said);
	free(o.fuse_options);
	for (int i = 0; i < argc; i++)
		free(argv[i]);
}

/* A key goes into the head of a request: no space, no line end, nothing that is not ASCII. */
static void key_holds(const struct options *o)
{
	char *key = NULL, *error = NULL;
	const int status = profile_key(o, &key, &error);

	HOLDS(status == STATUS_OK || status == STATUS_NO_KEY);
	HOLDS(status == STATUS_OK ? key && *key && !error : !key && error && *error);
	for (const char *p = key; p && *p; p++)
		HOLDS(*p > ' ' && *p < 0x7f);
	free(key);
	free(error);
}

static void as_key(const uint8_t *data, size_t size)
{
	CLEANUP_CLOSE int fd = memfd_create("key", MFD_CLOEXEC);
	CLEANUP_FREE char *path = xasprintf("/proc/self/fd/%d", fd);
	CLEANUP_FREE char *text = xstrndup((const char *)data, size);

	HOLDS(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, data, size) == (ssize_t)size);
	key_holds(&(struct options){.key_file = path});
	setenv("XDG_CONFIG_HOME", "/proc/self/fd/nowhere", 1);
	setenv("IMAGEHUB_API_KEY", text, 1);
	key_holds(&(struct options){0});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_options(data, size);
	as_key(data, size);
	return 0;
}

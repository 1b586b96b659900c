/*
 * imagehubfs - mounts an image hub as a directory. Wiring only: ARCHITECTURE.md has a reading order.
 */
#include "base/exit_status.h"
#include "base/files.h"
#include "base/log.h"
#include "catalogue/catalogue.h"
#include "engine/engine.h"
#include "local/background.h"
#include "local/embedded.h"
#include "local/options.h"
#include "local/profile.h"
#include "mount/mount.h"
#include "net/net.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

enum { STOP_GRACE_MS = 3000 };

struct program {
	struct options options;
	struct profile profile;
	struct background background;
	struct embedded embedded;
	struct catalogue *cat;
	struct mount *mount;
	struct engine *engine;
	char *hub;	/* origin */
	char *key;
};

/* What a profile belongs to: a hub's origin, or "local" (whose port is another each time). */
static const char *hub_of(const struct program *p)
{
	return p->options.local ? "local" : p->hub;
}

static int check_hub(struct program *p, char **error)
{
	CLEANUP_FREE char *known = catalogue_setting(p->cat, "hub");

	if (!known || strcmp(known, hub_of(p)) == 0)
		return STATUS_OK;
	fail(error, -EINVAL,
		"the profile \"%s\" belongs to %s, not to %s; use --profile NAME for another hub",
		p->profile.name, known, hub_of(p));
	return STATUS_OTHER_HUB;
}

static int open_state(struct program *p, char **error)
{
	bool busy = false;
	const int status = profile_find(&p->options, &p->profile, error);

	if (status)
		return status;
	p->cat = catalogue_open(p->profile.state, &busy, error);
	if (!p->cat)
		return busy ? STATUS_STATE_LOCKED : STATUS_STATE_UNUSABLE;
	return STATUS_OK;
}

static int find_hub(struct program *p, char **error)
{
	const char *url = p->options.hub ? p->options.hub : OPTIONS_HOSTED_HUB;
	int status;

	if (!p->options.local) {
		p->hub = net_origin(url, error);
		if (!p->hub)
			return STATUS_USAGE;
		status = check_hub(p, error);
		return status ? status : profile_key(&p->options, &p->key, error);
	}
	status = check_hub(p, error);
	if (status == STATUS_OK)
		status = embedded_start(p->profile.state, p->options.local_options,
			p->options.n_local_options, &p->embedded, error);
	if (status == STATUS_OK) {
		p->hub = xstrdup(p->embedded.url);
		p->key = xstrdup(p->embedded.key);
	}
	return status;
}

static int make_mount(struct program *p, char **error)
{
	const struct mount_config config = {
		.mountpoint = p->options.mountpoint,
		.program = "imagehubfs",
		.options = p->options.fuse_options,
		.hub = p->options.local ? "local" : p->hub,
		.profile = p->profile.name,
		.local = p->options.local,
		.debug = p->options.debug,
	};
	int status = STATUS_FAILED;

	p->mount = mount_create(&config, &status, error);
	return p->mount ? STATUS_OK : status;
}

static struct engine_config engine_config(const struct program *p)
{
	return (struct engine_config){
		.hub = p->hub,
		.key = p->key,
		.cache_dir = p->profile.cache,
		.mountpoint = p->mount ? mount_path(p->mount) : NULL,
		.cache_max = p->options.cache_max,
		.max_spend = p->options.max_spend,
		.settle_ms = p->options.settle_ms,
		.eager = p->options.eager,
		.read_ahead = (int)p->options.read_ahead,
	};
}

static int start_engine(struct program *p, char **error)
{
	const struct engine_events events = p->mount ? mount_events(p->mount)
						     : (struct engine_events){0};
	const struct engine_config config = engine_config(p);

	p->engine = engine_create(&config, p->cat, &events, error);
	if (!p->engine)
		return STATUS_FAILED;
	const int rc = p->mount ? engine_start(p->engine) : 0;
	return rc < 0 ? (fail(error, rc, "no thread: %s", strerror(-rc)), STATUS_FAILED)
		      : STATUS_OK;
}

static void ready(void *arg)
{
	struct program *p = arg;

	background_ready(&p->background);
	log_info("mounted on %s", p->options.mountpoint);
}

static int serve(struct program *p, char **error)
{
	int status = open_state(p, error);

	if (status == STATUS_OK)
		status = find_hub(p, error);
	if (status == STATUS_OK)
		status = make_mount(p, error);
	/* From the first mount on: a start that failed binds a profile to nothing. */
	if (status == STATUS_OK && catalogue_set(p->cat, "hub", hub_of(p)) < 0)
		status = STATUS_STATE_UNUSABLE;
	if (status == STATUS_OK)
		status = start_engine(p, error);
	if (status)
		return status;
	embedded_watch(&p->embedded);
	const int rc = mount_run(p->mount, p->cat, p->engine, ready, p);
	catalogue_ending(p->cat);
	if (rc < 0)
		fail(error, rc, "the mount ended: %s", strerror(-rc));
	return rc < 0 ? STATUS_FAILED : STATUS_OK;
}

static int verify_cache(struct program *p, char **error)
{
	int64_t good, bad;
	int status = open_state(p, error);

	p->hub = xstrdup("http://127.0.0.1");
	if (status == STATUS_OK)
		status = start_engine(p, error);
	if (status)
		return status;
	const int rc = engine_verify_cache(p->engine, &good, &bad);
	printf("%lld pictures are whole, %lld were damaged and removed (they are fetched again when "
	       "they are read)\n",
		(long long)good, (long long)bad);
	return rc < 0 || bad > 0 ? STATUS_FAILED : STATUS_OK;
}

static void finish(struct program *p)
{
	if (p->engine)
		engine_stop(p->engine, STOP_GRACE_MS);
	mount_destroy(p->mount);
	engine_destroy(p->engine);
	embedded_stop(&p->embedded);
	catalogue_close(p->cat);
	profile_release(&p->profile);
	free(p->hub);
	free(p->key);
	free(p->options.fuse_options);
}

static void say_error(char *error)
{
	for (char *line; error && (line = strsep(&error, "\n")) != NULL;)
		log_error("%s", line);
}

static void raise_descriptors(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max < 65536 ? l.rlim_max : 65536;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

int main(int argc, char **argv)
{
	CLEANUP_FREE char *error = NULL;
	struct program p = {.background.pipe = -1, .embedded = {.input = -1, .log = -1, .stop = -1}};
	int status;

	files_hold_standard();
	status = options_parse(argc, argv, &p.options);
	if (status >= 0)
		return status;
	log_init("imagehubfs", p.options.debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	/* A limit of the shell's on file sizes is EFBIG to a writer, not the end of the mount. */
	signal(SIGXFSZ, SIG_IGN);
	raise_descriptors();
	if (!p.options.foreground && !p.options.verify_cache) {
		status = background_begin(&p.background);
		if (status >= 0)
			return status;
	}
	status = p.options.verify_cache ? verify_cache(&p, &error) : serve(&p, &error);
	say_error(error);
	finish(&p);
	return status;
}

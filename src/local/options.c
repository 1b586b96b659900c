#include "local/options.h"
#include "base/exit_status.h"
#include "base/names.h"
#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>

static const char usage[] =
	"usage: imagehubfs [OPTION…] MOUNTPOINT\n"
	"\n"
	"Mounts an image hub as a folder: write a .prompt file under requests/, get pictures.\n"
	"\n"
	"  --local            try it without a key: a hub inside of this program, which draws\n"
	"                     sketches (no model) and has 1,000 credits to play with\n"
	"  --hub URL          the hub (" OPTIONS_HOSTED_HUB ")\n"
	"  --key-file FILE    the API key; else $CREDENTIALS_DIRECTORY/imagehub-key,\n"
	"                     $IMAGEHUB_API_KEY or ~/.config/imagehubfs/key\n"
	"  --max-spend N      spend at most N credits a day; more is held until approved\n"
	"  --fetch WHEN       lazy: download pictures when they are first read; eager: at once\n"
	"  --read-ahead N     when one picture of several is read, fetch the next ones: at most N\n"
	"                     (8; 0 turns it off)\n"
	"  --settle MS        from the last close to the sending of a prompt (500)\n"
	"  --profile NAME     a state of its own (default; local with --local)\n"
	"  --state DIR        where prompts and history are kept\n"
	"  --cache DIR        where downloaded pictures are kept\n"
	"  --cache-max SIZE   at most so much of them: 500M, 20G\n"
	"  --verify-cache     check the cached pictures, remove those that are damaged, and end\n"
	"  -f                 stay in the foreground       -d  and trace every operation\n"
	"  -o OPTION[,…]      mount options, as allow_other\n"
	"  --local-option X   passes X on to the hub of --local (may be repeated)\n"
	"  --help, --version\n"
	"\n"
	"Unmount with: fusermount3 -u MOUNTPOINT\n";

enum { LOCAL = 256, HUB, KEY_FILE, MAX_SPEND, FETCH, READ_AHEAD, SETTLE, PROFILE, STATE, CACHE,
	CACHE_MAX, VERIFY_CACHE, LOCAL_OPTION, HELP, SHOW_VERSION };

static const struct option long_options[] = {
	{"local", no_argument, NULL, LOCAL},
	{"hub", required_argument, NULL, HUB},
	{"key-file", required_argument, NULL, KEY_FILE},
	{"max-spend", required_argument, NULL, MAX_SPEND},
	{"fetch", required_argument, NULL, FETCH},
	{"read-ahead", required_argument, NULL, READ_AHEAD},
	{"settle", required_argument, NULL, SETTLE},
	{"profile", required_argument, NULL, PROFILE},
	{"state", required_argument, NULL, STATE},
	{"cache", required_argument, NULL, CACHE},
	{"cache-max", required_argument, NULL, CACHE_MAX},
	{"verify-cache", no_argument, NULL, VERIFY_CACHE},
	{"local-option", required_argument, NULL, LOCAL_OPTION},
	{"help", no_argument, NULL, HELP},
	{"version", no_argument, NULL, SHOW_VERSION},
	{0},
};

PRINTF_LIKE(1, 2) static int bad(const char *format, ...)
{
	va_list args;

	fputs("imagehubfs: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs(" (imagehubfs --help shows what is possible)\n", stderr);
	return STATUS_USAGE;
}

static bool number(const char *text, int64_t most, int64_t *value)
{
	char *end;

	*value = strtoll(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && *value <= most;
}

/* "500M" in bytes. */
static bool size(const char *text, int64_t *value)
{
	static const char units[] = "KMGT";
	char *end;
	const int64_t n = strtoll(text, &end, 10);
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	int64_t factor = 1;

	if (*text < '0' || *text > '9' || n < 0 || n > 1000000000 || (*end && !unit) ||
		(unit && end[1] && strcmp(end + 1, "B") != 0 && strcmp(end + 1, "iB") != 0))
		return false;
	for (int i = 0; unit && i <= unit - units; i++)
		factor *= 1024;
	if (n > INT64_MAX / factor)
		return false;
	*value = n * factor;
	return true;
}

static int take_profile(struct options *o)
{
	if (!names_is_hub_id(optarg))
		return bad("--profile %s: letters, digits, - and _ are possible", optarg);
	o->profile = optarg;
	return -1;
}

static int take_fetch(struct options *o)
{
	o->eager = strcmp(optarg, "eager") == 0;
	return o->eager || strcmp(optarg, "lazy") == 0 ? -1
						       : bad("--fetch %s: lazy or eager", optarg);
}

static int take_fuse_option(struct options *o)
{
	char *before = o->fuse_options;

	o->fuse_options = before ? xasprintf("%s,%s", before, optarg) : xstrdup(optarg);
	free(before);
	return -1;
}

static int take_local_option(struct options *o)
{
	if (o->n_local_options == LOCAL_OPTIONS_MAX)
		return bad("--local-option is given too often");
	o->local_options[o->n_local_options++] = optarg;
	return -1;
}

/* With the nearest right name. */
static int unknown(const char *word)
{
	const char *names[ARRAY_SIZE(long_options)] = {NULL};

	for (size_t i = 0; long_options[i].name; i++)
		names[i] = long_options[i].name;
	const char *near = names_nearest(word + strspn(word, "-"), names);
	return near ? bad("there is no option %s; did you mean --%s?", word, near)
		    : bad("there is no option %s", word);
}

static int take(struct options *o, int option, char **argv)
{
	switch (option) {
	case LOCAL:
		o->local = true;
		return -1;
	case HUB:
		o->hub = optarg;
		return -1;
	case KEY_FILE:
		o->key_file = optarg;
		return -1;
	case MAX_SPEND:
		return number(optarg, 1000000000, &o->max_spend)
			? -1
			: bad("--max-spend %s: a number of credits", optarg);
	case FETCH:
		return take_fetch(o);
	case READ_AHEAD:
		return number(optarg, OPTIONS_READ_AHEAD_MAX, &o->read_ahead)
			? -1
			: bad("--read-ahead %s: a number of pictures, 0 to %d", optarg,
				  OPTIONS_READ_AHEAD_MAX);
	case SETTLE:
		return number(optarg, 3600 * 1000, &o->settle_ms)
			? -1
			: bad("--settle %s: milliseconds", optarg);
	case PROFILE:
		return take_profile(o);
	case STATE:
		o->state = optarg;
		return -1;
	case CACHE:
		o->cache = optarg;
		return -1;
	case CACHE_MAX:
		return size(optarg, &o->cache_max) ? -1
						   : bad("--cache-max %s: as in 500M or 20G", optarg);
	case VERIFY_CACHE:
		o->verify_cache = true;
		return -1;
	case LOCAL_OPTION:
		return take_local_option(o);
	case 'f':
		o->foreground = true;
		return -1;
	case 'd':
		o->debug = o->foreground = true;
		return -1;
	case 'o':
		return take_fuse_option(o);
	case HELP:
		fputs(usage, stdout);
		return STATUS_OK;
	case SHOW_VERSION:
		puts("imagehubfs " VERSION);
		return STATUS_OK;
	case ':':
		return bad("%s needs a value", argv[optind - 1]);
	default:
		return unknown(argv[optind - 1]);
	}
}

int options_parse(int argc, char **argv, struct options *o)
{
	int option;

	*o = (struct options){
		.max_spend = -1, .settle_ms = 500, .read_ahead = OPTIONS_READ_AHEAD};
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":fdo:", long_options, NULL)) != -1) {
		const int status = take(o, option, argv);

		if (status >= 0)
			return status;
	}
	if (o->local && o->hub)
		return bad("--local and --hub exclude each other");
	if (o->verify_cache)
		return optind == argc ? -1 : bad("--verify-cache takes no mount point");
	if (optind == argc)
		return bad("where should it be mounted? For instance: imagehubfs --local ~/hub");
	if (optind + 1 < argc)
		return bad("one mount point, please: %s is too much", argv[optind + 1]);
	o->mountpoint = argv[optind];
	return -1;
}

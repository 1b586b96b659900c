#include "base/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

static struct {
	const char *program;
	enum log_level most;
	bool syslog;
} logging = {"imagehub", LOG_LEVEL_INFO, false};

static const struct {
	const char *word;
	int priority;
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error: ", LOG_ERR},
	[LOG_LEVEL_WARNING] = {"warning: ", LOG_WARNING},
	[LOG_LEVEL_INFO] = {"", LOG_INFO},
	[LOG_LEVEL_DEBUG] = {"debug: ", LOG_DEBUG},
};

void log_init(const char *program, enum log_level most)
{
	logging.program = program;
	logging.most = most;
}

void log_to_syslog(void)
{
	openlog(logging.program, LOG_PID, LOG_DAEMON);
	logging.syslog = true;
}

/* What a hub sent must neither begin a line of its own nor steer a terminal. */
static void make_printable(char *line)
{
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7F)
			*p = ' ';
}

void log_printf(enum log_level level, const char *format, ...)
{
	const int saved = errno;
	char line[2048];
	va_list args;

	if (level > logging.most)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	make_printable(line);
	if (logging.syslog)
		syslog(levels[level].priority, "%s", line);
	else
		fprintf(stderr, "%s: %s%s\n", logging.program, levels[level].word, line);
	errno = saved;
}

char *log_url(const char *url)
{
	const char *end = url + strcspn(url, "?#");
	const char *scheme = strstr(url, "://");
	const char *host = scheme && scheme < end ? scheme + 3 : url;
	const char *slash = memchr(host, '/', (size_t)(end - host));
	const char *host_end = slash ? slash : end;
	const char *at = memrchr(host, '@', (size_t)(host_end - host));

	if (at)
		return xasprintf("%.*s%.*s", (int)(host - url), url, (int)(end - at - 1), at + 1);
	return xstrndup(url, (size_t)(end - url));
}

/*
 * Writing to /control. A line may come in two writes, as libraries write whole buffers: one of at
 * least BUFFER bytes that ends within a line is continued by the next write, or ended by FLUSH; a
 * shorter one is whole (printf pause > control). Half a path could be a folder's, and cost money.
 *
 * Bytes that were refused and come once more through the same open file are refused unread: Python,
 * for one, writes its buffer a second time when it closes a file, and would have carried out what
 * it has just reported as not done.
 */
#include "base/util.h"
#include "mount/internal.h"
#include <errno.h>

enum { BUFFER = 4096, LINE_MAX_BYTES = 16 * 1024 };

struct control {
	pthread_mutex_t lock; /* of what follows; writes come one by one, a FLUSH beside them */
	char *rest;	      /* a line whose end is still to come, or NULL */
	char *refused;	      /* the last write, when it was refused, or NULL */
	size_t refused_len;
	int refused_rc;
};

struct control *control_open(void)
{
	struct control *c = xcalloc(1, sizeof *c);

	pthread_mutex_init(&c->lock, NULL);
	return c;
}

void control_close(struct control *c)
{
	if (!c)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c->rest);
	free(c->refused);
	free(c);
}

static char *take_rest(struct control *c)
{
	pthread_mutex_lock(&c->lock);
	char *rest = c->rest;
	c->rest = NULL;
	pthread_mutex_unlock(&c->lock);
	return rest;
}

static int was_refused(struct control *c, const char *bytes, size_t len)
{
	pthread_mutex_lock(&c->lock);
	const bool same = c->refused && c->refused_len == len && memcmp(c->refused, bytes, len) == 0;
	const int rc = same ? c->refused_rc : 0;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

/* Carries out the lines of text, the last one if it is whole. *rest: what is left, within text. */
static int carry_out(struct mount *m, char *text, bool whole, char **rest)
{
	char *line = text, *end;
	int rc = 0;

	while (rc == 0 && (end = strchr(line, '\n')) != NULL) {
		*end = '\0';
		rc = engine_control(m->engine, line);
		line = end + 1;
	}
	if (rc == 0 && (whole || strlen(line) > LINE_MAX_BYTES)) {
		rc = engine_control(m->engine, line);
		line += strlen(line);
	}
	*rest = line;
	return rc;
}

int control_write(struct mount *m, struct control *c, const char *bytes, size_t len)
{
	int rc = was_refused(c, bytes, len);

	if (rc < 0)
		return rc;
	CLEANUP_FREE char *before = take_rest(c);
	const size_t had = before ? strlen(before) : 0;
	CLEANUP_FREE char *text = xmalloc(had + len + 1);
	char *rest;

	memcpy(text, before ? before : "", had);
	memcpy(text + had, bytes, len);
	text[had + len] = '\0';
	for (char *nul; (nul = memchr(text, '\0', had + len)) != NULL;)
		*nul = '\1'; /* no path has it, and none is cut short */
	rc = carry_out(m, text, len < BUFFER, &rest);

	pthread_mutex_lock(&c->lock);
	free(c->refused);
	c->refused = rc < 0 ? xmalloc(len) : NULL;
	if (rc < 0)
		memcpy(c->refused, bytes, len);
	c->refused_len = len;
	c->refused_rc = rc;
	free(c->rest);
	c->rest = rc == 0 && *rest ? xstrdup(rest) : NULL;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

int control_flush(struct mount *m, struct control *c)
{
	CLEANUP_FREE char *text = take_rest(c);
	char *rest;

	return text ? carry_out(m, text, true, &rest) : 0;
}

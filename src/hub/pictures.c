/*
 * GET /images/ID.EXT: a picture's file, whole or one range of it.
 */
#include "base/names.h"
#include "base/picture.h"
#include "hub/request.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

static bool in_list(const char *list, const char *etag)
{
	return strcmp(list, "*") == 0 || strstr(list, etag) != NULL;
}

/* Digits alone; more of them than a number holds give the greatest. */
static bool number(const char **text, int64_t *value)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	*value = strtoll(*text, &end, 10);
	*text = end;
	return true;
}

int range_parse(const char *text, int64_t size, int64_t *first, int64_t *last)
{
	int64_t tail;

	if (strncmp(text, "bytes=", 6) != 0)
		return 0;
	text += 6;
	if (*text == '-') {
		text++;
		if (!number(&text, &tail) || *text)
			return 0;
		*first = tail > size ? 0 : size - tail;
		*last = size - 1;
		return tail > 0 && size > 0 ? 1 : -1;
	}
	*last = INT64_MAX;
	if (!number(&text, first) || *text++ != '-' || (*text && !number(&text, last)) || *text ||
		*last < *first)
		return 0;
	if (*last >= size)
		*last = size - 1;
	return *first < size ? 1 : -1;
}

static enum MHD_Result send_range(struct request *r, int fd, int64_t size, const char *etag,
	const char *mime)
{
	const char *range = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Range");
	const char *if_range =
		MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "If-Range");
	int64_t first = 0, last = size - 1;
	int wanted = range ? range_parse(range, size, &first, &last) : 0;
	struct MHD_Response *response;
	char text[128];

	if (if_range && strcmp(if_range, etag) != 0)
		wanted = 0;
	if (wanted == 0) {
		first = 0;
		last = size - 1;
	}
	if (wanted < 0) {
		close(fd);
		response = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
		snprintf(text, sizeof text, "bytes */%" PRId64, size);
		MHD_add_response_header(response, "Content-Range", text);
		return answer(r, 416, response, 0);
	}
	response = MHD_create_response_from_fd_at_offset64(
		(uint64_t)(last - first + 1), fd, (uint64_t)first);
	if (!response) {
		close(fd);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type", mime);
	MHD_add_response_header(response, "ETag", etag);
	MHD_add_response_header(response, "Accept-Ranges", "bytes");
	MHD_add_response_header(response, "Cache-Control", "private, max-age=31536000, immutable");
	if (wanted == 1) {
		snprintf(text, sizeof text, "bytes %" PRId64 "-%" PRId64 "/%" PRId64, first, last,
			size);
		MHD_add_response_header(response, "Content-Range", text);
	}
	return answer(r, wanted == 1 ? 206 : 200, response, last - first + 1);
}

enum MHD_Result get_picture(struct request *r, const char *name)
{
	const char *dot = strchr(name, '.');
	CLEANUP_FREE char *id = dot ? xstrndup(name, (size_t)(dot - name)) : NULL;
	CLEANUP_FREE char *path = NULL;
	CLEANUP_FREE char *etag = NULL;
	struct stat st;

	if (!id || !names_is_hub_id(id) || picture_from_extension(dot + 1) == PICTURE_UNKNOWN ||
		image_exists(r->hub->store, id) < 0)
		return answer_error(r, OUTCOME_NOT_FOUND, "No such picture");
	path = xasprintf("%s/images/%s", store_dir(r->hub->store), name);
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0) {
		if (fd >= 0)
			close(fd);
		return answer_error(r, OUTCOME_NOT_FOUND, "No such picture");
	}
	etag = xasprintf("\"%s\"", id);
	const char *none = MHD_lookup_connection_value(
		r->connection, MHD_HEADER_KIND, "If-None-Match");
	if (none && in_list(none, etag)) {
		close(fd);
		struct MHD_Response *same = MHD_create_response_from_buffer(
			0, (void *)"", MHD_RESPMEM_PERSISTENT);
		MHD_add_response_header(same, "ETag", etag);
		return answer(r, 304, same, 0);
	}
	return send_range(r, fd, st.st_size, etag,
		picture_mime(picture_from_extension(dot + 1)));
}


#include "base/files.h"
#include "base/picture.h"
#include "hub/request.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

enum { PARSER_BYTES = 64 * 1024, PAST_LIMIT = 8 * 1024 * 1024 };

static void complain(struct upload *u, enum outcome outcome, char *text)
{
	if (u->error) {
		free(text);
		return;
	}
	u->error = text;
	u->outcome = outcome;
}

/* ---- multipart ---- */

static void end_field(struct upload *u)
{
	CLEANUP_FREE char *why = NULL;

	if (!u->field_name[0])
		return;
	if (u->field.overflow || strlen(u->field.data) != u->field.len)
		complain(u, OUTCOME_INVALID_REQUEST,
			xasprintf("%s is too long or not text", u->field_name));
	else if (order_set_field(&u->order, u->field_name, u->field.data, &why) < 0)
		complain(u, OUTCOME_INVALID_REQUEST, xstrdup(why));
	u->field_name[0] = '\0';
	buf_reset(&u->field);
}

static int make_folder(struct upload *u)
{
	return mkdir(u->folder, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static void begin_file(struct upload *u)
{
	if (u->n_files >= REFERENCES_MAX) {
		u->too_many = true;
		return;
	}
	CLEANUP_FREE char *path = xasprintf("%s/%d", u->folder, u->n_files + 1);
	int fd = make_folder(u);
	if (fd == 0)
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		complain(u, OUTCOME_SERVER_ERROR, xstrdup("the hub cannot keep the picture"));
		return;
	}
	u->files[u->n_files].fd = fd;
	u->files[u->n_files++].size = 0;
}

static void add_to_file(struct upload *u, const char *bytes, size_t len, bool begins)
{
	if (begins)
		begin_file(u);
	if (u->error || u->too_many || u->n_files == 0)
		return;
	const int k = u->n_files - 1;
	if (u->files[k].size + (int64_t)len > WIRE_REFERENCE_BYTES_MAX) {
		complain(u, OUTCOME_INVALID_REQUEST,
			xasprintf("reference_image %d is over 50 MB", k + 1));
		return;
	}
	if (files_write_all(u->files[k].fd, bytes, len) < 0)
		complain(u, OUTCOME_SERVER_ERROR, xstrdup("the hub cannot keep the picture"));
	u->files[k].size += (int64_t)len;
}

/* Where what was received ends with the head of a part, libmicrohttpd tells of the part twice:
 * without bytes, and then once more from its beginning. */
static bool begins_part(struct upload *u, const char *name, const char *filename, uint64_t off,
	size_t len)
{
	if (off > 0) {
		u->part_empty = false;
		return false;
	}
	char *part = xasprintf("%s\n%s", name, filename ? filename : "");
	const bool again = u->part_empty && strcmp(u->part, part) == 0;

	free(u->part);
	u->part = part;
	u->part_empty = len == 0;
	return !again;
}

static enum MHD_Result part_seen(void *arg, enum MHD_ValueKind kind, const char *name,
	const char *filename, const char *type, const char *encoding, const char *bytes,
	uint64_t off, size_t len)
{
	struct upload *u = arg;

	(void)kind;
	(void)type;
	(void)encoding;
	if (!name)
		return MHD_YES;
	const bool begins = begins_part(u, name, filename, off, len);
	if (filename || strcmp(name, "reference_image") == 0) {
		end_field(u);
		if (strcmp(name, "reference_image") == 0)
			add_to_file(u, bytes, len, begins);
		return MHD_YES;
	}
	if (begins) {
		end_field(u);
		snprintf(u->field_name, sizeof u->field_name, "%s", name);
	}
	buf_add(&u->field, bytes, len);
	return MHD_YES;
}

/* ---- the body ---- */

int upload_begin(struct upload *u, struct MHD_Connection *c, struct store *store, char **error)
{
	const char *type = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Type");
	const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
	char id[HUB_ID_SIZE];

	*u = (struct upload){0};
	buf_init(&u->field, FIELD_MAX);
	buf_init(&u->json, BODY_MAX);
	crypto_generichash_init(&u->hash, NULL, 0, HASH_SIZE);
	u->multipart = type && strncasecmp(type, "multipart/form-data", 19) == 0;
	if (!u->multipart && (!type || strncasecmp(type, "application/json", 16) != 0))
		return fail(error, -EINVAL,
			"Content-Type must be application/json or multipart/form-data");
	if (length && strtoll(length, NULL, 10) > (u->multipart ? MULTIPART_MAX : BODY_MAX))
		return fail(error, -EFBIG, "The request is too large");
	if (!u->multipart)
		return 0;
	hub_id_make(id, "up_", 24);
	u->folder = xasprintf("%s/tmp/%s", store_dir(store), id);
	u->parser = MHD_create_post_processor(c, PARSER_BYTES, part_seen, u);
	return u->parser ? 0 : fail(error, -EINVAL, "The multipart body has no boundary");
}

bool upload_add(struct upload *u, const char *bytes, size_t len)
{
	const int64_t most = u->multipart ? MULTIPART_MAX : BODY_MAX;

	u->received += (int64_t)len;
	if (u->received > most) {
		u->too_large = true;
		return u->received < most + PAST_LIMIT;
	}
	if (!u->multipart) {
		crypto_generichash_update(&u->hash, (const unsigned char *)bytes, len);
		buf_add(&u->json, bytes, len);
	} else if (MHD_post_process(u->parser, bytes, len) != MHD_YES) {
		complain(u, OUTCOME_INVALID_REQUEST, xstrdup("The multipart body is malformed"));
	}
	return true;
}

static enum outcome check_files(struct upload *u, char **error)
{
	unsigned char head[64];

	if (u->too_many) {
		fail(error, -1, "At most %d reference images are possible", REFERENCES_MAX);
		return OUTCOME_INVALID_REQUEST;
	}
	for (int i = 0; i < u->n_files; i++) {
		const ssize_t n = files_pread_full(u->files[i].fd, head, sizeof head, 0);

		if (n <= 0 || picture_probe(head, (size_t)n).type == PICTURE_UNKNOWN) {
			fail(error, -1, "reference_image %d is not a PNG, JPEG or WebP picture", i + 1);
			return OUTCOME_INVALID_REQUEST;
		}
	}
	return OUTCOME_OK;
}

/* A multipart's boundary differs from one sending to the next: what counts is what it says. */
static void hash_parts(struct upload *u)
{
	CLEANUP_FREE char *order = order_encode(&u->order);
	char *chunk = xmalloc(PARSER_BYTES);

	crypto_generichash_update(&u->hash, (const unsigned char *)order, strlen(order));
	for (int i = 0; i < u->n_files; i++) {
		off_t off = 0;
		ssize_t n;

		while ((n = files_pread_full(u->files[i].fd, chunk, PARSER_BYTES, off)) > 0) {
			crypto_generichash_update(&u->hash, (unsigned char *)chunk, (size_t)n);
			off += n;
		}
	}
	free(chunk);
}

enum outcome upload_end(struct upload *u, char **error)
{
	if (u->too_large) {
		fail(error, -1, "The request is too large");
		return OUTCOME_TOO_LARGE;
	}
	if (!u->multipart)
		return order_decode(u->json.data, u->json.len, &u->order, error) < 0
			? OUTCOME_INVALID_REQUEST
			: OUTCOME_OK;

	MHD_destroy_post_processor(u->parser);
	u->parser = NULL;
	end_field(u);
	if (u->error) {
		fail(error, -1, "%s", u->error);
		return u->outcome;
	}
	if (order_check(&u->order, error) < 0)
		return OUTCOME_INVALID_REQUEST;
	const enum outcome files = check_files(u, error);
	if (files == OUTCOME_OK)
		hash_parts(u);
	return files;
}

int upload_keep(struct upload *u, struct store *store, const char *id)
{
	CLEANUP_FREE char *to = xasprintf("%s/refs/%s", store_dir(store), id);

	if (u->n_files == 0)
		return 0;
	for (int i = 0; i < u->n_files; i++)
		if (fsync(u->files[i].fd) < 0)
			return -errno;
	if (rename(u->folder, to) < 0)
		return -errno;
	free(u->folder);
	u->folder = xstrdup(to);
	CLEANUP_CLOSE int dir = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -errno : files_sync_dir(dir);
}

void upload_hand_over(struct upload *u)
{
	free(u->folder);
	u->folder = NULL;
}

void upload_release(struct upload *u)
{
	if (u->parser)
		MHD_destroy_post_processor(u->parser);
	for (int i = 0; i < u->n_files; i++) {
		close(u->files[i].fd);
		if (u->folder) {
			CLEANUP_FREE char *path = xasprintf("%s/%d", u->folder, i + 1);
			unlink(path);
		}
	}
	if (u->folder)
		rmdir(u->folder);
	free(u->folder);
	free(u->part);
	free(u->error);
	buf_release(&u->json);
	buf_release(&u->field);
	order_release(&u->order);
	*u = (struct upload){0};
}

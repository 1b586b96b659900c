#include "catalogue/generation.h"
#include "catalogue/internal.h"
#include <errno.h>

void image_release(struct image *i)
{
	free(i->hub_id);
	free(i->url);
	*i = (struct image){0};
}

void images_free(struct image *images, size_t count)
{
	for (size_t i = 0; i < count; i++)
		image_release(&images[i]);
	free(images);
}

#define COLUMNS                                                                                    \
	"id, generation, number, hub_id, url, url_ms, size, type, width, height, sha256, listed,"  \
	" removed"

static void read_row(struct db_rows *r, struct image *out)
{
	size_t len;
	const void *sha256 = db_blob(r, 10, &len);
	const char *type = db_text(r, 7);

	*out = (struct image){
		.id = db_int(r, 0),
		.generation = db_int(r, 1),
		.number = (int)db_int(r, 2),
		.hub_id = db_text_dup(r, 3),
		.url = db_text_dup(r, 4),
		.url_ms = db_int(r, 5),
		.size = db_int(r, 6),
		.type = type ? picture_from_extension(type) : PICTURE_UNKNOWN,
		.width = (uint32_t)db_int(r, 8),
		.height = (uint32_t)db_int(r, 9),
		.listed_ms = db_int(r, 11),
		.removed = db_int(r, 12) != 0,
	};
	out->have_sha256 = sha256 && len == sizeof out->sha256;
	if (out->have_sha256)
		memcpy(out->sha256, sha256, len);
}

static int read_one(struct catalogue *cat, struct db_rows *r, struct image *out)
{
	const bool found = db_next(r);

	*out = (struct image){0};
	if (found)
		read_row(r, out);
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : found ? 0 : -ENOENT;
}

int image_get(struct catalogue *cat, int64_t id, struct image *out)
{
	db_lock(cat->db);
	return read_one(
		cat, db_query(cat->db, "SELECT " COLUMNS " FROM image WHERE id = ?", "i", id), out);
}

int image_find(struct catalogue *cat, int64_t generation, int number, struct image *out)
{
	db_lock(cat->db);
	return read_one(cat,
		db_query(cat->db, "SELECT " COLUMNS " FROM image WHERE generation = ? AND number = ?",
			"ii", generation, (int64_t)number),
		out);
}

int image_list(struct catalogue *cat, int64_t generation, struct image **images, size_t *count)
{
	*images = NULL;
	*count = 0;
	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT " COLUMNS " FROM image WHERE generation = ? ORDER BY number", "i",
		generation);
	while (db_next(r)) {
		*images = xrealloc(*images, (*count + 1) * sizeof **images);
		read_row(r, &(*images)[(*count)++]);
	}
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc;
}

int image_put(struct catalogue *cat, struct image *i)
{
	db_lock(cat->db);
	int rc = db_run(cat->db,
		"INSERT INTO image(generation, number, hub_id, url, url_ms, size, type, width,"
		" height, sha256, listed) VALUES(?,?,?,?,?,?,?,?,?,?,?)"
		" ON CONFLICT(generation, number) DO UPDATE SET hub_id = excluded.hub_id,"
		" url = excluded.url, url_ms = excluded.url_ms, size = excluded.size,"
		" type = excluded.type, width = excluded.width, height = excluded.height,"
		" sha256 = excluded.sha256, listed = excluded.listed",
		"iissiisiibi", i->generation, (int64_t)i->number, i->hub_id, i->url, i->url_ms,
		i->size, picture_extension(i->type), (int64_t)i->width, (int64_t)i->height,
		i->have_sha256 ? (const void *)i->sha256 : NULL, sizeof i->sha256, i->listed_ms);
	if (rc >= 0 && i->id == 0)
		rc = db_get_int(cat->db, &i->id,
			"SELECT id FROM image WHERE generation = ? AND number = ?", "ii",
			i->generation, (int64_t)i->number);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int image_forget(struct catalogue *cat, int64_t id)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE image SET removed = 1 WHERE id = ?", "i", id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int image_unlisted(struct catalogue *cat, int64_t after, int64_t *ids, int max)
{
	int n = 0;

	db_lock(cat->db);
	struct db_rows *r = db_query(cat->db,
		"SELECT id FROM image WHERE size < 0 AND removed = 0 AND id > ? ORDER BY id LIMIT ?",
		"ii", after, (int64_t)max);
	while (n < max && db_next(r))
		ids[n++] = db_int(r, 0);
	const int rc = db_done(r);
	db_unlock(cat->db);
	return rc < 0 ? rc : n;
}

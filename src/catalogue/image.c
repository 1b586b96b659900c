#include "catalogue/generation.h"
#include "catalogue/internal.h"
#include <errno.h>

/* So many names or generations without pictures do not end a sequence of pictures. */
enum { LOOK_PAST = 16 };

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
		" height, listed) VALUES(?,?,?,?,?,?,?,?,?,?)"
		" ON CONFLICT(generation, number) DO UPDATE SET hub_id = excluded.hub_id,"
		" url = excluded.url, url_ms = excluded.url_ms, size = excluded.size,"
		" type = excluded.type, width = excluded.width, height = excluded.height,"
		" listed = excluded.listed",
		"iissiisiii", i->generation, (int64_t)i->number, i->hub_id, i->url, i->url_ms,
		i->size, picture_extension(i->type), (int64_t)i->width, (int64_t)i->height,
		i->listed_ms);
	if (rc >= 0 && i->id == 0)
		rc = db_get_int(cat->db, &i->id,
			"SELECT id FROM image WHERE generation = ? AND number = ?", "ii",
			i->generation, (int64_t)i->number);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

int image_set_sha256(struct catalogue *cat, int64_t id, const unsigned char sha256[32])
{
	db_lock(cat->db);
	const int rc = db_run(cat->db,
		"UPDATE image SET sha256 = ? WHERE id = ? AND removed = 0", "bi",
		(const void *)sha256, (size_t)32, id);
	db_unlock(cat->db);
	return rc < 0 ? rc : rc == 0 ? -ENOENT : 0;
}

int image_forget(struct catalogue *cat, int64_t id)
{
	db_lock(cat->db);
	const int rc = db_run(cat->db, "UPDATE image SET removed = 1 WHERE id = ?", "i", id);
	db_unlock(cat->db);
	return rc < 0 ? rc : 0;
}

/* Fills ids from n on with a query's first column; the new n. */
static int collect(struct db_rows *r, int64_t *ids, int n, int max)
{
	while (n < max && db_next(r))
		ids[n++] = db_int(r, 0);
	const int rc = db_done(r);
	return rc < 0 ? rc : n;
}

int image_unlisted(struct catalogue *cat, int64_t after, int64_t *ids, int max)
{
	db_lock(cat->db);
	const int n = collect(db_query(cat->db,
				      "SELECT id FROM image WHERE size < 0 AND removed = 0"
				      " AND id > ? ORDER BY id LIMIT ?",
				      "ii", after, (int64_t)max),
		ids, 0, max);
	db_unlock(cat->db);
	return n;
}

/* ---- what follows ---- */

/* Pictures of the generations behind that of `id`. The inner queries bound what is looked past. */
static struct db_rows *following_generations(struct catalogue *cat, int64_t id,
	enum image_order order, int max)
{
	const int64_t past = max + LOOK_PAST;

	switch (order) {
	case IMAGE_BY_NAME:
		return db_query(cat->db,
			"SELECT i.id FROM (SELECT n.name, n.request FROM node n, node m"
			"  WHERE m.id = (SELECT p.node FROM request p WHERE p.generation <> 0"
			"    AND p.generation = (SELECT generation FROM image WHERE id = ?))"
			"  AND n.parent = m.parent AND n.name > m.name ORDER BY n.name LIMIT ?) f"
			" CROSS JOIN request r ON r.id = f.request"
			" CROSS JOIN image i ON i.generation = r.generation"
			" WHERE i.size >= 0 AND i.removed = 0 ORDER BY f.name, i.number LIMIT ?",
			"iii", id, past, (int64_t)max);
	case IMAGE_BY_HUB_ID:
		return db_query(cat->db,
			"SELECT i.id FROM (SELECT g.id, g.hub_id FROM generation g"
			"  WHERE g.removed = 0 AND g.hub_id > (SELECT hub_id FROM generation"
			"   WHERE id = (SELECT generation FROM image WHERE id = ?))"
			"  ORDER BY g.hub_id LIMIT ?) f"
			" CROSS JOIN image i ON i.generation = f.id"
			" WHERE i.size >= 0 AND i.removed = 0 ORDER BY f.hub_id, i.number LIMIT ?",
			"iii", id, past, (int64_t)max);
	default:
		return db_query(cat->db,
			"SELECT id FROM image"
			" WHERE generation > (SELECT generation FROM image WHERE id = ?)"
			" AND size >= 0 AND removed = 0 ORDER BY generation, number LIMIT ?",
			"ii", id, (int64_t)max);
	}
}

int image_following(struct catalogue *cat, int64_t id, enum image_order order, int64_t *ids,
	int max)
{
	db_lock(cat->db);
	int n = collect(db_query(cat->db,
				"SELECT i.id FROM image o JOIN image i"
				" ON i.generation = o.generation AND i.number > o.number"
				" WHERE o.id = ? AND i.size >= 0 AND i.removed = 0"
				" ORDER BY i.number LIMIT ?",
				"ii", id, (int64_t)max),
		ids, 0, max);
	if (n >= 0 && n < max)
		n = collect(following_generations(cat, id, order, max - n), ids, n, max);
	db_unlock(cat->db);
	return n;
}

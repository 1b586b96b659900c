/*
 * generation.h - rows of generations and of their images, and the log.
 */
#ifndef CATALOGUE_GENERATION_H
#define CATALOGUE_GENERATION_H

#include "base/picture.h"
#include "catalogue/catalogue.h"

struct generation {
	int64_t id;	 /* row; never reused */
	char *hub_id;	 /* names_is_hub_id */
	int64_t request; /* 0: adopted by a look-up */
	char *status;	 /* the hub's last word */
	enum phase phase;
	char *model;	 /* may be NULL */
	char *prompt;	 /* may be NULL (adopted, and the hub does not say) */
	char *poll_url;	 /* may be NULL */
	int64_t credits; /* -1 not known */
	char *request_json;  /* what was sent; NULL when adopted */
	char *response_json; /* the hub's last answer as it was, or NULL */
	char *error;	     /* for people, or NULL */
	int64_t created_ms, changed_ms; /* wall; created: when it became known here */
	unsigned hidden;     /* one bit for each text the user removed */
};

struct image {
	int64_t id;	    /* row; never reused */
	int64_t generation; /* row */
	int number;	    /* 1 … n */
	char *hub_id;	    /* may be NULL */
	char *url;	    /* as the hub gave it last; secret query included: never log or show it */
	int64_t url_ms;	    /* when */
	int64_t size;	    /* bytes; -1 until it is known, and then not listed */
	enum picture_type type;
	uint32_t width, height;
	unsigned char sha256[32]; /* of the downloaded picture; valid when have_sha256 */
	bool have_sha256;
	int64_t listed_ms;  /* wall; 0: not listed */
	bool removed;	    /* forgotten here by the user */
};

void generation_release(struct generation *g);
void image_release(struct image *i);

/* Inserts (id filled in); -EEXIST when the hub id is known already, g->id then is that row's. */
int generation_insert(struct catalogue *cat, struct generation *g);
int generation_get(struct catalogue *cat, int64_t id, struct generation *out);
int generation_find(struct catalogue *cat, const char *hub_id, struct generation *out);

/* What a folder shows of a generation. Read from small indexes, never from the rows with the texts:
 * what look-ups and listings of a million ask for. */
struct generation_entry {
	int64_t id;
	char hub_id[129];
	int64_t created_ms, changed_ms;
	enum phase phase;
};
/* -ENOENT; -ESTALE when it was forgotten here. */
int generation_entry_find(struct catalogue *cat, const char *hub_id, struct generation_entry *out);
int generation_entry_get(struct catalogue *cat, int64_t id, struct generation_entry *out);
/* Calls fn for each with id > after in the order of ids, until it returns false. fn must not call
 * back into the catalogue. */
typedef bool generation_list_fn(void *arg, const struct generation_entry *g);
int generation_list(struct catalogue *cat, int64_t after, generation_list_fn *fn, void *arg);

/* What decides which files a generation's folder has, and when they changed; its texts are not
 * read. */
struct generation_outline {
	int64_t id, request;
	enum phase phase;
	unsigned hidden;
	bool has_prompt, has_request, has_response;
	int64_t created_ms, changed_ms;
};
int generation_outline(struct catalogue *cat, int64_t id, struct generation_outline *out);
/* Writes every changeable column; changed_ms is set. */
int generation_update(struct catalogue *cat, struct generation *g);
/* Keeps the hub's latest answer alone: fresh addresses of pictures change nothing that has a time. */
int generation_answered(struct catalogue *cat, int64_t id, const char *response_json);
/* Removes it from view (and its images); its row stays, so that the id is not asked for again. */
int generation_forget(struct catalogue *cat, int64_t id);
/* Undoes that: the hub has given its id to another order. */
int generation_recall(struct catalogue *cat, int64_t id);
int generation_hide(struct catalogue *cat, int64_t id, unsigned bit);

/* Inserts an image, or updates the one with this generation and number (id filled in). The hash is
 * image_set_sha256()'s alone. */
int image_put(struct catalogue *cat, struct image *i);
int image_get(struct catalogue *cat, int64_t id, struct image *out);
int image_find(struct catalogue *cat, int64_t generation, int number, struct image *out);
/* All images of a generation by number, removed ones included; owned array. */
int image_list(struct catalogue *cat, int64_t generation, struct image **images, size_t *count);
void images_free(struct image *images, size_t count);
int image_forget(struct catalogue *cat, int64_t id);
/* Ids of images whose size is not known yet (to be probed again after a start-up). */
int image_unlisted(struct catalogue *cat, int64_t after, int64_t *ids, int max);
/* -ENOENT when it was removed meanwhile. */
int image_set_sha256(struct catalogue *cat, int64_t id, const unsigned char sha256[32]);

/* The orders in which listings show pictures; inside of a generation always by number. */
enum image_order {
	IMAGE_BY_NAME,	 /* of their prompts, in the prompt's folder */
	IMAGE_BY_HUB_ID, /* of their generations */
	IMAGE_BY_AGE,	 /* of their generations: how long they have been known here */
	IMAGE_ORDERS,
};
/* Ids of the listed pictures that follow one in an order, at most max; returns their number. Looks
 * past a bounded number of names or generations without pictures. */
int image_following(struct catalogue *cat, int64_t id, enum image_order order, int64_t *ids,
	int max);

/* One line of the log of a request or a generation (0: none); text without newline. */
int log_add(struct catalogue *cat, int64_t request, int64_t generation, const char *text);
/* The whole log of a generation and of the request behind it, a line each:
 * "2026-04-30T08:00:00.000Z text\n". Owned. */
char *log_text(struct catalogue *cat, int64_t request, int64_t generation);

#endif

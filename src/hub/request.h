/*
 * request.h - one HTTP request on its way through the server. For this folder only.
 *
 *	http.c		MHD: connections, the three steps of a request (head, body, answer)
 *	routes.c	what each path answers
 *	orders.c	POST: into the queue, and to the generation's end
 *	upload.c	a POST's body: JSON in memory, multipart with its files spooled to disk
 *	pictures.c	a picture's file
 */
#ifndef HUB_REQUEST_H
#define HUB_REQUEST_H

#include "base/list.h"
#include "hub/conns.h"
#include "hub/hub.h"
#include "hub/workers.h"
#include <microhttpd.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>

enum {
	REFERENCES_MAX = 16,
	FIELD_MAX = 256 * 1024, /* bytes of one multipart text field */
	BODY_MAX = WIRE_BODY_MAX,
	KEY_HEADER_MAX = 255,
};
/* 16 pictures of 50 MB, their envelope and the text fields. */
#define MULTIPART_MAX ((int64_t)REFERENCES_MAX * WIRE_REFERENCE_BYTES_MAX + 2 * 1024 * 1024)

struct hub {
	struct hub_config config;
	struct store *store;
	struct provider *provider;
	struct workers *workers; /* under lock; NULL once they are stopped */
	struct conns *conns;
	struct MHD_Daemon *daemon;
	char *url;
	struct wire_models models;
	atomic_bool stopping;	  /* set under lock: no waits any more, answers close connections */
	pthread_mutex_t lock;	  /* before that of the workers */
	struct list waiting;	  /* requests for a generation's end, under lock */
	bool closed;		  /* no commits any more, under lock */
	int commits;		  /* under way, under lock */
	pthread_cond_t committed; /* commits is 0 */
};

struct upload {
	struct order order;
	char *folder; /* of its files, DATA/tmp/… until they are kept; NULL: none */
	int n_files;
	struct {
		int fd;
		int64_t size;
	} files[REFERENCES_MAX + 1];
	struct MHD_PostProcessor *parser; /* multipart */
	struct buf json, field;
	char field_name[64];
	char *part; /* the names of the one at hand */
	bool part_empty; /* no byte of it yet */
	crypto_generichash_state hash; /* of all that was sent */
	int64_t received;
	bool multipart, too_large, too_many;
	char *error; /* the first thing wrong */
	enum outcome outcome;
};

enum step { STEP_BODY, STEP_COMMIT, STEP_WAIT, STEP_ANSWERED };

struct request {
	struct list link; /* hub.waiting */
	struct hub *hub;
	struct MHD_Connection *connection;
	struct conn *conn;
	enum step step;
	int64_t account;
	struct upload upload;
	bool has_upload;
	struct hub_order order;
	char *wanted, *idempotency_key; /* what order borrows */
	int committed;	  /* the commit's result */
	int64_t until_ms; /* STEP_WAIT: the longest wait */
};

/* upload.c */
int upload_begin(struct upload *u, struct MHD_Connection *c, struct store *store, char **error);
/* Takes a piece; false ends the connection (a body far over its limit). */
bool upload_add(struct upload *u, const char *bytes, size_t len);
/* The whole is here: the order, checked. OUTCOME_OK or what is wrong, with *error. */
enum outcome upload_end(struct upload *u, char **error);
/* Moves the files to DATA/refs/ID/, durably. */
int upload_keep(struct upload *u, struct store *store, const char *id);
/* They are the generation's now; otherwise upload_release() removes them. */
void upload_hand_over(struct upload *u);
void upload_release(struct upload *u);

/* routes.c */
/* At the head: 1 a body is awaited, 0 answered. */
int route_head(struct request *r, const char *method, const char *path);
/* bytes: of its body. */
enum MHD_Result answer(struct request *r, int status, struct MHD_Response *response, int64_t bytes);
/* Takes ownership of json. */
enum MHD_Result answer_json(struct request *r, int status, char *json, bool replayed);
enum MHD_Result answer_error(struct request *r, enum outcome outcome, const char *message);
/* What URLs in answers begin with: as the client reached us, unless told otherwise. Owned. */
char *request_url_base(struct request *r);

/* orders.c */
int order_head(struct request *r); /* as route_head() */
/* The body is here: answers or suspends. */
enum MHD_Result order_body(struct request *r);
/* After a resume. */
enum MHD_Result order_resumed(struct request *r);
/* A generation has ended: requests that wait for it go on. */
void orders_ended(void *hub, const char *id);
/* Now and then: who has waited for the longest time goes on, and who has left is let go. */
void orders_tick(struct hub *h);
/* Every wait is over (the hub is stopping). */
void orders_stop_waiting(struct hub *h);
/* No order is taken any more; returns when all that were are durable and resumed. */
void orders_close(struct hub *h);

/* pictures.c */
enum MHD_Result get_picture(struct request *r, const char *name);
/* A Range header: one range as RFC 9110 has it; several are answered with the whole. 1: take it,
 * 0: ignore it, -1: it lies outside. */
int range_parse(const char *text, int64_t size, int64_t *first, int64_t *last);

/* models.c */
struct wire_models models_builtin(void);
int64_t models_price(const struct wire_model *m, const struct order *o);

#endif

/*
 * request.h - one HTTP request on its way through the server. For this folder only.
 *
 *	http.c		MHD: connections, the three steps of a request (head, body, answer)
 *	upload.c	a body: JSON in memory, multipart with its files spooled to disk
 *	routes.c	what each path answers
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

enum {
	REFERENCES_MAX = 16,
	FIELD_MAX = 256 * 1024, /* bytes of one multipart text field */
	BODY_MAX = WIRE_BODY_MAX,
	SYNC_MAX_MS = 800 * 1000,
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
	pthread_mutex_t lock;
	struct list waiting; /* requests for a generation's end, under lock */
	bool stopping;	     /* under lock */
};

struct upload {
	struct order order;
	char *folder; /* DATA/tmp/… of its files; NULL: none */
	int n_files;
	struct {
		int fd;
		int64_t size;
	} files[REFERENCES_MAX + 1];
	struct MHD_PostProcessor *parser; /* multipart */
	struct buf json, field;
	char field_name[64];
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
	int committed;	   /* the commit's result */
	int64_t until_ms;  /* STEP_WAIT: the longest wait */
	bool ended;	   /* STEP_WAIT: the generation has ended, or the wait has */
};

/* http.c */
void hub_wake_workers(struct hub *h); /* any thread */

/* upload.c */
int upload_begin(struct upload *u, struct MHD_Connection *c, struct store *store, char **error);
/* Takes a piece; false ends the connection (a body far over its limit). */
bool upload_add(struct upload *u, const char *bytes, size_t len);
/* The whole is here: the order, checked. OUTCOME_OK or what is wrong, with *error. */
enum outcome upload_end(struct upload *u, char **error);
/* Moves the files to DATA/refs/ID/. */
int upload_keep(struct upload *u, struct store *store, const char *id);
void upload_release(struct upload *u);

/* routes.c */
/* At the head: 1 a body is awaited, 0 answered. */
int route_head(struct request *r, const char *method, const char *path);
/* The body is here: answers or suspends. */
enum MHD_Result route_body(struct request *r);
/* After a resume. */
enum MHD_Result route_resumed(struct request *r);
/* A generation has ended: requests that wait for it go on. */
void routes_ended(void *hub, const char *id);
/* Every wait is over (the hub is stopping). */
void routes_stop(struct hub *h);
enum MHD_Result answer_error(struct request *r, enum outcome outcome, const char *message);

/* models.c */
struct wire_models models_builtin(void);
int64_t models_price(const struct wire_model *m, const struct order *o);

#endif

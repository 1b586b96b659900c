#include "base/clock.h"
#include "base/names.h"
#include "base/picture.h"
#include "hub/request.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum { STOP_MESSAGE_MAX = 200 };

/* ---- answering ---- */

static enum MHD_Result send_response(struct request *r, int status, struct MHD_Response *response)
{
	MHD_add_response_header(response, "Idempotency", "supported");
	const enum MHD_Result queued =
		MHD_queue_response(r->connection, (unsigned)status, response);
	MHD_destroy_response(response);
	r->step = STEP_ANSWERED;
	return queued;
}

/* Takes ownership of json. */
static enum MHD_Result send_json(struct request *r, int status, char *json, bool replayed)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(json), json, MHD_RESPMEM_MUST_FREE);

	MHD_add_response_header(response, "Content-Type", "application/json");
	MHD_add_response_header(response, "Cache-Control", "no-store");
	if (replayed)
		MHD_add_response_header(response, "Idempotent-Replayed", "true");
	if (status == 413 || status == 408)
		MHD_add_response_header(response, "Connection", "close");
	return send_response(r, status, response);
}

enum MHD_Result answer_error(struct request *r, enum outcome outcome, const char *message)
{
	const struct outcome_fact *fact = outcome_fact(outcome);

	return send_json(r, fact->http, wire_error_encode(message, fact->code), false);
}

/* What URLs in answers begin with: as the client reached us, unless told otherwise. */
static char *url_base(struct request *r)
{
	const char *host = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Host");

	if (r->hub->config.public_url)
		return xstrdup(r->hub->config.public_url);
	if (!host || strlen(host) > 255 ||
		host[strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				  "0123456789.-_:[]")])
		return xstrdup(r->hub->url);
	return xasprintf("http://%s", host);
}

/* ---- who asks ---- */

static enum outcome authorize(struct request *r)
{
	const char *header =
		MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Authorization");

	if (!header || !*header)
		return OUTCOME_MISSING_KEY;
	if (strncasecmp(header, "Bearer ", 7) != 0)
		return OUTCOME_INVALID_KEY;
	return key_check(r->hub->store, header + 7 + strspn(header + 7, " "), &r->account);
}

static const char *key_words(enum outcome outcome)
{
	return outcome == OUTCOME_MISSING_KEY	 ? "Missing API key"
		: outcome == OUTCOME_EXPIRED_KEY ? "The API key has expired"
		: outcome == OUTCOME_INVALID_KEY ? "Invalid API key"
						 : "The API key cannot be looked up";
}

/* ---- GETs ---- */

static enum MHD_Result get_models(struct request *r)
{
	return send_json(r, 200, wire_models_encode(&r->hub->models), false);
}

static enum MHD_Result get_health(struct request *r)
{
	return send_json(r, 200, xstrdup("{\"status\":\"ok\"}"), false);
}

static enum MHD_Result get_credits(struct request *r)
{
	char expires[CLOCK_TEXT_SIZE];
	struct hub_account a;

	if (account_get(r->hub->store, r->account, &a) < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The balance cannot be read");
	const struct wire_balance b = {
		.credits = a.balance,
		.account_type = a.type,
		.next_expiration = a.next_expiration_ms
			? clock_format_iso(a.next_expiration_ms, expires)
			: NULL,
	};
	char *json = wire_balance_encode(&b);
	hub_account_release(&a);
	return send_json(r, 200, json, false);
}

static enum MHD_Result get_generation(struct request *r, const char *id)
{
	CLEANUP_FREE char *base = url_base(r);
	struct hub_generation g;
	int rc = names_is_hub_id(id) && strlen(id) < HUB_ID_SIZE
		? generation_load(r->hub->store, id, r->account, &g)
		: -ENOENT;

	if (rc == -ENOENT)
		return answer_error(r, OUTCOME_NOT_FOUND, "No such generation");
	if (rc < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The generation cannot be read");
	char *json = generation_json(&g, base, true, NULL);
	hub_generation_release(&g);
	return send_json(r, 200, json, false);
}

/* ---- pictures ---- */

static bool in_list(const char *list, const char *etag)
{
	return strcmp(list, "*") == 0 || strstr(list, etag) != NULL;
}

/* One range as RFC 9110 has it; several are answered with the whole. 1: take it, 0: ignore,
 * -1: it lies outside. */
static int parse_range(const char *text, int64_t size, int64_t *first, int64_t *last)
{
	char dash, rest;

	if (strncmp(text, "bytes=", 6) != 0 || strchr(text, ','))
		return 0;
	text += 6;
	if (*text == '-') {
		int64_t tail;

		if (sscanf(text + 1, "%" SCNd64 "%c", &tail, &rest) != 1 || tail < 0)
			return 0;
		*first = tail > size ? 0 : size - tail;
		*last = size - 1;
		return tail == 0 ? -1 : 1;
	}
	const int n = sscanf(text, "%" SCNd64 "%c%" SCNd64 "%c", first, &dash, last, &rest);
	if (n < 2 || n > 3 || dash != '-' || *first < 0)
		return 0;
	if (n == 2 || *last >= size)
		*last = size - 1;
	if (n == 3 && *last < *first && *last != size - 1)
		return 0;
	return *first < size ? 1 : -1;
}

static enum MHD_Result send_range(struct request *r, int fd, int64_t size, const char *etag,
	const char *mime)
{
	const char *range = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Range");
	const char *if_range =
		MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "If-Range");
	int64_t first = 0, last = size - 1;
	int wanted = range ? parse_range(range, size, &first, &last) : 0;
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
		return send_response(r, 416, response);
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
	return send_response(r, wanted == 1 ? 206 : 200, response);
}

static enum MHD_Result get_picture(struct request *r, const char *name)
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
		return send_response(r, 304, same);
	}
	return send_range(r, fd, st.st_size, etag,
		picture_mime(picture_from_extension(dot + 1)));
}

/* ---- POST /api/v1/images/generations ---- */

static void resume(struct request *r)
{
	MHD_resume_connection(r->connection);
}

static int commit_order(struct db *db, void *arg)
{
	return order_insert(db, &((struct request *)arg)->order);
}

static void commit_done(void *arg, int rc)
{
	struct request *r = arg;

	r->committed = rc;
	if (rc == 0 && !r->order.replayed)
		hub_wake_workers(r->hub);
	resume(r);
}

/* The order is checked against model and size; its price is known. */
static enum outcome price_order(struct request *r, char **error)
{
	struct order *o = &r->upload.order;
	const struct wire_model *m;

	if (!o->model) {
		fail(error, -1, "model is missing");
		return OUTCOME_INVALID_REQUEST;
	}
	m = wire_models_find(&r->hub->models, o->model);
	if (!m) {
		fail(error, -1, "Unknown model \"%s\"", o->model);
		return OUTCOME_INVALID_REQUEST;
	}
	if (order_check_size_upstream(o->size, error) < 0)
		return OUTCOME_INVALID_REQUEST;
	r->order.price = models_price(m, o);
	return OUTCOME_OK;
}

static enum MHD_Result begin_order(struct request *r)
{
	struct hub_order *o = &r->order;

	o->account = r->account;
	o->order = &r->upload.order;
	o->wanted = r->wanted = order_encode(&r->upload.order);
	o->n_references = r->upload.n_files;
	o->idempotency_key = r->idempotency_key;
	crypto_generichash_final(&r->upload.hash, o->body_hash, sizeof o->body_hash);
	generation_id_make(o->id);
	const int rc = upload_keep(&r->upload, r->hub->store, o->id);
	if (rc < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The hub cannot keep the pictures");
	r->step = STEP_COMMIT;
	MHD_suspend_connection(r->connection);
	store_submit(r->hub->store, commit_order, commit_done, r);
	return MHD_YES;
}

enum MHD_Result route_body(struct request *r)
{
	CLEANUP_FREE char *error = NULL;
	enum outcome outcome = upload_end(&r->upload, &error);

	if (outcome == OUTCOME_OK)
		outcome = price_order(r, &error);
	if (outcome != OUTCOME_OK)
		return answer_error(r, outcome, error ? error : outcome_fact(outcome)->word);
	return begin_order(r);
}

/* Waits for the generation's end, suspended. False when it has ended already, or the hub stops. */
static bool wait_for_end(struct request *r)
{
	struct hub *h = r->hub;
	struct hub_generation g;
	bool wait;

	pthread_mutex_lock(&h->lock);
	/* Looked at under the lock that routes_ended() takes, so that no end is missed. */
	wait = !h->stopping && generation_load(h->store, r->order.id, r->account, &g) == 0;
	if (wait) {
		wait = strcmp(g.status, "queued") == 0 || strcmp(g.status, "processing") == 0;
		hub_generation_release(&g);
	}
	if (wait) {
		r->step = STEP_WAIT;
		r->ended = false;
		MHD_suspend_connection(r->connection);
		list_append(&h->waiting, &r->link);
	}
	pthread_mutex_unlock(&h->lock);
	return wait;
}

static enum MHD_Result answer_failed(struct request *r, const struct hub_generation *g)
{
	const bool poor = g->error_code && strcmp(g->error_code, "insufficientCredits") == 0;

	return answer_error(r, poor ? OUTCOME_NO_CREDITS : OUTCOME_GENERATION_FAILED,
		g->error_message ? g->error_message : "The generation failed");
}

static enum MHD_Result answer_sync(struct request *r)
{
	CLEANUP_FREE char *base = url_base(r);
	CLEANUP_FREE char *words = NULL;
	struct hub_account a;
	struct hub_generation g;
	enum MHD_Result result;

	if (generation_load(r->hub->store, r->order.id, r->account, &g) < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The generation cannot be read");
	if (strcmp(g.status, "succeeded") == 0 &&
		account_get(r->hub->store, r->account, &a) == 0) {
		result = send_json(
			r, 200, generation_json(&g, base, false, &a), r->order.replayed);
		hub_account_release(&a);
	} else if (strcmp(g.status, "failed") == 0) {
		result = answer_failed(r, &g);
	} else {
		/* It goes on: the answer says where to look. */
		result = send_json(r, 202, generation_json(&g, base, true, NULL), r->order.replayed);
	}
	hub_generation_release(&g);
	return result;
}

static enum MHD_Result answer_async(struct request *r)
{
	CLEANUP_FREE char *base = url_base(r);
	struct hub_generation g = {
		.status = (char *)"queued",
		.order = r->upload.order, /* all borrowed */
		.credits_requested = r->order.price,
		.created_ms = r->order.created_ms,
	};

	snprintf(g.id, sizeof g.id, "%s", r->order.id);
	return send_json(r, 202, generation_json(&g, base, true, NULL), r->order.replayed);
}

static enum MHD_Result committed(struct request *r)
{
	if (r->committed == -EDQUOT)
		return answer_error(r, OUTCOME_NO_CREDITS, "Not enough credits");
	if (r->committed == -EALREADY)
		return answer_error(r, OUTCOME_IDEMPOTENCY_MISMATCH,
			"This Idempotency-Key was used with another request");
	if (r->committed < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The order cannot be written down");
	if (r->upload.order.async)
		return answer_async(r);
	return wait_for_end(r) ? MHD_YES : answer_sync(r);
}

enum MHD_Result route_resumed(struct request *r)
{
	return r->step == STEP_COMMIT ? committed(r) : answer_sync(r);
}

void routes_ended(void *arg, const char *id)
{
	struct hub *h = arg;

	pthread_mutex_lock(&h->lock);
	list_for_each_safe (pos, next, &h->waiting) {
		struct request *r = CONTAINER_OF(pos, struct request, link);

		if (strcmp(r->order.id, id) == 0) {
			list_remove(pos);
			r->ended = true;
			resume(r);
		}
	}
	pthread_mutex_unlock(&h->lock);
}

void routes_stop(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	list_for_each_safe (pos, next, &h->waiting) {
		list_remove(pos);
		resume(CONTAINER_OF(pos, struct request, link));
	}
	pthread_mutex_unlock(&h->lock);
}

/* ---- by path ---- */

static int begin_post(struct request *r)
{
	const char *key = MHD_lookup_connection_value(
		r->connection, MHD_HEADER_KIND, "Idempotency-Key");
	CLEANUP_FREE char *error = NULL;

	if (key && (strlen(key) == 0 || strlen(key) > KEY_HEADER_MAX)) {
		answer_error(r, OUTCOME_INVALID_REQUEST, "Idempotency-Key has 1 to 255 characters");
		return 0;
	}
	r->idempotency_key = xstrdup_or_null(key);
	r->has_upload = true;
	const int rc = upload_begin(&r->upload, r->connection, r->hub->store, &error);
	if (rc == 0)
		return 1;
	answer_error(r, rc == -EFBIG ? OUTCOME_TOO_LARGE : OUTCOME_INVALID_REQUEST, error);
	return 0;
}

static int wrong_method(struct request *r, const char *allowed)
{
	char *json = wire_error_encode("This method is not possible here", "method_not_allowed");
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(json), json, MHD_RESPMEM_MUST_FREE);

	MHD_add_response_header(response, "Content-Type", "application/json");
	MHD_add_response_header(response, "Allow", allowed);
	send_response(r, 405, response);
	return 0;
}

static const struct route {
	const char *path; /* ends in '/': a prefix, the rest is the argument */
	bool post, with_key;
	enum MHD_Result (*get)(struct request *r);
	enum MHD_Result (*get_one)(struct request *r, const char *rest);
} routes[] = {
	{"/api/v1/models", false, false, get_models, NULL},
	{"/api/v1/credits", false, true, get_credits, NULL},
	{"/api/v1/images/generations", true, true, NULL, NULL},
	{"/api/v1/generations/", false, true, NULL, get_generation},
	{"/api/health", false, false, get_health, NULL},
	{"/images/", false, false, NULL, get_picture},
};

static const struct route *find_route(const char *path, const char **rest)
{
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		const size_t len = strlen(routes[i].path);

		*rest = path + len;
		if (routes[i].path[len - 1] == '/' ? strncmp(path, routes[i].path, len) == 0 && **rest
						    : strcmp(path, routes[i].path) == 0)
			return &routes[i];
	}
	return NULL;
}

int route_head(struct request *r, const char *method, const char *path)
{
	const char *rest;
	const struct route *route = find_route(path, &rest);
	const bool reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;

	if (!route) {
		answer_error(r, OUTCOME_NOT_FOUND, "No such resource");
		return 0;
	}
	if (route->post ? strcmp(method, "POST") != 0 : !reads)
		return wrong_method(r, route->post ? "POST" : "GET, HEAD");
	if (route->with_key) {
		const enum outcome outcome = authorize(r);

		if (outcome != OUTCOME_OK) {
			answer_error(r, outcome, key_words(outcome));
			return 0;
		}
	}
	if (route->post)
		return begin_post(r);
	if (route->get)
		route->get(r);
	else
		route->get_one(r, rest);
	return 0;
}

/*
 * What each path answers: finding the route, asking for the key, the short answers.
 */
#include "base/clock.h"
#include "base/names.h"
#include "hub/request.h"
#include <errno.h>

/* ---- answering ---- */

enum MHD_Result answer(struct request *r, int status, struct MHD_Response *response, int64_t bytes)
{
	MHD_add_response_header(response, "Idempotency", "supported");
	if (r->hub->stopping)
		MHD_add_response_header(response, "Connection", "close");
	if (r->conn)
		conn_sending(r->hub->conns, r->conn, bytes);
	const enum MHD_Result queued =
		MHD_queue_response(r->connection, (unsigned)status, response);
	MHD_destroy_response(response);
	r->step = STEP_ANSWERED;
	return queued;
}

enum MHD_Result answer_json(struct request *r, int status, char *json, bool replayed)
{
	const size_t len = strlen(json);
	struct MHD_Response *response =
		MHD_create_response_from_buffer(len, json, MHD_RESPMEM_MUST_FREE);

	MHD_add_response_header(response, "Content-Type", "application/json");
	MHD_add_response_header(response, "Cache-Control", "no-store");
	if (replayed)
		MHD_add_response_header(response, "Idempotent-Replayed", "true");
	if (status == 413 || status == 408)
		MHD_add_response_header(response, "Connection", "close");
	return answer(r, status, response, (int64_t)len);
}

enum MHD_Result answer_error(struct request *r, enum outcome outcome, const char *message)
{
	const struct outcome_fact *fact = outcome_fact(outcome);

	return answer_json(r, fact->http, wire_error_encode(message, fact->code), false);
}

char *request_url_base(struct request *r)
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
	return answer_json(r, 200, wire_models_encode(&r->hub->models), false);
}

static enum MHD_Result get_health(struct request *r)
{
	return answer_json(r, 200, xstrdup("{\"status\":\"ok\"}"), false);
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
	return answer_json(r, 200, json, false);
}

static enum MHD_Result get_generation(struct request *r, const char *id)
{
	CLEANUP_FREE char *base = request_url_base(r);
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
	return answer_json(r, 200, json, false);
}

/* ---- by path ---- */

static int wrong_method(struct request *r, const char *allowed)
{
	char *json = wire_error_encode("This method is not possible here", "method_not_allowed");
	const size_t len = strlen(json);
	struct MHD_Response *response =
		MHD_create_response_from_buffer(len, json, MHD_RESPMEM_MUST_FREE);

	MHD_add_response_header(response, "Content-Type", "application/json");
	MHD_add_response_header(response, "Allow", allowed);
	answer(r, 405, response, (int64_t)len);
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
		return order_head(r);
	if (route->get)
		route->get(r);
	else
		route->get_one(r, rest);
	return 0;
}

/*
 * POST /api/v1/images/generations: an order on its way into the queue, and for who wants to wait, to
 * its end.
 *
 * A request is suspended twice at most: until its order is durable (STEP_COMMIT; the store's writer
 * resumes it), and, without `async`, until its generation has ended (STEP_WAIT; under hub.lock in
 * hub.waiting; a worker, the longest wait, the client's leaving or the hub's stop resumes it). MHD
 * cannot be stopped while a request is suspended, so the hub counts its commits and takes no more when
 * it closes.
 */
#include "base/clock.h"
#include "hub/request.h"
#include <errno.h>
#include <poll.h>

/* ---- the head ---- */

int order_head(struct request *r)
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

/* ---- the commit ---- */

static int commit_job(struct db *db, void *arg)
{
	return order_insert(db, &((struct request *)arg)->order);
}

/* False once the hub closes. */
static bool commit_begin(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	const bool open = !h->closed;
	h->commits += open;
	pthread_mutex_unlock(&h->lock);
	return open;
}

/* The request may be gone as soon as it is resumed. */
static void commit_done(void *arg, int rc)
{
	struct request *r = arg;
	struct hub *h = r->hub;
	const bool queued = rc == 0 && !r->order.replayed;

	r->committed = rc;
	MHD_resume_connection(r->connection);
	pthread_mutex_lock(&h->lock);
	if (queued && h->workers)
		workers_wake(h->workers);
	if (--h->commits == 0)
		pthread_cond_broadcast(&h->committed);
	pthread_mutex_unlock(&h->lock);
}

void orders_close(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	h->closed = true;
	while (h->commits > 0)
		pthread_cond_wait(&h->committed, &h->lock);
	pthread_mutex_unlock(&h->lock);
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

static enum MHD_Result commit(struct request *r)
{
	struct hub_order *o = &r->order;

	r->wanted = order_encode(&r->upload.order);
	o->account = r->account;
	o->order = &r->upload.order;
	o->wanted = r->wanted;
	o->n_references = r->upload.n_files;
	o->idempotency_key = r->idempotency_key;
	crypto_generichash_final(&r->upload.hash, o->body_hash, sizeof o->body_hash);
	generation_id_make(o->id);
	const int rc = upload_keep(&r->upload, r->hub->store, o->id);
	if (rc < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The hub cannot keep the pictures");
	if (!commit_begin(r->hub))
		return MHD_NO;
	r->step = STEP_COMMIT;
	MHD_suspend_connection(r->connection);
	store_submit(r->hub->store, commit_job, commit_done, r);
	return MHD_YES;
}

enum MHD_Result order_body(struct request *r)
{
	CLEANUP_FREE char *error = NULL;
	enum outcome outcome = upload_end(&r->upload, &error);

	if (outcome == OUTCOME_OK)
		outcome = price_order(r, &error);
	if (outcome != OUTCOME_OK)
		return answer_error(r, outcome, error ? error : outcome_fact(outcome)->word);
	return commit(r);
}

/* ---- the wait ---- */

/* Under lock. */
static void end_wait(struct request *r)
{
	list_remove(&r->link);
	MHD_resume_connection(r->connection);
}

void orders_ended(void *arg, const char *id)
{
	struct hub *h = arg;

	pthread_mutex_lock(&h->lock);
	list_for_each_safe (pos, next, &h->waiting) {
		struct request *r = CONTAINER_OF(pos, struct request, link);

		if (strcmp(r->order.id, id) == 0)
			end_wait(r);
	}
	pthread_mutex_unlock(&h->lock);
}

/* MHD does not look at a connection that is suspended. It stays open while its request waits. */
static bool has_left(const struct request *r)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct pollfd p = {.fd = info ? info->connect_fd : -1, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0;
}

void orders_tick(struct hub *h)
{
	const int64_t now = clock_mono_ms();

	pthread_mutex_lock(&h->lock);
	list_for_each_safe (pos, next, &h->waiting) {
		struct request *r = CONTAINER_OF(pos, struct request, link);

		if (r->until_ms <= now || has_left(r))
			end_wait(r);
	}
	pthread_mutex_unlock(&h->lock);
}

void orders_stop_waiting(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	list_for_each_safe (pos, next, &h->waiting)
		end_wait(CONTAINER_OF(pos, struct request, link));
	pthread_mutex_unlock(&h->lock);
}

static bool goes_on(struct hub *h, const char *id)
{
	struct hub_generation g;

	if (generation_load(h->store, id, 0, &g) < 0)
		return false;
	const bool open = wire_phase(g.status) == PHASE_PENDING;
	hub_generation_release(&g);
	return open;
}

/* Suspended before the look at the database, so that no end is missed. False: the hub stops. */
static bool wait_for_end(struct request *r)
{
	struct hub *h = r->hub;

	pthread_mutex_lock(&h->lock);
	const bool wait = !h->stopping;
	if (wait) {
		r->step = STEP_WAIT;
		r->until_ms = clock_mono_ms() + h->config.wait_max_ms;
		MHD_suspend_connection(r->connection);
		list_append(&h->waiting, &r->link);
	}
	pthread_mutex_unlock(&h->lock);
	if (wait && !goes_on(h, r->order.id))
		orders_ended(h, r->order.id);
	return wait;
}

/* ---- the answer ---- */

static enum MHD_Result answer_failed(struct request *r, const struct hub_generation *g)
{
	const bool poor = g->error_code && strcmp(g->error_code, "insufficientCredits") == 0;

	return answer_error(r, poor ? OUTCOME_NO_CREDITS : OUTCOME_GENERATION_FAILED,
		g->error_message ? g->error_message : "The generation failed");
}

static enum MHD_Result answer_sync(struct request *r)
{
	CLEANUP_FREE char *base = request_url_base(r);
	struct hub_account a;
	struct hub_generation g;
	enum MHD_Result result;

	if (generation_load(r->hub->store, r->order.id, r->account, &g) < 0)
		return answer_error(r, OUTCOME_SERVER_ERROR, "The generation cannot be read");
	if (strcmp(g.status, "succeeded") == 0 &&
		account_get(r->hub->store, r->account, &a) == 0) {
		result = answer_json(
			r, 200, generation_json(&g, base, false, &a), r->order.replayed);
		hub_account_release(&a);
	} else if (strcmp(g.status, "failed") == 0) {
		result = answer_failed(r, &g);
	} else {
		/* It goes on: the answer says where to look. */
		result = answer_json(
			r, 202, generation_json(&g, base, true, NULL), r->order.replayed);
	}
	hub_generation_release(&g);
	return result;
}

static enum MHD_Result answer_async(struct request *r)
{
	CLEANUP_FREE char *base = request_url_base(r);
	struct hub_generation g = {
		.status = (char *)"queued",
		.order = r->upload.order, /* all borrowed */
		.credits_requested = r->order.price,
		.created_ms = r->order.created_ms,
	};

	memcpy(g.id, r->order.id, sizeof g.id);
	return answer_json(r, 202, generation_json(&g, base, true, NULL), r->order.replayed);
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
	if (!r->order.replayed)
		upload_hand_over(&r->upload);
	if (r->upload.order.async)
		return answer_async(r);
	return wait_for_end(r) ? MHD_YES : answer_sync(r);
}

enum MHD_Result order_resumed(struct request *r)
{
	return r->step == STEP_COMMIT ? committed(r) : answer_sync(r);
}

/*
 * The hub's models and the account's balance, and whether the hub answers at all. Both are asked
 * for at the start, repeated with back-off until an answer comes, and asked for again when somebody
 * wants to know. The models are renewed every hour.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/internal.h"
#include <errno.h>

enum {
	FIRST_DELAY_MS = 1000,
	MOST_DELAY_MS = 60 * 1000,
	MODELS_EVERY_MS = 3600 * 1000,
	BALANCE_FRESH_MS = 3000,
	BALANCE_WATCH_MS = 60 * 1000, /* while requests are held for credits */
};

static void heard(struct engine *e, enum outcome *which, const struct net_reply *reply)
{
	bool news;

	pthread_mutex_lock(&e->lock);
	news = !e->hub_heard || e->hub_outcome != reply->outcome || *which != reply->outcome;
	*which = e->hub_outcome = reply->outcome;
	e->hub_heard = true;
	if (which == &e->balance_outcome)
		e->balance_heard = true;
	free(e->hub_message);
	e->hub_message = reply->outcome == OUTCOME_OK ? NULL : xstrdup(reply->message);
	pthread_mutex_unlock(&e->lock);

	if (news && reply->outcome != OUTCOME_OK)
		log_warning("the hub %s: %s", e->config.hub, reply->message);
	if (news)
		engine_tell(e, CHANGE_ACCOUNT, 0, 0, 0, 0);
}

/* A failure: asks again after a pause, not before Retry-After. Without a key or with one that is
 * refused, the same answer would come again: only a wish asks again. */
static void ask_later(struct refresh *r, const struct net_reply *reply)
{
	r->delay_ms = r->delay_ms ? backoff_next(r->delay_ms, MOST_DELAY_MS) : FIRST_DELAY_MS;

	const bool pointless = reply->http >= 400 && reply->http < 500 && reply->http != 429;
	int64_t wait = pointless ? MODELS_EVERY_MS : backoff_jitter(r->delay_ms);
	if (reply->retry_after_ms > wait)
		wait = reply->retry_after_ms;
	timer_set(&r->e->timers, &r->timer, clock_mono_ms() + wait);
}

/* ---- models ---- */

static void take_models(struct engine *e, const struct net_reply *reply)
{
	struct wire_models fresh;
	CLEANUP_FREE char *error = NULL;

	if (wire_models_decode(reply->body, reply->body_len, &fresh, &error) < 0) {
		log_warning("the hub's list of models: %s", error);
		return;
	}
	submit_heard(e, reply);
	catalogue_models_save(e->cat, reply->body, clock_wall_ms());
	pthread_mutex_lock(&e->lock);
	struct wire_models old = e->models;
	e->models = fresh;
	pthread_mutex_unlock(&e->lock);
	wire_models_release(&old);
	engine_tell(e, CHANGE_MODELS, 0, 0, 0, 0);
	submit_unhold(e, false);
}

static void models_done(void *arg, const struct net_reply *reply)
{
	struct refresh *r = arg;
	struct engine *e = r->e;

	r->call = NULL;
	r->answered = reply->http >= 200 && reply->http < 500 && reply->http != 429;
	heard(e, &(enum outcome){reply->outcome}, reply);
	if (reply->outcome == OUTCOME_OK) {
		r->delay_ms = 0;
		timer_set(&e->timers, &r->timer, clock_mono_ms() + MODELS_EVERY_MS);
		take_models(e, reply);
	} else {
		ask_later(r, reply);
	}
	e->kicked = true;
}

static void ask_models(struct timer *timer)
{
	struct refresh *r = CONTAINER_OF(timer, struct refresh, timer);

	if (!r->call)
		r->call = net_get_models(r->e->net, models_done, r);
}

void account_want_models(struct engine *e)
{
	timer_cancel(&e->timers, &e->models_refresh.timer);
	ask_models(&e->models_refresh.timer);
}

bool account_models_answered(const struct engine *e)
{
	return e->models_refresh.answered;
}

int account_check(struct engine *e, const struct prompt *p, size_t n_references, char **error)
{
	pthread_mutex_lock(&e->lock);
	const int rc = prompt_check(p, &e->models, n_references, error);
	pthread_mutex_unlock(&e->lock);
	return rc;
}

int account_quote(struct engine *e, const struct order *o, size_t n_references, struct quote *q,
	char **error)
{
	const struct prompt p = {.order = *o};
	const struct wire_model *m;
	int rc = -EAGAIN;

	*q = (struct quote){.price_low = -1, .price_high = -1};
	pthread_mutex_lock(&e->lock);
	if (e->models.count > 0)
		rc = prompt_check(&p, &e->models, n_references, error);
	if (rc == 0) {
		m = o->model ? wire_models_find(&e->models, o->model) : e->models.items;
		q->model = xstrdup(m->id);
		q->priced = wire_price(m, o->size, order_images(o), &q->price_low, &q->price_high);
	}
	pthread_mutex_unlock(&e->lock);
	return rc;
}

/* ---- balance ---- */

bool account_balance_failed(const struct engine *e)
{
	return e->balance_heard && e->balance_outcome != OUTCOME_OK && !e->balance_refresh.call;
}

void account_balance(struct engine *e, const struct wire_balance *b, int64_t asked_ms)
{
	struct wire_balance before;
	int64_t as_of;

	if (b->credits < 0)
		return;
	if (catalogue_balance_load(e->cat, &before, &as_of) < 0)
		before = (struct wire_balance){.credits = -1};
	catalogue_balance_save(e->cat, b, clock_wall_ms());
	engine_tell(e, CHANGE_ACCOUNT, 0, 0, 0, 0);
	answer_evidence(e, b->credits, asked_ms);

	const bool rose = as_of == 0 || b->credits > before.credits;
	if (rose || e->held_anew)
		submit_unhold(e, rose);
	e->held_anew = false;
	wire_balance_release(&before);
}

int64_t account_known_balance(struct engine *e, int64_t *as_of_ms)
{
	struct wire_balance b;
	int64_t as_of = 0, credits = -1;

	if (catalogue_balance_load(e->cat, &b, &as_of) == 0) {
		credits = as_of ? b.credits : -1;
		wire_balance_release(&b);
	}
	if (as_of_ms)
		*as_of_ms = as_of;
	return credits;
}

bool account_is_old(int64_t as_of_ms, int64_t age_ms)
{
	const int64_t age = clock_wall_ms() - as_of_ms;

	return age < 0 || age > age_ms;
}

void account_watch_balance(struct engine *e)
{
	struct refresh *r = &e->balance_refresh;

	if (!r->call && !timer_armed(&r->timer))
		timer_set(&e->timers, &r->timer, clock_mono_ms() + BALANCE_WATCH_MS);
}

static void watch_if_held(struct engine *e)
{
	int64_t counts[REQUEST_STATES];

	if (request_counts(e->cat, counts) == 0 && counts[REQUEST_HELD] > 0)
		account_watch_balance(e);
}

void account_balance_reply(struct engine *e, const struct net_reply *reply)
{
	struct wire_balance b;
	CLEANUP_FREE char *error = NULL;

	heard(e, &e->balance_outcome, reply);
	if (reply->outcome != OUTCOME_OK)
		return;
	if (wire_balance_decode(reply->body, reply->body_len, &b, &error) < 0) {
		log_warning("the hub's balance: %s", error);
		pthread_mutex_lock(&e->lock);
		e->balance_outcome = OUTCOME_UNREADABLE;
		pthread_mutex_unlock(&e->lock);
		return;
	}
	submit_heard(e, reply);
	account_balance(e, &b, reply->asked_ms);
	wire_balance_release(&b);
}

static void balance_done(void *arg, const struct net_reply *reply)
{
	struct refresh *r = arg;
	struct engine *e = r->e;

	r->call = NULL;
	e->kicked = true;
	account_balance_reply(e, reply);
	if (reply->outcome != OUTCOME_OK) {
		ask_later(r, reply);
		return;
	}
	r->delay_ms = 0;
	watch_if_held(e);
}

static void ask_balance(struct timer *timer)
{
	struct refresh *r = CONTAINER_OF(timer, struct refresh, timer);

	if (!r->call)
		r->call = net_get_credits(r->e->net, balance_done, r);
}

void account_want_balance(struct engine *e)
{
	timer_cancel(&e->timers, &e->balance_refresh.timer);
	ask_balance(&e->balance_refresh.timer);
}

static void want_balance(struct engine *e, int64_t id, void *arg)
{
	(void)id;
	(void)arg;
	account_want_balance(e);
}

void engine_want_balance(struct engine *e)
{
	int64_t as_of = 0;

	account_known_balance(e, &as_of);
	if (account_is_old(as_of, BALANCE_FRESH_MS))
		engine_post(e, want_balance, 0, NULL);
}

/* ---- both ---- */

void account_start(struct engine *e)
{
	e->models_refresh = (struct refresh){.e = e, .timer.fire = ask_models};
	e->balance_refresh = (struct refresh){.e = e, .timer.fire = ask_balance};
	ask_models(&e->models_refresh.timer);
	ask_balance(&e->balance_refresh.timer);
}

void account_release(struct engine *e)
{
	struct refresh *both[] = {&e->models_refresh, &e->balance_refresh};

	for (size_t i = 0; i < ARRAY_SIZE(both); i++) {
		timer_cancel(&e->timers, &both[i]->timer);
		if (both[i]->call)
			net_cancel(both[i]->call);
		both[i]->call = NULL;
	}
}

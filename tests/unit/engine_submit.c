/*
 * The queue and the sending, with the real net and a scripted hub: order, how many at once, the
 * gate, intents that cannot be written, references, and what leaves this machine.
 */
#include "engine_rig.h"
#include <fcntl.h>
#include <signal.h>

static struct rig r;

static int setup(void **state)
{
	(void)state;
	rig_open(&r);
	account_start(r.e);
	rig_know(&r, 100000, clock_wall_ms());
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	account_release(r.e);
	rig_close(&r);
	return 0;
}

static void in_order_and_a_bounded_number(void **state)
{
	int64_t ids[6];

	(void)state;
	for (int i = 0; i < 6; i++)
		ids[i] = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	r.e->config.sending_max = 2;
	submit_queue(r.e);
	for (int i = 0; i < 6; i++)
		assert_int_equal(rig_state(&r, ids[i]), i < 2 ? REQUEST_SENDING : REQUEST_QUEUED);
	assert_int_equal(rig_count(&r, "charge"), 2);
	submit_queue(r.e); /* no room */
	assert_int_equal(r.e->sending, 2);
	r.e->config.sending_max = 100;
	r.e->config.running_max = 3;
	submit_queue(r.e);
	assert_int_equal(r.e->sending, 3);
	/* While nobody knows whether the hub is back, one at a time. */
	r.e->config.running_max = INT32_MAX;
	r.e->gate_delay_ms = 1000;
	submit_queue(r.e);
	assert_int_equal(r.e->sending, 3);
	r.e->gate_delay_ms = 0;
	submit_pause(r.e, 60000, "asked to");
	submit_queue(r.e);
	assert_int_equal(r.e->sending, 3);
	submit_resume(r.e);
	submit_queue(r.e);
	assert_int_equal(r.e->sending, 6);
	/* All six get the same id of this hub: each comes to its state all the same. */
	rig_until(&r, r.e->sending == 0);
	for (int i = 0; i < 6; i++)
		assert_int_equal(rig_state(&r, ids[i]), REQUEST_RUNNING);
	assert_int_equal(hub_posts(r.hub), 6);
	assert_non_null(strstr(r.hub->last_post, "Idempotency-Key: key-"));
	assert_non_null(strstr(r.hub->last_post, "Authorization: Bearer gih_live_test"));
}

static void verdicts_are_carried_out(void **state)
{
	(void)state;
	const int64_t wrong = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t unpriced = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t removed = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t lost = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t wordless = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t elsewhere = rig_add(&r, REQUEST_SENDING, "1024x1024");
	struct node n;

	rig_sql(&r, "UPDATE request SET wanted = replace(wanted, 'm1', 'm9') WHERE id = 1");
	rig_sql(&r, "UPDATE request SET wanted = replace(wanted, 'm1', 'm2') WHERE id = 2");
	assert_int_equal(tree_unlink(r.cat, TREE_ROOT, "p2.prompt", &n), 0);
	rig_sql(&r, "UPDATE request SET reason = 'cut', text = 'cut', sent = 1 WHERE id IN (4, 5)");
	rig_sql(&r, "UPDATE request SET text = NULL WHERE id = 5");
	submit_queue(r.e);
	assert_int_equal(rig_state(&r, wrong), REQUEST_REFUSED);
	assert_int_equal(rig_state(&r, unpriced), REQUEST_HELD);
	assert_int_equal(rig_state(&r, removed), REQUEST_CANCELED);
	assert_int_equal(rig_state(&r, lost), REQUEST_QUEUED); /* until the hub has been heard */
	assert_int_equal(rig_state(&r, elsewhere), REQUEST_SENDING);
	rig_until(&r, r.e->keys_heard);
	assert_true(r.e->kicked);
	submit_queue(r.e);
	assert_int_equal(rig_state(&r, lost), REQUEST_UNKNOWN); /* this one knows no keys */
	assert_int_equal(rig_state(&r, wordless), REQUEST_UNKNOWN);
	assert_int_equal(hub_posts(r.hub), 0);
	assert_int_equal(rig_count(&r, "charge"), 0);
}

static void nothing_leaves_without_its_intent(void **state)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int running = net_running(r.e->net);
	struct request q;

	(void)state;
	rig_forbid(&r, "INSERT", "charge");
	submit_queue(r.e);
	rig_allow(&r);
	assert_true(timer_armed(&r.e->gate));
	submit_resume(r.e);
	/* The commit itself fails: every statement was well, and the disk was not. */
	rig_sql(&r, "CREATE TABLE parent(id INTEGER PRIMARY KEY)");
	rig_sql(&r, "CREATE TABLE child(parent INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY"
		    " DEFERRED)");
	rig_sql(&r, "CREATE TRIGGER at_commit AFTER INSERT ON charge BEGIN INSERT INTO child"
		    " VALUES(1); END");
	const int64_t events = r.events;
	submit_queue(r.e);
	rig_sql(&r, "DROP TRIGGER at_commit");
	assert_int_equal(r.events, events);
	assert_int_equal(rig_state(&r, id), REQUEST_QUEUED);
	assert_int_equal(rig_count(&r, "charge"), 0);
	assert_int_equal(r.e->sending, 0);
	assert_int_equal(net_running(r.e->net), running);
	assert_true(list_empty(&r.e->postings));
	submit_resume(r.e);
	/* Canceled between the verdict and the intent. */
	rig_sql(&r, "CREATE TRIGGER meanwhile BEFORE UPDATE ON request WHEN new.state = 'sending'"
		    " BEGIN SELECT RAISE(IGNORE); END");
	submit_queue(r.e);
	rig_sql(&r, "DROP TRIGGER meanwhile");
	assert_false(timer_armed(&r.e->gate));
	assert_int_equal(rig_count(&r, "charge"), 0);
	/* Its references cannot be read from the catalogue. */
	rig_sql(&r, "ALTER TABLE reference RENAME TO gone");
	submit_queue(r.e);
	rig_sql(&r, "ALTER TABLE gone RENAME TO reference");
	submit_resume(r.e);
	assert_int_equal(hub_posts(r.hub), 0);

	r.e->gate_delay_ms = 0;
	submit_queue(r.e);
	rig_until(&r, rig_state(&r, id) == REQUEST_RUNNING);
	assert_int_equal(hub_posts(r.hub), 1);
	assert_int_equal(request_get(r.cat, id, &q), 0);
	assert_int_equal(q.attempts, 1); /* those in vain were none */
	request_release(&q);
}

/* Syncs open the database's log by its name the first time. */
static void hide_log(bool hide)
{
	CLEANUP_FREE char *shown = xasprintf("%s/catalogue.db-wal", r.dir);
	CLEANUP_FREE char *hidden = xasprintf("%s/hidden", r.dir);

	assert_int_equal(rename(hide ? shown : hidden, hide ? hidden : shown), 0);
}

static void nothing_leaves_before_its_intent_is_on_the_disk(void **state)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t other = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int running = net_running(r.e->net);
	struct request q;

	(void)state;
	hide_log(true);
	/* Nor can it be taken back at once. */
	rig_forbid(&r, "UPDATE", "charge");
	submit_queue(r.e);
	rig_allow(&r);
	assert_int_equal(rig_state(&r, id), REQUEST_SENDING);
	assert_int_equal(rig_state(&r, other), REQUEST_QUEUED);
	assert_true(timer_armed(&r.e->gate));
	assert_int_equal(r.e->sending, 0);
	assert_int_equal(net_running(r.e->net), running);
	rig_until(&r, rig_state(&r, id) == REQUEST_QUEUED);
	assert_true(list_empty(&r.e->postings));
	submit_resume(r.e);
	submit_queue(r.e);
	hide_log(false);

	assert_int_equal(request_get(r.cat, id, &q), 0);
	assert_int_equal(q.state, REQUEST_QUEUED);
	assert_int_equal(q.attempts, 0);
	assert_false(request_may_be_charged(&q));
	assert_non_null(strstr(q.text, "not sent, as the disk did not keep"));
	request_release(&q);
	assert_int_equal(request_charges_open(r.cat, id), 0);
	assert_int_equal(rig_count(&r, "charge"), 2); /* both settled as nothing */
	assert_int_equal(hub_posts(r.hub), 0);

	submit_resume(r.e);
	r.e->gate_delay_ms = 0;
	submit_queue(r.e);
	rig_until(&r, r.e->sending == 0);
	assert_int_equal(rig_state(&r, id), REQUEST_RUNNING);
	assert_int_equal(hub_posts(r.hub), 2);
	assert_int_equal(request_charges_open(r.cat, id), 1);
}

/* Canceled while the one before it was sent. */
static void canceled_in_the_same_turn(void **state)
{
	(void)state;
	const int64_t first = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t second = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t third = rig_add(&r, REQUEST_QUEUED, "1024x1024");

	r.victim = second;
	r.changed = rig_cancel_victim;
	submit_queue(r.e);
	assert_int_equal(r.victim, 0);
	assert_int_equal(rig_state(&r, first), REQUEST_SENDING);
	assert_int_equal(rig_state(&r, second), REQUEST_CANCELED);
	assert_int_equal(rig_state(&r, third), REQUEST_SENDING);
	assert_false(timer_armed(&r.e->gate));
	rig_until(&r, r.e->sending == 0);
}

/* Nobody else asks the hub whether credits were bought. */
static void the_balance_is_watched(void **state)
{
	(void)state;
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");

	rig_until(&r, !r.e->balance_refresh.call);
	rig_know(&r, 3, clock_wall_ms());
	assert_false(timer_armed(&r.e->balance_refresh.timer));
	submit_queue(r.e);
	assert_int_equal(rig_state(&r, id), REQUEST_HELD);
	assert_true(timer_armed(&r.e->balance_refresh.timer));
	timer_set(&r.e->timers, &r.e->balance_refresh.timer, clock_mono_ms()); /* the time is over */
	rig_until(&r, rig_state(&r, id) == REQUEST_QUEUED);
}

static void waits_for_the_models(void **state)
{
	(void)state;
	rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t other = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	wire_models_release(&r.e->models);
	submit_queue(r.e);
	assert_int_equal(rig_state(&r, other), REQUEST_QUEUED);
	rig_until(&r, r.e->models.count > 0);
	assert_true(r.e->kicked);
	submit_queue(r.e);
	rig_until(&r, rig_state(&r, other) == REQUEST_RUNNING);
}

static void one_that_cannot_be_read(void **state)
{
	(void)state;
	rig_add(&r, REQUEST_QUEUED, "1024x1024");
	const int64_t other = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_sql(&r, "UPDATE request SET wanted = '' WHERE id = 1");
	submit_queue(r.e);
	assert_int_equal(rig_state(&r, other), REQUEST_SENDING);
	rig_until(&r, r.e->sending == 0);
}

/* ---- Retry-After, kept over a start ---- */

/* The queue looks at a request that may go in wait_ms. */
static void queue_in(int64_t wait_ms)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	rig_sql(&r, "UPDATE request SET not_before = 0, state = 'canceled'");
	assert_int_equal(request_get(r.cat, id, &q), 0);
	q.state = REQUEST_QUEUED;
	q.not_before_ms = clock_wall_ms() + wait_ms;
	assert_int_equal(request_change(r.cat, &q, REQUEST_CANCELED, DB_NORMAL, NULL), 0);
	request_release(&q);
	timer_cancel(&r.e->timers, &r.e->due);
	submit_queue(r.e);
}

/* That it comes back to it in least to most. The two clocks are read one after another, so some of
 * that may have passed. */
static void due_in(int64_t wait_ms, int64_t least, int64_t most)
{
	const int64_t since_ms = clock_mono_ms();

	queue_in(wait_ms);
	assert_true(timer_armed(&r.e->due));
	assert_true(r.e->due.due_ms >= since_ms + least);
	assert_true(r.e->due.due_ms <= clock_mono_ms() + most);
}

static void a_moment_of_its_own(void **state)
{
	(void)state;
	submit_queue(r.e);
	assert_false(timer_armed(&r.e->due));
	due_in(60 * 1000, 59 * 1000, 60 * 1000);
	due_in(3600 * 1000, 3590 * 1000, 3600 * 1000);
	r.e->config.sending_max = 1;
	due_in(900, 1000, 1000);
	r.e->kicked = false;
	rig_until(&r, r.e->kicked && !timer_armed(&r.e->due));
	submit_queue(r.e);
	rig_until(&r, r.e->sending == 0);
	assert_int_equal(hub_posts(r.hub), 1);
	/* The clock was set back by a day meanwhile: nobody waits for so long. */
	queue_in(86400 * 1000);
	rig_until(&r, r.e->sending == 0);
	assert_int_equal(hub_posts(r.hub), 2);
}

static void the_gate_opens_by_itself(void **state)
{
	(void)state;
	submit_pause(r.e, 50, "a moment");
	rig_until(&r, !timer_armed(&r.e->gate));
	assert_true(r.e->kicked);
	assert_null(r.e->gate_why);
}

/* ---- reference pictures ---- */

static int64_t with_reference(const char *file)
{
	CLEANUP_FREE char *name = xasprintf("p%d.prompt", r.names++);
	struct request_reference ref = {.file = (char *)file, .name = (char *)"bottle.png",
		.mime = (char *)"image/png", .size = 8};
	struct request q = {.path = name, .state = REQUEST_QUEUED, .price_low = -1, .price_high = -1,
		.charged = -1, .balance_before = -1, .balance_after = -1, .n_references = 1};
	struct node n;

	assert_int_equal(tree_create(r.cat, TREE_ROOT, name, S_IFREG | 0644, 1, 1, NULL, &n), 0);
	q.node = n.id;
	q.order = (struct order){.model = (char *)"m1", .prompt = (char *)"x", .async = true};
	snprintf(q.key, sizeof q.key, "ref-%d", r.names);
	const int dir = request_refs_create(r.cat, q.key);
	const int fd = openat(dir, "1.png", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "\x89PNG\r\n\x1a\n", 8), 8);
	close(fd);
	close(dir);
	assert_int_equal(request_insert(r.cat, &q, &ref, 1, "queued"), 0);
	return q.id;
}

static void reference_pictures(void **state)
{
	(void)state;
	const int64_t here = with_reference("1.png"), gone = with_reference("2.png");
	struct request q;

	submit_queue(r.e);
	rig_until(&r, r.e->sending == 0);
	assert_int_equal(rig_state(&r, here), REQUEST_RUNNING);
	assert_non_null(strstr(r.hub->last_post, "multipart/form-data"));
	assert_non_null(strstr(r.hub->last_post, "name=\"reference_image\"; filename=\"1.png\""));
	/* Not an empty part, and not paid for. */
	assert_int_equal(request_get(r.cat, gone, &q), 0);
	assert_int_equal(q.state, REQUEST_REFUSED);
	assert_non_null(strstr(q.text, "2.png cannot be read"));
	assert_false(request_may_be_charged(&q));
	request_release(&q);
	assert_int_equal(hub_posts(r.hub), 1);
}

/* ---- the charge of what goes again ---- */

static void a_repeat_is_one_charge(void **state)
{
	const int64_t id = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	struct request q;

	(void)state;
	r.hub->idempotent = true;
	rig_until(&r, r.e->idempotent);
	hub_say(r.hub, &r.hub->post, NULL);
	submit_queue(r.e);
	rig_until(&r, r.e->sending == 0);
	assert_int_equal(rig_state(&r, id), REQUEST_QUEUED);
	hub_say(r.hub, &r.hub->post,
		hub_answer(202, "", "{\"id\":\"gen_again0001\",\"status\":\"queued\"}"));
	submit_resume(r.e);
	submit_queue(r.e);
	rig_until(&r, rig_state(&r, id) == REQUEST_RUNNING);
	assert_int_equal(hub_posts(r.hub), 2);
	assert_int_equal(request_charges_open(r.cat, id), 1);
	assert_int_equal(request_spent_since(r.cat, 0), 8);
	assert_int_equal(request_get(r.cat, id, &q), 0);
	assert_int_equal(q.reason, OUTCOME_OK);
	request_release(&q);

	/* An approved one without a price is sent, and counts as nothing until the hub tells. */
	const int64_t unpriced = rig_add(&r, REQUEST_QUEUED, "1024x1024");
	rig_sql(&r, "UPDATE request SET wanted = replace(wanted, 'm1', 'm2'), approved = 1 WHERE id = 2");
	submit_queue(r.e);
	rig_until(&r, rig_state(&r, unpriced) == REQUEST_RUNNING);
	assert_int_equal(request_spent_since(r.cat, 0), 8);
}

/* ---- what is known of the API key ---- */

static void another_key_is_another_account(void **state)
{
	const int64_t since = r.e->key_since_ms;
	CLEANUP_FREE char *url = xstrdup(r.hub->url);
	struct engine_config c = {.hub = url, .key = "gih_live_test", .max_spend = -1};

	(void)state;
	account_release(r.e);
	rig_close_state(&r);
	rig_open_state(&r, &c);
	assert_int_equal(r.e->key_since_ms, since);
	rig_sql(&r, "DELETE FROM setting WHERE name = 'key_since'"); /* half of it is none */
	rig_close_state(&r);
	rig_open_state(&r, &c);
	assert_true(r.e->key_since_ms >= since);
	rig_close_state(&r);

	const int64_t before = clock_wall_ms();
	c.key = NULL;
	rig_open_state(&r, &c);
	assert_true(r.e->key_since_ms >= before);
	rig_close_state(&r);
	rig_open_state(&r, &c);
	/* What cannot be noted counts as new at the next start. */
	rig_forbid(&r, "INSERT", "setting");
	c.key = "gih_live_other";
	engine_destroy(r.e);
	CLEANUP_FREE char *cache = files_join(r.dir, "cache");
	c.cache_dir = cache;
	r.e = engine_create(&c, r.cat, NULL, NULL);
	rig_allow(&r);
	assert_non_null(r.e);
	account_start(r.e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_order_and_a_bounded_number, setup, teardown),
		cmocka_unit_test_setup_teardown(verdicts_are_carried_out, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_leaves_without_its_intent, setup, teardown),
		cmocka_unit_test_setup_teardown(
			nothing_leaves_before_its_intent_is_on_the_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(canceled_in_the_same_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(the_balance_is_watched, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_for_the_models, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_cannot_be_read, setup, teardown),
		cmocka_unit_test_setup_teardown(a_moment_of_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(the_gate_opens_by_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(reference_pictures, setup, teardown),
		cmocka_unit_test_setup_teardown(a_repeat_is_one_charge, setup, teardown),
		cmocka_unit_test_setup_teardown(another_key_is_another_account, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

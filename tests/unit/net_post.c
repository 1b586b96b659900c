/*
 * Calls of the API over the real libcurl: the guard of the paid POST, what counts as having left, and
 * what each way to fail is called.
 */
#include "base/clock.h"
#include "base/names.h"
#include "net/internal.h"
#include "scripted_hub.h"
#include <signal.h>

static struct scripted_hub *hub;
static struct net *net;

static struct {
	bool done;
	enum outcome outcome;
	int http;
	bool sent, idempotent;
	int64_t retry_after_ms;
	char message[600], body[400];
} got;

static void taken(void *arg, const struct net_reply *reply)
{
	(void)arg;
	got.done = true;
	got.outcome = reply->outcome;
	got.http = reply->http;
	got.sent = reply->sent;
	got.idempotent = reply->idempotent;
	got.retry_after_ms = reply->retry_after_ms;
	snprintf(got.message, sizeof got.message, "%s", reply->message ? reply->message : "");
	snprintf(got.body, sizeof got.body, "%s", reply->body);
	assert_true(reply->outcome == OUTCOME_OK || reply->message);
}

static void open_net(const char *url, const char *key)
{
	char *error = NULL;

	net = net_create(&(struct net_config){.hub = url, .key = key, .post_total_ms = 30000}, &error);
	assert_null(error);
	got.done = false;
}

static int setup(void **state)
{
	(void)state;
	hub = hub_start();
	open_net(hub->url, "gih_live_test");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	net_destroy(net);
	hub_stop(hub);
	return 0;
}

static void run(void)
{
	const int64_t end = clock_mono_ms() + 60 * 1000;

	while (!got.done) {
		assert_true(clock_mono_ms() < end);
		net_run(net, 10);
	}
}

static void post(void)
{
	const struct order order = {.model = (char *)"m1", .prompt = (char *)"x", .async = true};

	got.done = false;
	net_post_send(net_post_order(net, &order, NULL, 0, "key-0", taken, NULL, NULL));
	run();
}

static void say(char *answer)
{
	hub_say(hub, &hub->post, answer);
}

static void second_sending_is_never_let_out(void **state)
{
	struct net_call c = {.kind = CALL_POST};

	(void)state;
	assert_int_equal(post_before_request(&c, NULL, NULL, 0, 0), CURL_PREREQFUNC_OK);
	assert_false(c.second_try);
	for (int i = 0; i < 3; i++)
		assert_int_equal(post_before_request(&c, NULL, NULL, 0, 0), CURL_PREREQFUNC_ABORT);
	assert_true(c.second_try);
	/* And it is told as what it is: an answer that was lost. */
	assert_int_equal(outcome_of(&c, CURLE_ABORTED_BY_CALLBACK), OUTCOME_CUT);
	CLEANUP_FREE char *message = message_of(&c, CURLE_ABORTED_BY_CALLBACK);
	assert_string_equal(message, "the connection ended without an answer");
}

static void what_leaves(void **state)
{
	(void)state;
	say(hub_answer(202, "Retry-After: 7\r\nIdempotency: supported\r\n", "{\"id\":\"x\"}"));
	post();
	assert_int_equal(got.outcome, OUTCOME_OK);
	assert_int_equal(got.http, 202);
	assert_true(got.sent && got.idempotent);
	assert_int_equal(got.retry_after_ms, 7000);
	assert_string_equal(got.body, "{\"id\":\"x\"}");
	assert_non_null(strstr(hub->last_post, "POST /api/v1/images/generations HTTP/1.1\r\n"));
	assert_non_null(strstr(hub->last_post, "Idempotency-Key: key-0\r\n"));
	assert_null(strstr(hub->last_post, "Expect:"));
	assert_non_null(strstr(hub->last_post, "\"async\":true"));
	assert_int_equal(net_running(net), 0);
}

static void certainly_not_left(void **state)
{
	const struct order order = {.prompt = (char *)"x"};
	const struct net_reference gone = {"/nonexistent/1.png", "1.png", "image/png"};
	char *error = NULL;

	(void)state;
	/* A reference that is not there, and a call that was dropped before it was sent. */
	assert_null(net_post_order(net, &order, &gone, 1, "key-0", taken, NULL, &error));
	assert_string_equal(error, "the reference picture 1.png cannot be read");
	free(error);
	net_cancel(net_post_order(net, &order, NULL, 0, "key-0", taken, NULL, NULL));
	assert_int_equal(net_running(net), 0);

	CLEANUP_FREE char *url = xstrdup(hub->url);
	CLEANUP_FREE char *tls = xasprintf("https%s", strchr(url, ':'));
	net_destroy(net);
	open_net(tls, "gih_live_test"); /* it speaks no TLS */
	post();
	assert_int_equal(got.outcome, OUTCOME_TLS);
	assert_false(got.sent);

	hub_hang_up(hub);
	net_destroy(net);
	open_net(url, NULL);
	post();
	assert_int_equal(got.outcome, OUTCOME_NO_CONNECTION);
	assert_false(got.sent);
	assert_int_equal(hub_posts(hub), 0);
}

static void may_have_left(void **state)
{
	const struct order order = {.prompt = (char *)"x"};
	char *huge = xmalloc(WIRE_BODY_MAX + 2);

	(void)state;
	memset(huge, 'x', WIRE_BODY_MAX + 1);
	huge[WIRE_BODY_MAX + 1] = '\0';
	const struct {
		char *answer;
		enum outcome outcome;
	} cases[] = {
		{NULL, OUTCOME_CUT},
		{xstrdup("\x01\x02\x03 garbage\r\n\r\n"), OUTCOME_HOSTILE},
		{xstrdup("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), OUTCOME_CUT},
		{xstrdup("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{"), OUTCOME_UNREADABLE},
		{hub_answer(200, "", huge), OUTCOME_UNREADABLE},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		say(cases[i].answer);
		post();
		assert_true(got.sent);
		assert_int_equal(got.outcome, cases[i].outcome);
		assert_int_equal(hub_posts(hub), (int)i + 1);
		assert_true(names_is_utf8(got.message, strlen(got.message)));
	}
	free(huge);

	/* One that was sent is not cancelled. */
	got.done = false;
	struct net_call *call = net_post_order(net, &order, NULL, 0, "key-0", taken, NULL, NULL);
	net_post_send(call);
	net_cancel(call);
	run();
	assert_int_equal(hub_posts(hub), (int)ARRAY_SIZE(cases) + 1);
}

static const struct {
	int status;
	const char *headers, *body;
	enum outcome outcome;
	const char *message;
} refusals[] = {
	{400, "", "{\"error\":{\"message\":\"Invalid size\",\"code\":\"invalid_request\"}}",
		OUTCOME_INVALID_REQUEST, "Invalid size"},
	{401, "", "{\"error\":{\"message\":\"x\",\"code\":\"missingApiKey\"}}", OUTCOME_MISSING_KEY, "x"},
	{401, "", "{\"error\":{\"message\":\"x\",\"code\":\"expiredApiKey\"}}", OUTCOME_EXPIRED_KEY, "x"},
	{401, "", "", OUTCOME_INVALID_KEY, NULL},
	{402, "", "{\"error\":{\"code\":\"insufficientCredits\"}}", OUTCOME_NO_CREDITS, NULL},
	{402, "", "<html>", OUTCOME_NO_CREDITS, NULL},
	{403, "", "<html>", OUTCOME_FORBIDDEN, NULL},
	{404, "", "", OUTCOME_NOT_FOUND, NULL},
	{408, "", "", OUTCOME_REFUSED, NULL},
	{409, "", "{\"message\":\"conflict\"}", OUTCOME_REFUSED, "conflict"},
	{413, "", "<html>too large", OUTCOME_TOO_LARGE, NULL},
	{422, "", "\xff\xfe", OUTCOME_REFUSED, NULL},
	{425, "", "", OUTCOME_REFUSED, NULL},
	{429, "Retry-After: 12\r\n", "", OUTCOME_RATE_LIMITED, NULL},
	{500, "", "{\"error\":{\"message\":\"It failed\",\"code\":\"generationFailed\"}}",
		OUTCOME_GENERATION_FAILED, "It failed"},
	{500, "", "", OUTCOME_SERVER_ERROR, NULL},
	{502, "", "<html>Bad gateway", OUTCOME_SERVER_ERROR, NULL},
	{503, "Retry-After: 12\r\n", "{\"error\":\"maintenance\"}", OUTCOME_SERVER_ERROR, "maintenance"},
	{504, "", "{\"error\":{\"code\":\"504\",\"message\":\"timed out\"}}", OUTCOME_SERVER_ERROR,
		"timed out"},
	{302, "Location: http://127.0.0.1:1/\r\n", "", OUTCOME_UNREADABLE, NULL},
	{299, "", "", OUTCOME_OK, ""},
	{300, "", "", OUTCOME_UNREADABLE, NULL},
};

static void every_status(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		CLEANUP_FREE char *general = xasprintf("%s (HTTP %d)",
			outcome_fact(refusals[i].outcome)->word, refusals[i].status);

		say(hub_answer(refusals[i].status, refusals[i].headers, refusals[i].body));
		post();
		assert_int_equal(got.outcome, refusals[i].outcome);
		assert_int_equal(got.http, refusals[i].status);
		assert_true(got.sent);
		assert_int_equal(got.retry_after_ms, refusals[i].headers[0] == 'R' ? 12000 : -1);
		assert_string_equal(got.message, refusals[i].message ? refusals[i].message : general);
	}
	assert_int_equal(hub_posts(hub), (int)ARRAY_SIZE(refusals));
}

/* A long message is cut between two characters. */
static void long_messages(void **state)
{
	char text[1300];

	(void)state;
	snprintf(text, sizeof text, "{\"message\":\"x%*s\"}", 600, "");
	for (char *p = strchr(text, 'x') + 1; *p == ' '; p += 2)
		memcpy(p, "é", 2);
	say(hub_answer(400, "", text));
	post();
	assert_int_equal(strlen(got.message), 499);
	assert_true(names_is_utf8(got.message, strlen(got.message)));
}

static int64_t retry_after(const char *value)
{
	CLEANUP_FREE char *header = xasprintf("Retry-After:%s\r\n", value);

	say(hub_answer(429, header, ""));
	post();
	return got.retry_after_ms;
}

static void retry_after_in_every_form(void **state)
{
	char date[64];
	const time_t soon = time(NULL) + 30;

	(void)state;
	strftime(date, sizeof date, " %a, %d %b %Y %H:%M:%S GMT", gmtime(&soon));
	assert_in_range(retry_after(date), 20000, 30000);
	assert_int_equal(retry_after(" Wed, 21 Oct 2015 07:28:00 GMT"), 0);
	assert_int_equal(retry_after(" Fri, 31 Dec 2199 23:59:59 GMT"), 3600 * 1000);
	assert_int_equal(retry_after(" 5"), 5000);
	assert_int_equal(retry_after("5"), 5000);
	assert_int_equal(retry_after(" -5"), 0);
	assert_int_equal(retry_after(" 99999999999999999999"), 3600 * 1000);
	assert_int_equal(retry_after(" soon"), -1);
	assert_int_equal(retry_after(""), -1);
}

static void what_failures_are_called(void **state)
{
	const struct {
		CURLcode code;
		enum outcome outcome;
	} codes[] = {
		{CURLE_OK, OUTCOME_OK},
		{CURLE_COULDNT_RESOLVE_HOST, OUTCOME_NO_HOST},
		{CURLE_COULDNT_RESOLVE_PROXY, OUTCOME_NO_HOST},
		{CURLE_COULDNT_CONNECT, OUTCOME_NO_CONNECTION},
		{CURLE_PROXY, OUTCOME_NO_CONNECTION},
		{CURLE_SSL_CONNECT_ERROR, OUTCOME_TLS},
		{CURLE_PEER_FAILED_VERIFICATION, OUTCOME_TLS},
		{CURLE_SSL_CACERT_BADFILE, OUTCOME_TLS},
		{CURLE_SSL_CERTPROBLEM, OUTCOME_TLS},
		{CURLE_SSL_ISSUER_ERROR, OUTCOME_TLS},
		{CURLE_OPERATION_TIMEDOUT, OUTCOME_TIMEOUT},
		{CURLE_UNSUPPORTED_PROTOCOL, OUTCOME_HOSTILE},
		{CURLE_TOO_MANY_REDIRECTS, OUTCOME_HOSTILE},
		{CURLE_URL_MALFORMAT, OUTCOME_HOSTILE},
		{CURLE_WEIRD_SERVER_REPLY, OUTCOME_UNREADABLE},
		{CURLE_BAD_CONTENT_ENCODING, OUTCOME_UNREADABLE},
		{CURLE_HTTP2, OUTCOME_UNREADABLE},
		{CURLE_HTTP2_STREAM, OUTCOME_UNREADABLE},
		{CURLE_OUT_OF_MEMORY, OUTCOME_LOCAL},
		{CURLE_READ_ERROR, OUTCOME_LOCAL},
		{CURLE_ABORTED_BY_CALLBACK, OUTCOME_LOCAL},
		{CURLE_GOT_NOTHING, OUTCOME_CUT},
		{CURLE_SEND_ERROR, OUTCOME_CUT},
		{CURLE_RECV_ERROR, OUTCOME_CUT},
		{CURLE_PARTIAL_FILE, OUTCOME_CUT},
	};
	struct net_call c = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		assert_int_equal(outcome_of(&c, codes[i].code), codes[i].outcome);
		CLEANUP_FREE char *message = message_of(&c, codes[i].code);
		assert_string_equal(message, curl_easy_strerror(codes[i].code));
	}
	snprintf(c.error, sizeof c.error, "in its own words");
	CLEANUP_FREE char *own = message_of(&c, CURLE_RECV_ERROR);
	assert_string_equal(own, c.error);
	c.forbidden_address = true;
	assert_int_equal(outcome_of(&c, CURLE_COULDNT_CONNECT), OUTCOME_HOSTILE);
	CLEANUP_FREE char *private = message_of(&c, CURLE_COULDNT_CONNECT);
	assert_non_null(strstr(private, "private network"));
	c.too_large = true;
	assert_int_equal(outcome_of(&c, CURLE_OK), OUTCOME_UNREADABLE);
}

static void get(struct net_call *call)
{
	(void)call;
	run();
	got.done = false;
}

static void questions(void **state)
{
	CLEANUP_FREE char *own = xasprintf("%s/api/v1/generations/elsewhere", hub->url);

	(void)state;
	get(net_get_models(net, taken, NULL));
	assert_int_equal(got.outcome, OUTCOME_OK);
	get(net_get_credits(net, taken, NULL));
	assert_non_null(strstr(got.body, "500"));
	get(net_get_generation(net, "gen_00000001", NULL, taken, NULL));
	assert_int_equal(got.outcome, OUTCOME_NOT_FOUND);
	get(net_get_generation(net, "gen_00000001", own, taken, NULL));
	assert_int_equal(got.outcome, OUTCOME_NOT_FOUND);
	get(net_get_generation(net, "gen_00000001", "http://elsewhere.invalid/", taken, NULL));
	assert_int_equal(got.outcome, OUTCOME_NOT_FOUND);
	assert_true(got.sent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(second_sending_is_never_let_out),
		cmocka_unit_test_setup_teardown(what_leaves, setup, teardown),
		cmocka_unit_test_setup_teardown(certainly_not_left, setup, teardown),
		cmocka_unit_test_setup_teardown(may_have_left, setup, teardown),
		cmocka_unit_test_setup_teardown(every_status, setup, teardown),
		cmocka_unit_test_setup_teardown(long_messages, setup, teardown),
		cmocka_unit_test_setup_teardown(retry_after_in_every_form, setup, teardown),
		cmocka_unit_test(what_failures_are_called),
		cmocka_unit_test_setup_teardown(questions, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

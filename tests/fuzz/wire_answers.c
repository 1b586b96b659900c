/*
 * A body that a hub answers with, read as each of the answers that there are. Whatever it is, it is
 * read or refused with words, what is read can be relied on, and it takes memory in proportion.
 */
#include "fuzz.h"
#include "memory.h"
#include "wire/wire.h"
#include <errno.h>

enum { PRETTY_TIMES = 64, PRETTY_MORE = 4096 };

static void as_generation(const char *json, size_t len)
{
	struct wire_generation g, again;
	char *error = NULL;

	if (wire_generation_decode(json, len, &g, &error) < 0) {
		fuzz_words(error);
		HOLDS(memcmp(&g, &(struct wire_generation){0}, sizeof g) == 0);
		return free(error);
	}
	HOLDS(!error && names_is_hub_id(g.id) && strlen(g.status) <= 64);
	HOLDS(g.n_images <= 4 * WIRE_IMAGES_MAX && (g.phase != PHASE_SUCCEEDED || g.n_images > 0));
	HOLDS(g.credits >= -1 && g.credits_requested >= -1 && g.balance.credits >= -1);
	for (size_t i = 0; i < g.n_images; i++)
		fuzz_words(g.images[i].url);

	/* As imagehubd would write it, and read again. */
	char *once = wire_generation_encode(&g);
	HOLDS(wire_generation_decode(once, strlen(once), &again, &error) == 0);
	HOLDS(again.phase == g.phase && again.n_images == g.n_images);
	char *twice = wire_generation_encode(&again);
	HOLDS(strcmp(once, twice) == 0);
	free(once);
	free(twice);
	wire_generation_release(&again);
	wire_generation_release(&g);
	fuzz_accepted++;
}

static void model_holds(const struct wire_models *models, const struct wire_model *m, size_t len)
{
	static const char *const sizes[] = {NULL, "auto", "1024x1024", "3840x2160"};
	int64_t low, high;

	HOLDS(*m->id && m->id[0] != '.' && !strchr(m->id, '/') && strlen(m->id) <= 128);
	HOLDS(wire_models_find(models, m->id) == m); /* no other has its id */
	HOLDS(m->reference_limit >= -1);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		const bool known = wire_price(m, sizes[i], WIRE_IMAGES_MAX, &low, &high);

		HOLDS(known == (m->n_prices > 0));
		HOLDS(!known || (low >= 0 && low <= high));
	}
	const size_t shown = strlen(m->raw);
	HOLDS(shown > 1 && m->raw[shown - 1] == '\n');
	HOLDS(shown <= PRETTY_TIMES * len + PRETTY_MORE);
}

static void as_models(const char *json, size_t len)
{
	struct wire_models m;
	char *error = NULL;

	if (wire_models_decode(json, len, &m, &error) < 0) {
		fuzz_words(error);
		HOLDS(!m.items && m.count == 0);
		return free(error);
	}
	HOLDS(!error && m.count <= WIRE_MODELS_MAX);
	for (size_t i = 0; i < m.count; i++)
		model_holds(&m, &m.items[i], len);
	wire_models_release(&m);
	fuzz_accepted++;
}

static void as_balance(const char *json, size_t len)
{
	struct wire_balance b, again;
	char *error = NULL;

	if (wire_balance_decode(json, len, &b, &error) < 0) {
		fuzz_words(error);
		return free(error);
	}
	HOLDS(!error && b.credits >= 0);
	CLEANUP_FREE char *text = wire_balance_encode(&b);
	HOLDS(wire_balance_decode(text, strlen(text), &again, &error) == 0);
	HOLDS(again.credits == b.credits && fuzz_same(again.account_type, b.account_type));
	HOLDS(fuzz_same(again.next_expiration, b.next_expiration));
	CLEANUP_FREE char *shown = wire_account_encode(&b, 0);
	CLEANUP_FREE char *pretty = wire_pretty(shown, strlen(shown));
	HOLDS(fuzz_same(shown, pretty));
	wire_balance_release(&again);
	wire_balance_release(&b);
	fuzz_accepted++;
}

static void as_error(const char *json, size_t len)
{
	struct wire_error e, again;

	if (!wire_error_decode(json, len, &e))
		return;
	for (int status = 100; status < 600; status += 7)
		HOLDS(outcome_from_http(status, e.code) != OUTCOME_OK);
	if (e.message) {
		CLEANUP_FREE char *text = wire_error_encode(e.message, e.code);

		HOLDS(wire_error_decode(text, strlen(text), &again));
		HOLDS(fuzz_same(again.message, e.message) && fuzz_same(again.code, e.code));
		wire_error_release(&again);
	}
	wire_error_release(&e);
}

static void as_shown(const char *json, size_t len)
{
	CLEANUP_FREE char *once = wire_pretty(json, len);
	CLEANUP_FREE char *twice = once ? wire_pretty(once, strlen(once)) : NULL;

	HOLDS(!once || strlen(once) <= PRETTY_TIMES * len + PRETTY_MORE);
	HOLDS(!once || strlen(once) > WIRE_BODY_MAX || fuzz_same(once, twice));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *json = (const char *)data;
	void (*const as[])(const char *, size_t) = {
		as_generation, as_models, as_balance, as_error, as_shown};

	for (size_t i = 0; i < ARRAY_SIZE(as); i++) {
		memory_begin();
		as[i](json, size);
		HOLDS(memory_peak() <= 256 * size + 64 * 1024);
	}
	return 0;
}

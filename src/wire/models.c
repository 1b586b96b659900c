#include "wire/json.h"
#include "wire/wire.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

enum { WORDS_MAX = 64, PRICES_MAX = 16 };
enum { TIER_1K_PIXELS = 1700000, TIER_2K_PIXELS = 4400000 };

static void words_free(char **words)
{
	for (size_t i = 0; words && words[i]; i++)
		free(words[i]);
	free(words);
}

static void model_release(struct wire_model *m)
{
	free(m->id);
	free(m->name);
	free(m->provider);
	words_free(m->qualities);
	words_free(m->ratios);
	words_free(m->tiers);
	for (size_t i = 0; i < m->n_prices; i++)
		free(m->prices[i].tier);
	free(m->prices);
	free(m->raw);
}

void wire_models_release(struct wire_models *m)
{
	for (size_t i = 0; i < m->count; i++)
		model_release(&m->items[i]);
	free(m->items);
	*m = (struct wire_models){0};
}

/* ---- decoding ---- */

static bool is_file_name(const char *id)
{
	const size_t len = strnlen(id, 129);

	if (len == 0 || len > 128 || id[0] == '.')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii((unsigned char)id[i]) ||
			(!isalnum((unsigned char)id[i]) && !strchr("._-", id[i])))
			return false;
	return true;
}

static char **decode_words(const json_t *array)
{
	const size_t n = json_array_size(array);
	char **words;
	size_t count = 0;

	if (!json_is_array(array))
		return NULL;
	words = xcalloc((n < WORDS_MAX ? n : WORDS_MAX) + 1, sizeof *words);
	for (size_t i = 0; i < n && count < WORDS_MAX; i++) {
		const char *word = json_string_value(json_array_get(array, i));

		if (word)
			words[count++] = xstrdup(word);
	}
	return words;
}

static void add_price(struct wire_model *m, const char *tier, const json_t *value)
{
	const double credits = json_number_value(value);

	if (!json_is_number(value) || !(credits >= 0) || credits > 1e9 || m->n_prices >= PRICES_MAX)
		return;
	/* A fraction of a credit counts as a whole one: a price is never taken too low. */
	const int64_t whole = (int64_t)credits + (credits > (double)(int64_t)credits);

	m->prices = xrealloc(m->prices, (m->n_prices + 1) * sizeof *m->prices);
	m->prices[m->n_prices++] = (struct wire_tier_price){xstrdup_or_null(tier), whole};
}

static void decode_prices(struct wire_model *m, json_t *prices)
{
	const char *tier;
	json_t *value;

	if (json_is_number(prices))
		add_price(m, NULL, prices);
	json_object_foreach (prices, tier, value)
		add_price(m, tier, value);
}

static bool decode_model(
	const json_t *object, const struct wire_models *others, struct wire_model *m)
{
	const char *id = json_string_value(json_object_get(object, "id"));

	if (!id || !is_file_name(id) || wire_models_find(others, id))
		return false;
	*m = (struct wire_model){
		.id = xstrdup(id),
		.name = json_text(object, "name"),
		.provider = json_text(object, "provider"),
		.qualities = decode_words(json_object_get(object, "supported_qualities")),
		.ratios = decode_words(json_object_get(object, "supported_aspect_ratios")),
		.tiers = decode_words(json_object_get(object, "supported_tiers")),
		.reference_limit = (int)json_count(object, "reference_image_limit", -1),
	};
	if (json_count(object, "reference_image_limit", -1) > 10000)
		m->reference_limit = 10000;
	decode_prices(m, json_object_get(object, "credits_per_image"));

	m->raw = json_pretty(object);
	return true;
}

int wire_models_decode(const char *json, size_t len, struct wire_models *out, char **error)
{
	CLEANUP_FREE char *why = NULL;
	CLEANUP_JSON json_t *top = json_parse(json, len, &why);
	const json_t *list = top;

	*out = (struct wire_models){0};
	if (!top)
		return fail(error, -EPROTO, "the hub's list of models is %s", why);
	if (json_is_object(top)) {
		list = json_object_get(top, "data");
		if (!json_is_array(list))
			list = json_object_get(top, "models");
	}
	if (!json_is_array(list))
		return fail(error, -EPROTO, "the hub's answer is no list of models");

	const size_t n = json_array_size(list);
	out->items = xcalloc(n < WIRE_MODELS_MAX ? n : WIRE_MODELS_MAX, sizeof *out->items);
	for (size_t i = 0; i < n && out->count < WIRE_MODELS_MAX; i++)
		if (decode_model(json_array_get(list, i), out, &out->items[out->count]))
			out->count++;
	return 0;
}

const struct wire_model *wire_models_find(const struct wire_models *m, const char *id)
{
	for (size_t i = 0; i < m->count; i++)
		if (strcmp(m->items[i].id, id) == 0)
			return &m->items[i];
	return NULL;
}

/* ---- prices ---- */

const char *wire_tier(const char *size)
{
	int width, height;

	if (!order_pixels(size, &width, &height))
		return "1K";
	const int64_t pixels = (int64_t)width * height;
	return pixels <= TIER_1K_PIXELS ? "1K" : pixels <= TIER_2K_PIXELS ? "2K" : "4K";
}

bool wire_price(const struct wire_model *m, const char *size, int n, int64_t *low, int64_t *high)
{
	int width, height;
	const bool exact = order_pixels(size, &width, &height);
	const char *tier = wire_tier(size);

	*low = *high = -1;
	for (size_t i = 0; i < m->n_prices; i++) {
		const struct wire_tier_price *p = &m->prices[i];
		const int64_t credits = p->credits * n;

		if (p->tier && exact && strcmp(p->tier, tier) == 0) {
			*low = *high = credits;
			return true;
		}
		if (*low < 0 || credits < *low)
			*low = credits;
		if (credits > *high)
			*high = credits;
	}
	return *low >= 0;
}

/* ---- encoding ---- */

static json_t *encode_words(char *const *words)
{
	json_t *array = json_array();

	for (size_t i = 0; words && words[i]; i++)
		json_array_append_new(array, json_string(words[i]));
	return array;
}

static json_t *encode_prices(const struct wire_model *m)
{
	json_t *prices;

	if (m->n_prices == 1 && !m->prices[0].tier)
		return json_integer(m->prices[0].credits);
	prices = json_object();
	for (size_t i = 0; i < m->n_prices; i++)
		json_object_set_new(prices, m->prices[i].tier, json_integer(m->prices[i].credits));
	return prices;
}

static json_t *encode_model(const struct wire_model *m)
{
	return json_pack("{s:s, s:s, s:s?, s:s?, s:o, s:o, s:o, s:i, s:o}", "id", m->id, "object",
		"model", "name", m->name, "provider", m->provider, "supported_aspect_ratios",
		encode_words(m->ratios), "supported_qualities", encode_words(m->qualities),
		"supported_tiers", encode_words(m->tiers), "reference_image_limit",
		m->reference_limit, "credits_per_image", encode_prices(m));
}

char *wire_models_encode(const struct wire_models *m)
{
	json_t *data = json_array();

	for (size_t i = 0; i < m->count; i++)
		json_array_append_new(data, encode_model(&m->items[i]));
	return json_dump_free(json_pack("{s:s, s:o}", "object", "list", "data", data),
		JSON_COMPACT);
}

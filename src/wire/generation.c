#include "base/clock.h"
#include "base/names.h"
#include "wire/json.h"
#include "wire/wire.h"
#include <errno.h>

enum { IMAGES_TAKEN = WIRE_IMAGES_MAX * 4 };

enum phase wire_phase(const char *status)
{
	static const char *const good[] = {"succeeded", "completed"};
	static const char *const bad[] = {
		"failed", "error", "canceled", "cancelled", "expired", "rejected"};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (strcmp(good[i], status) == 0)
			return PHASE_SUCCEEDED;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (strcmp(bad[i], status) == 0)
			return PHASE_FAILED;
	return PHASE_PENDING;
}

void wire_generation_release(struct wire_generation *g)
{
	for (size_t i = 0; i < g->n_images; i++) {
		free(g->images[i].id);
		free(g->images[i].url);
	}
	free(g->images);
	free(g->id);
	free(g->status);
	free(g->model);
	free(g->aspect_ratio);
	free(g->quality);
	free(g->poll_url);
	free(g->prompt);
	free(g->error_message);
	free(g->error_code);
	wire_balance_release(&g->balance);
	*g = (struct wire_generation){0};
}

/* ---- decoding ---- */

static void decode_images(struct wire_generation *g, const json_t *images)
{
	const size_t n = json_array_size(images);

	g->images = xcalloc(n < IMAGES_TAKEN ? n : IMAGES_TAKEN, sizeof *g->images);
	for (size_t i = 0; i < n && g->n_images < IMAGES_TAKEN; i++) {
		const json_t *image = json_array_get(images, i);
		const char *url = json_string_value(json_object_get(image, "url"));

		if (!url || !*url)
			continue;
		g->images[g->n_images++] = (struct wire_image){
			.id = json_text(image, "id"),
			.url = xstrdup(url),
			.created_ms = json_time(image, "created_at"),
		};
	}
}

static void decode_error(struct wire_generation *g, const json_t *error)
{
	if (json_is_string(error)) {
		g->error_message = xstrdup(json_string_value(error));
	} else if (json_is_object(error)) {
		g->error_message = json_text(error, "message");
		g->error_code = json_text(error, "code");
	}
}

static void decode_balance(struct wire_generation *g, const json_t *object)
{
	const json_t *balance = json_object_get(object, "balance");

	g->balance.credits = json_count(balance, "credits", -1);
	g->balance.account_type = json_text(balance, "account_type");
	g->balance.next_expiration = json_text(balance, "next_expiration");
}

static void decode_members(struct wire_generation *g, const json_t *object)
{
	const json_t *usage = json_object_get(object, "usage");

	g->model = json_text(object, "model");
	g->aspect_ratio = json_text(object, "aspect_ratio");
	g->quality = json_text(object, "quality");
	g->poll_url = json_text(object, "poll_url");
	g->prompt = json_text(object, "prompt");
	g->created_ms = json_time(object, "created_at");
	g->credits = json_cost(usage, "credits", -1);
	g->credits_requested = json_cost(usage, "credits_requested", -1);
	decode_images(g, json_object_get(object, "images"));
	decode_error(g, json_object_get(object, "error"));
	decode_balance(g, object);
	g->phase = wire_phase(g->status);
	if (g->phase == PHASE_SUCCEEDED && g->n_images == 0)
		g->phase = PHASE_FAILED;
}

int wire_generation_decode(const char *json, size_t len, struct wire_generation *out, char **error)
{
	CLEANUP_FREE char *why = NULL;
	CLEANUP_JSON json_t *object = json_parse(json, len, &why);

	*out = (struct wire_generation){0};
	if (!object)
		return fail(error, -EPROTO, "the hub's answer is %s", why);
	const char *id = json_string_value(json_object_get(object, "id"));
	const char *status = json_string_value(json_object_get(object, "status"));

	if (!id || !status)
		return fail(error, -EPROTO, "the hub's answer has no id or no status");
	if (!names_is_hub_id(id))
		return fail(error, -EPROTO,
			"the hub's answer has an id that cannot be a file name, and is not used");
	if (strlen(status) > 64)
		return fail(error, -EPROTO, "the hub's answer has a status that is no word");
	out->id = xstrdup(id);
	out->status = xstrdup(status);
	decode_members(out, object);
	return 0;
}

/* ---- encoding ---- */

static void put_text(json_t *object, const char *name, const char *value)
{
	if (value)
		json_object_set_new(object, name, json_string(value));
}

static void put_time(json_t *object, const char *name, int64_t ms)
{
	char text[CLOCK_TEXT_SIZE];

	if (ms != 0)
		json_object_set_new(object, name, json_string(clock_format_iso(ms, text)));
}

static json_t *encode_images(const struct wire_generation *g)
{
	json_t *images = json_array();

	for (size_t i = 0; i < g->n_images; i++) {
		json_t *image = json_object();

		put_text(image, "id", g->images[i].id);
		put_text(image, "object", "image");
		put_text(image, "url", g->images[i].url);
		put_time(image, "created_at", g->images[i].created_ms);
		json_array_append_new(images, image);
	}
	return images;
}

static json_t *encode_usage(const struct wire_generation *g)
{
	json_t *usage = json_object();

	json_object_set_new(usage, "credits", json_integer(g->credits < 0 ? 0 : g->credits));
	if (g->credits_requested >= 0)
		json_object_set_new(usage, "credits_requested", json_integer(g->credits_requested));
	return usage;
}

char *wire_generation_encode(const struct wire_generation *g)
{
	json_t *object = json_object();

	put_text(object, "object", "image_generation");
	put_text(object, "id", g->id);
	put_text(object, "status", g->status);
	put_text(object, "model", g->model);
	put_text(object, "aspect_ratio", g->aspect_ratio);
	put_text(object, "quality", g->quality);
	put_time(object, "created_at", g->created_ms);
	json_object_set_new(object, "images", encode_images(g));
	json_object_set_new(object, "usage", encode_usage(g));
	put_text(object, "poll_url", g->poll_url);
	if (g->balance.credits >= 0 && g->balance.account_type)
		json_object_set_new(object, "balance",
			json_pack("{s:I, s:s, s:s?}", "credits", (json_int_t)g->balance.credits,
				"account_type", g->balance.account_type, "next_expiration",
				g->balance.next_expiration));
	if (g->error_message || g->error_code)
		json_object_set_new(object, "error",
			json_pack("{s:s?, s:s?}", "message", g->error_message, "code",
				g->error_code));
	return json_dump_free(object, JSON_COMPACT);
}

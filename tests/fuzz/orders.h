/* What must hold of an order that is accepted, whoever it comes from. */
#ifndef FUZZ_ORDERS_H
#define FUZZ_ORDERS_H

#include "fuzz.h"
#include "wire/wire.h"

static inline bool order_equal(const struct order *a, const struct order *b)
{
	return fuzz_same(a->model, b->model) && fuzz_same(a->prompt, b->prompt) &&
		fuzz_same(a->size, b->size) && fuzz_same(a->quality, b->quality) && a->n == b->n &&
		a->async == b->async;
}

/* Its JSON is read by the hub as what was meant, and so are its fields in a multipart body. */
static inline void order_survives(const struct order *o)
{
	char *error = NULL, *json = order_encode(o);
	struct order again, fields = {0};
	size_t count;

	HOLDS(order_check(o, &error) == 0);
	HOLDS(order_decode(json, strlen(json), &again, &error) == 0);
	HOLDS(order_equal(o, &again) && fuzz_same(o->extra, again.extra));
	char *twice = order_encode(&again);
	HOLDS(strcmp(json, twice) == 0);
	free(twice);
	free(json);
	order_release(&again);

	struct wire_field *parts = order_fields(o, &count);
	for (size_t i = 0; i < count; i++)
		HOLDS(order_set_field(&fields, parts[i].name, parts[i].value, &error) == 0);
	HOLDS(order_equal(o, &fields));
	wire_fields_free(parts, count);
	order_release(&fields);
	HOLDS(!error);
}

/* What imagehubd answers to a refusal is read by the client as its words. */
static inline void refusal_survives(const char *words)
{
	char *json = wire_error_encode(words, "invalid_request");
	struct wire_error e;

	HOLDS(wire_error_decode(json, strlen(json), &e));
	HOLDS(fuzz_same(e.code, "invalid_request") && strlen(e.message) == strlen(words));
	HOLDS(strcmp(e.message, words) == 0 || !names_is_utf8(words, strlen(words)));
	wire_error_release(&e);
	free(json);
}

#endif

/* The models that imagehubd offers (API.md). */
#include "hub/request.h"

static char **words(const char *const *list)
{
	size_t n = 0;

	while (list[n])
		n++;
	char **copy = xcalloc(n + 1, sizeof *copy);
	for (size_t i = 0; i < n; i++)
		copy[i] = xstrdup(list[i]);
	return copy;
}

struct wire_models models_builtin(void)
{
	static const char *const ratios[] = {"auto", "1:1", "4:3", "3:4", "3:2", "2:3", "16:9",
		"9:16", "5:4", "4:5", "21:9", "9:21", "2:1", "1:2", "3:1", "1:3", NULL};
	static const char *const qualities[] = {"auto", "low", "medium", "high", NULL};
	static const char *const tiers[] = {"1K", "2K", "4K", NULL};
	static const int64_t prices[] = {8, 10, 12};
	struct wire_model *m = xcalloc(1, sizeof *m);

	*m = (struct wire_model){
		.id = xstrdup("gpt-image-2"),
		.name = xstrdup("GPT IMAGE 2"),
		.provider = xstrdup("openai"),
		.ratios = words(ratios),
		.qualities = words(qualities),
		.tiers = words(tiers),
		.reference_limit = REFERENCES_MAX,
		.prices = xcalloc(ARRAY_SIZE(prices), sizeof *m->prices),
		.n_prices = ARRAY_SIZE(prices),
	};
	for (size_t i = 0; i < ARRAY_SIZE(prices); i++)
		m->prices[i] = (struct wire_tier_price){xstrdup(tiers[i]), prices[i]};
	return (struct wire_models){.items = m, .count = 1};
}

/* `auto` is drawn in the first tier, so it costs that. */
int64_t models_price(const struct wire_model *m, const struct order *o)
{
	const char *tier = wire_tier(o->size);

	for (size_t i = 0; i < m->n_prices; i++)
		if (strcmp(m->prices[i].tier, tier) == 0)
			return m->prices[i].credits * order_images(o);
	return m->prices[0].credits * order_images(o);
}

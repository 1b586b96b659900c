/*
 * wire.h - the API's JSON ⇄ structs. The only folder that sees jansson.
 *
 * Both programs are held to API.md through here: imagehubfs decodes answers and encodes orders,
 * imagehubd decodes orders and encodes answers.
 *
 * Decoding treats its input as hostile. Bodies over WIRE_BODY_MAX are refused before they are
 * parsed, as jansson turns 10 MB of `[{},…]` into 784 MB (measured); at 1 MiB the worst stays under
 * 80 MB. Ids that are no names_is_hub_id() are refused. Unknown keys are ignored, missing optional
 * ones tolerated (API.md marks which).
 *
 * Ownership: X_release frees what a decoder put into *out, and accepts a zeroed struct. On failure
 * *out is left zeroed. Any thread; no state.
 */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include "base/buf.h"
#include "base/util.h"
#include "wire/outcome.h"

enum {
	WIRE_BODY_MAX = 1024 * 1024, /* bytes of JSON taken from anyone */
	WIRE_PROMPT_MAX = 32000,     /* characters of a prompt (code points) */
	WIRE_IMAGES_MAX = 4,	     /* pictures in an order */
	WIRE_MODELS_MAX = 256,	     /* models taken from one list */
	WIRE_REFERENCE_BYTES_MAX = 50 * 1024 * 1024,
};

/* ---- an order: what is asked of POST /api/v1/images/generations ---- */

struct order {
	char *model;   /* NULL: not chosen yet (the client then takes the hub's first model) */
	char *prompt;  /* UTF-8, not blank */
	char *size;    /* "auto" or "WIDTHxHEIGHT"; NULL: not given */
	char *quality; /* "auto" "low" "medium" "high"; NULL: not given */
	int n;	       /* 1 to WIRE_IMAGES_MAX; 0: not given */
	bool async;
	char *extra; /* a JSON object with members this client does not know, or NULL */
};

void order_release(struct order *o);
void order_copy(struct order *to, const struct order *from); /* deep; to is overwritten */
int order_images(const struct order *o);		     /* n, or 1 when not given */
/* Splits "1536x1024"; false for "auto", NULL and anything else. */
bool order_pixels(const char *size, int *width, int *height);

/* The JSON body of an order, owned. Members not given are left out; async is always written. */
char *order_encode(const struct order *o);
/* Decodes a JSON body. strict (imagehubd, `.prompt` files): the types and ranges of every known
 * member must be right, the prompt is UTF-8, not blank and at most WIRE_PROMPT_MAX characters, size
 * and quality have a valid form. model may be missing (the caller decides). -EINVAL with *error. */
int order_decode(const char *json, size_t len, struct order *out, char **error);
/* Checks one order's values as order_decode does; multipart and front matter end here too. */
int order_check(const struct order *o, char **error);
/* The upstream model's rule for a size (API.md): edges divisible by 16, ratio, longest edge, pixels.
 * For imagehubd; a client leaves it to the hub. "auto" and NULL pass. -EINVAL with *error. */
int order_check_size_upstream(const char *size, char **error);
/* Sets one text field (a multipart part): model, prompt, size, quality, n, async. Other names are
 * ignored. -EINVAL with *error for a value that is out of range. */
int order_set_field(struct order *o, const char *name, const char *value, char **error);

struct wire_field {
	char *name, *value;
};
/* The multipart text fields of an order (extra's scalars included), owned array of *count; free
 * with wire_fields_free(). */
struct wire_field *order_fields(const struct order *o, size_t *count);
void wire_fields_free(struct wire_field *fields, size_t count);

/* ---- a generation object: answers of POST and of GET /generations/:id ---- */

enum phase { PHASE_PENDING, PHASE_SUCCEEDED, PHASE_FAILED };

struct wire_image {
	char *id;	    /* may be NULL */
	char *url;	    /* unchecked beyond being text: net checks its scheme */
	int64_t created_ms; /* 0 if not given */
};

struct wire_balance {
	int64_t credits;	   /* -1: not given */
	char *account_type;	   /* may be NULL */
	char *next_expiration;	   /* text as given (a string, or an object as JSON); NULL for null */
};

struct wire_generation {
	char *id;	   /* names_is_hub_id */
	char *status;	   /* the hub's own word */
	enum phase phase;  /* what the word means; a success with no picture is PHASE_FAILED */
	char *model;	   /* these three may be NULL */
	char *aspect_ratio;
	char *quality;
	int64_t created_ms;	   /* 0 if not given */
	int64_t credits;	   /* charged; -1 if not given */
	int64_t credits_requested; /* -1 if not given */
	struct wire_image *images;
	size_t n_images;  /* at most WIRE_IMAGES_MAX × 4; more are cut off */
	char *poll_url;	  /* may be NULL; the client checks its origin */
	char *prompt;	  /* when the hub gives one; may be NULL */
	char *error_message; /* may be NULL */
	char *error_code;    /* may be NULL */
	struct wire_balance balance; /* credits -1 when not given */
};

void wire_generation_release(struct wire_generation *g);
/* -EPROTO with *error when it is not a generation object. */
int wire_generation_decode(const char *json, size_t len, struct wire_generation *out, char **error);
/*
 * imagehubd's side. The keys of API.md in its order. images is always written; credits_requested
 * when not -1; created_at when not 0; poll_url, balance (credits not -1) and error when given.
 * next_expiration of a written balance is an ISO text or null. Owned.
 */
char *wire_generation_encode(const struct wire_generation *g);
/* The phase that a status word means (API.md: unknown words are pending). */
enum phase wire_phase(const char *status);

/* ---- models ---- */

struct wire_tier_price {
	char *tier; /* "1K" */
	int64_t credits;
};

struct wire_model {
	char *id;	     /* a safe file name: see decode */
	char *name;	     /* may be NULL */
	char *provider;	     /* may be NULL */
	char **qualities;    /* NULL-terminated, may be NULL when not given */
	char **ratios;	     /* likewise */
	char **tiers;	     /* likewise */
	int reference_limit; /* -1: not given */
	struct wire_tier_price *prices; /* a plain number comes out as one entry with tier NULL */
	size_t n_prices;     /* 0: price not known */
	char *raw;	     /* the model's own JSON, pretty-printed, newline at the end */
};

struct wire_models {
	struct wire_model *items;
	size_t count;
};

void wire_models_release(struct wire_models *m);
/* Accepts a top-level array, or `data`, or `models`. A model whose id is no safe file name
 * ([A-Za-z0-9._-]{1,128}, no leading dot), or was there before, is skipped. -EPROTO with *error
 * when it is no list. */
int wire_models_decode(const char *json, size_t len, struct wire_models *out, char **error);
char *wire_models_encode(const struct wire_models *m); /* imagehubd's answer; raw is not used */
const struct wire_model *wire_models_find(const struct wire_models *m, const char *id);

/* The tier of a size by imagehubd's edges (API.md: up to 1,700,000 pixels 1K, up to 4,400,000 2K,
 * more 4K); NULL or "auto" gives "1K". */
const char *wire_tier(const char *size);
/*
 * What an order of n pictures costs, in credits. *low and *high differ when the tier cannot be
 * known (size auto or not given: the cheapest and the dearest tier). False when the price is not
 * known; it is then never taken as 0.
 */
bool wire_price(const struct wire_model *m, const char *size, int n, int64_t *low, int64_t *high);

/* ---- balance and errors ---- */

void wire_balance_release(struct wire_balance *b);
/* Accepts the balance at top level or under `balance`. -EPROTO with *error. */
int wire_balance_decode(const char *json, size_t len, struct wire_balance *out, char **error);
/* {"object":"credit_balance",…}. Owned. */
char *wire_balance_encode(const struct wire_balance *b);
/* What /account.json shows: credits, account_type, next_expiration, as_of (ms, ISO), pretty. */
char *wire_account_encode(const struct wire_balance *b, int64_t as_of_ms);

struct wire_error {
	char *message; /* may be NULL */
	char *code;    /* may be NULL */
};
void wire_error_release(struct wire_error *e);
/* True when the body is an error of this API: {"error":{"message","code"}}; also takes a string
 * `error` and a top-level `message`, then with no code. */
bool wire_error_decode(const char *json, size_t len, struct wire_error *out);
char *wire_error_encode(const char *message, const char *code);

/* Indents any JSON text for people, newline at the end (in one line where that would make it many
 * times longer); NULL when it is not JSON. */
char *wire_pretty(const char *json, size_t len);

#endif

#include "engine/words.h"
#include "base/buf.h"
#include "base/names.h"
#include "engine/life.h"
#include <errno.h>
#include <stdio.h>

enum {
	TEXT_MAX = 64 * 1024, /* a path may be long, and is there several times */
	SHOWN_MAX = 500,      /* bytes of a line of somebody else */
};

static const struct {
	int err;
	const char *why;
	const char *next; /* before the command */
	const char *verb;
} holds[] = {
	[HOLD_NONE] = {0, "", "", ""},
	[HOLD_BUDGET] = {EDQUOT, "it would go over the day's budget (--max-spend)",
		"it goes on by itself once a day's budget has room for it; now: ", "approve"},
	[HOLD_BALANCE] = {EDQUOT, "it costs more than the balance",
		"buy credits, it then goes on by itself; or: ", "cancel"},
	[HOLD_PRICE] = {EDQUOT, "the hub does not tell what this model costs",
		"to send it all the same: ", "approve"},
	[HOLD_CREDITS] = {EDQUOT, "the hub says that there are not enough credits",
		"buy credits, it then goes on by itself; or: ", "cancel"},
	[HOLD_PAUSED] = {EAGAIN, "the queue is paused", "", "resume"},
};

const char *words_paused(const char *setting)
{
	return strcmp(setting, CATALOGUE_COPIED) == 0
		? "the queue is paused: this state is a copy, or was restored from a backup, and what "
		  "waits in it may have been sent since; cancel that, then resume"
		: holds[HOLD_PAUSED].why;
}

/* One line of somebody else's words: no control characters, not too long. */
static void add_line(struct buf *b, const char *text)
{
	const size_t len = names_utf8_cut(text, SHOWN_MAX);

	for (size_t i = 0; i < len; i++)
		buf_addch(b, (unsigned char)text[i] < ' ' || text[i] == 127 ? ' ' : text[i]);
}

static void add_number(struct buf *b, int64_t credits)
{
	buf_printf(b, "%lld credit%s", (long long)credits, credits == 1 ? "" : "s");
}

static void add_credits(struct buf *b, const struct request *r)
{
	if (r->charged >= 0)
		add_number(b, r->charged);
	else if (r->price_low < 0)
		buf_addstr(b, "price not known");
	else if (r->price_low == r->price_high)
		add_number(b, r->price_low);
	else
		buf_printf(b, "%lld to %lld credits", (long long)r->price_low,
			(long long)r->price_high);
}

static const char *model_of(const struct request *r)
{
	return r->order.model ? r->order.model : "the hub's first model";
}

static const char *reason_of(const struct request *r)
{
	return r->text ? r->text : outcome_fact(r->reason)->word;
}

/* A text inside of single quotes of a shell. */
static void add_quoted(struct buf *b, const char *text)
{
	for (; *text; text++)
		if (*text == '\'')
			buf_addstr(b, "'\\''");
		else
			buf_addch(b, *text);
}

/* A command that can be pasted from wherever one is; path NULL for a verb without one. */
static void add_command(struct buf *b, const char *verb, const char *path, const char *control)
{
	/* Its second line would be a command of its own, of whoever made the name. */
	if (path && strchr(path, '\n')) {
		buf_printf(b, "take the line break out of its name; then %s it by control", verb);
		return;
	}
	buf_printf(b, path ? "echo '%s " : "echo %s", verb);
	if (path) {
		add_quoted(b, path);
		buf_addch(b, '\'');
	}
	if (control[strcspn(control, " \t\n'\"\\$`&;|<>()*?[]#~!{}")]) {
		buf_addstr(b, " > '");
		add_quoted(b, control);
		buf_addch(b, '\'');
	} else {
		buf_printf(b, " > %s", control);
	}
}

static void add_hold_next(struct buf *b, const struct request *r, const char *control)
{
	buf_addstr(b, holds[r->hold].next);
	add_command(b, holds[r->hold].verb, r->hold == HOLD_PAUSED ? NULL : r->path, control);
}

static void add_succeeded(struct buf *b, const struct request *r, const struct words_context *c)
{
	const int wanted = order_images(&r->order);

	buf_printf(b, "%d picture%s", c->pictures, c->pictures == 1 ? "" : "s");
	if (c->pictures < wanted)
		buf_printf(b, " of %d", wanted);
	buf_addstr(b, ", ");
	add_credits(b, r);
	buf_printf(b, ", %s", model_of(r));
	if (r->sent_ms && r->changed_ms >= r->sent_ms)
		buf_printf(b, ", %lld s", (long long)((r->changed_ms - r->sent_ms) / 1000));
	if (c->missing > 0)
		buf_printf(b, "; %d cannot be reached, which is tried again, see %s", c->missing, c->log);
}

static void add_evidence(struct buf *b, const struct request *r)
{
	if (r->balance_before < 0)
		return;
	buf_printf(b, "balance before: %lld", (long long)r->balance_before);
	if (r->balance_after >= 0)
		buf_printf(b, ", after: %lld", (long long)r->balance_after);
}

/* What it has cost: the hub's word, nothing, or that nobody here knows. */
static void add_cost(struct buf *b, const struct request *r)
{
	if (r->charged > 0) {
		buf_addstr(b, "charged ");
		add_number(b, r->charged);
	} else if (!request_may_be_charged(r)) {
		buf_addstr(b, "not charged");
	} else {
		buf_addstr(b, "it may have been charged");
		if (r->balance_before >= 0) {
			buf_addstr(b, " (");
			add_evidence(b, r);
			buf_addch(b, ')');
		}
	}
}

static void add_body(struct buf *b, const struct request *r, const struct words_context *c)
{
	switch (r->state) {
	case REQUEST_QUEUED:
		if (c->waiting)
			add_line(b, c->waiting);
		else
			buf_addstr(b, "waits for its turn");
		break;
	case REQUEST_HELD:
		add_line(b, r->text ? r->text : holds[r->hold].why);
		buf_addstr(b, "; ");
		add_cost(b, r);
		buf_addstr(b, "; ");
		add_hold_next(b, r, c->control);
		break;
	case REQUEST_SENDING:
		add_credits(b, r);
		buf_printf(b, ", %s", model_of(r));
		break;
	case REQUEST_RUNNING:
		add_line(b, c->hub_word ? c->hub_word : "at the hub");
		buf_addstr(b, ", ");
		add_credits(b, r);
		buf_printf(b, ", %s", model_of(r));
		break;
	case REQUEST_SUCCEEDED:
		add_succeeded(b, r, c);
		break;
	case REQUEST_FAILED:
	case REQUEST_REFUSED:
	case REQUEST_UNKNOWN:
		add_line(b, reason_of(r));
		buf_addstr(b, "; ");
		add_cost(b, r);
		break;
	default:
		buf_addstr(b, request_may_be_charged(r) ? "given up after its answer was lost; "
							: "withdrawn before it was sent; ");
		add_cost(b, r);
		break;
	}
}

char *words_status(const struct request *r, const struct words_context *c)
{
	struct buf b;

	buf_init(&b, TEXT_MAX);
	buf_printf(&b, "%s: ", life_name(r->state));
	add_body(&b, r, c);
	buf_addch(&b, '\n');
	return buf_take(&b);
}

/* The clock may have been set back. */
static long long seconds_since(const struct request *r, const struct words_context *c)
{
	return c->now_ms > r->sent_ms ? (c->now_ms - r->sent_ms) / 1000 : 0;
}

char *words_progress(const struct request *r, const struct words_context *c)
{
	struct buf b;

	if (r->state == REQUEST_QUEUED && !c->waiting)
		return xstrdup("queued\n");
	if (r->state != REQUEST_QUEUED && r->state != REQUEST_SENDING &&
		r->state != REQUEST_RUNNING)
		return words_status(r, c);
	buf_init(&b, TEXT_MAX);
	if (r->state == REQUEST_QUEUED) {
		buf_addstr(&b, "queued: ");
		add_line(&b, c->waiting);
	} else {
		add_line(&b, r->state == REQUEST_SENDING ? "sending"
				: c->hub_word		 ? c->hub_word
							 : "running");
		buf_printf(&b, " %lld s", seconds_since(r, c));
	}
	buf_addch(&b, '\n');
	return buf_take(&b);
}

static void add_next(struct buf *b, const struct request *r, const char *control)
{
	if (r->state == REQUEST_HELD) {
		add_hold_next(b, r, control);
	} else if (r->state == REQUEST_UNKNOWN) {
		buf_addstr(b, "look at your balance and, where the hub has one, its list of "
			      "generations; then\n         ");
		add_command(b, "retry", r->path, control);
		buf_addstr(b, " (which may pay a second time), or\n         ");
		add_command(b, "cancel", r->path, control);
		buf_addstr(b, " to let it rest");
	} else {
		buf_addstr(b, "mend it and save the file, or try the same again: ");
		add_command(b, "retry", r->path, control);
	}
	buf_addch(b, '\n');
}

static void add_charged(struct buf *b, const struct request *r)
{
	buf_addstr(b, "charged: ");
	if (request_may_be_charged(r)) {
		buf_addstr(b, "not known");
		if (r->balance_before >= 0) {
			buf_addstr(b, "; ");
			add_evidence(b, r);
		}
	} else if (r->charged > 0) {
		add_number(b, r->charged);
	} else {
		buf_addstr(b, "nothing");
	}
	buf_addch(b, '\n');
}

char *words_error(const struct request *r, const char *control)
{
	const bool held = r->state == REQUEST_HELD;
	struct buf b;

	if (!held && r->state != REQUEST_FAILED && r->state != REQUEST_REFUSED &&
		r->state != REQUEST_UNKNOWN)
		return NULL;
	buf_init(&b, TEXT_MAX);
	buf_addstr(&b, "what:    ");
	add_line(&b, r->path);
	buf_printf(&b, " is %s\nwhy:     ", life_name(r->state));
	if (held && !r->text)
		buf_addstr(&b, holds[r->hold].why);
	else
		add_line(&b, reason_of(r));
	buf_addch(&b, '\n');
	add_charged(&b, r);
	buf_addstr(&b, "next:    ");
	if (!held && r->state != REQUEST_UNKNOWN && outcome_fact(r->reason)->advice) {
		buf_addstr(&b, outcome_fact(r->reason)->advice);
		buf_addstr(&b, "\n         ");
	}
	add_next(&b, r, control);
	return buf_take(&b);
}

char *words_draft_status(const char *text)
{
	struct buf b;

	buf_init(&b, TEXT_MAX);
	buf_addstr(&b, "draft: ");
	add_line(&b, text);
	buf_addstr(&b, "; nothing was sent\n");
	return buf_take(&b);
}

char *words_draft_error(
	const char *path, int err, const char *text, bool goes_on, const char *control)
{
	struct buf b;

	buf_init(&b, TEXT_MAX);
	buf_addstr(&b, "what:    ");
	add_line(&b, path);
	buf_addstr(&b, " is a draft\nwhy:     ");
	add_line(&b, text);
	buf_addstr(&b, "\ncharged: nothing\nnext:    ");
	if (err == EINVAL) {
		buf_addstr(&b, "mend it and save it; when what had to be mended is another file:\n"
			       "         ");
		add_command(&b, "again", path, control);
	} else if (goes_on) {
		buf_addstr(&b, "nothing: it goes on by itself as soon as it can");
	} else {
		buf_addstr(&b, "save it again, or send it as it is: ");
		add_command(&b, "again", path, control);
	}
	buf_addch(&b, '\n');
	return buf_take(&b);
}

int words_errno(const struct request *r)
{
	if (r->state == REQUEST_SUCCEEDED)
		return 0;
	if (r->state == REQUEST_HELD)
		return holds[r->hold].err;
	if (r->state == REQUEST_CANCELED)
		return ECANCELED;
	const int err = outcome_fact(r->reason)->err;
	return err ? err : EIO;
}

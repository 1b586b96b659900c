/*
 * admin.h - the owner's commands: accounts, credits, keys, the ledger.
 *
 * They work on the data directory itself, or, while a hub serves it (which has it locked), through
 * the socket DATA/admin.sock that the serving process listens on, which only its own user may
 * connect to.
 */
#ifndef HUB_ADMIN_H
#define HUB_ADMIN_H

#include "hub/store.h"

/* Runs one command: words as on the command line, from "account" on. *text is what it prints, owned.
 * 0; -EINVAL with *error for words that are no command; the command's own error. */
int admin_run(struct store *s, int argc, const char *const *argv, char **text, char **error);
/* The same through the serving process of dir. -ENOENT when none answers. */
int admin_ask(const char *dir, int argc, const char *const *argv, char **text, char **error);

struct admin;
/* The serving side: a thread that answers admin_ask(). */
struct admin *admin_start(struct store *s, char **error);
void admin_stop(struct admin *a);

#endif

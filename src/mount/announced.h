/*
 * announced.h - names that the helper was told to announce lately, and those that it has announced.
 *
 * A name is kept until it is too old to be announced as new (notifier.h). Threads: any; one
 * lock of its own, a leaf.
 */
#ifndef MOUNT_ANNOUNCED_H
#define MOUNT_ANNOUNCED_H

#include "base/util.h"

struct announced;

struct announced *announced_create(void);
void announced_destroy(struct announced *a); /* accepts NULL */

/* made: the helper's call for it has come; else it was told. */
void announced_note(struct announced *a, uint64_t parent, uint64_t ino, bool made);
/* Whether it was announced, or with made false at least told. */
bool announced_has(struct announced *a, uint64_t parent, uint64_t ino, bool made);
/* As if it never had been: its name is another now. */
void announced_forget(struct announced *a, uint64_t parent, uint64_t ino);
/* Forgets what is old. When to come again (monotonic); INT64_MAX while there is nothing. */
int64_t announced_sweep(struct announced *a);

#endif

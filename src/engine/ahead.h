/*
 * ahead.h - read-ahead: which pictures are likely to be read next.
 *
 *	struct ahead *a = ahead_create(cat, 8);
 *	if (ahead_expects(a, image)) …	any thread: is it worth telling?
 *	n = ahead_read(a, image, ids);	its first bytes are being read: fetch these
 *
 * Pictures are read one after another in the order in which they were listed: by name under
 * /requests, by the generation's id or by age under /generations, and by number inside of a
 * generation (image_following()). Which of these a reader follows is learnt from what it reads: a
 * sequence begins with every order possible; a picture that only some of them led to rules the
 * others out; and as long as several are possible, only pictures on which all of them agree are
 * fetched (the rest of the generation, to begin with). How far it looks ahead doubles with each
 * picture of the sequence that is read, from AHEAD_FIRST to the limit, as the kernel does with
 * pages. Several sequences may be read at once; the least recently read is forgotten.
 *
 * Threads: ahead_read() is the engine's thread's; ahead_expects() is any thread's. One lock, a leaf.
 */
#ifndef ENGINE_AHEAD_H
#define ENGINE_AHEAD_H

#include "catalogue/catalogue.h"

enum { AHEAD_MOST = 64, AHEAD_FIRST = 4 };

struct ahead;

/* most: how many pictures ahead of a reader, 1 to AHEAD_MOST. */
struct ahead *ahead_create(struct catalogue *cat, int most);
void ahead_destroy(struct ahead *a); /* accepts NULL */

/* Whether the picture was given out by ahead_read() and not read since: a sequence goes on. */
bool ahead_expects(struct ahead *a, int64_t image);
/* The pictures that should be on their way now and were not yet given out, in the order in which
 * they will be read; returns their number. */
int ahead_read(struct ahead *a, int64_t image, int64_t ids[AHEAD_MOST]);

#endif

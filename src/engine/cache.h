/*
 * cache.h - the disk cache of pictures: files named by their image's row, below two levels of
 * folders ("ab/ID"), with a total that is kept true and a limit.
 *
 *	cache_open(dir, max, &error) → cache_find, or cache_begin → cache_finish → cache_trim → cache_close
 *
 * A file is there whole or not at all: it is written under a temporary name (tmp/ID), synced and
 * renamed. Temporary files of a crash are removed by cache_open(). What is in the cache can always
 * be fetched again, so losing it costs time and never credits: also when somebody clears it away under
 * a mount, whose next download makes the folders anew.
 *
 * The total is counted in blocks on disk, once at cache_scan() (a walk), then by every finish and
 * removal, and anew by every trim. Least recently read is judged by the file's atime, which cache_touch() sets. Threads: any;
 * one lock of its own, never held across a walk.
 */
#ifndef ENGINE_CACHE_H
#define ENGINE_CACHE_H

#include "base/util.h"

struct cache;

struct cache *cache_open(const char *dir, int64_t max, char **error);
void cache_close(struct cache *c);

/* A descriptor of a picture that is there with exactly that size; -ENOENT. A file of another size
 * is removed. */
int cache_find(struct cache *c, int64_t image, int64_t size);
/* A new temporary file for an image; a descriptor or a negative errno. One thread at a time. */
int cache_begin(struct cache *c, int64_t image);
/* Makes the temporary file durable and the picture findable. */
int cache_finish(struct cache *c, int64_t image, int fd);
void cache_abandon(struct cache *c, int64_t image);
void cache_remove(struct cache *c, int64_t image);
/* It was read just now. */
void cache_touch(int fd);

/* Counts what is there (walks the cache); call it once, from a thread that may take its time. */
void cache_scan(struct cache *c);
/* Whether it holds more than its limit. */
bool cache_is_over(struct cache *c);
/* Removes least recently read first until the total is at 9/10 of the limit, when it is over it.
 * busy(arg, image) says what must stay. */
void cache_trim(struct cache *c, bool (*busy)(void *arg, int64_t image), void *arg);
int64_t cache_total(struct cache *c); /* bytes on disk; -1 before the scan */
/* Calls fn for every picture that is there. */
void cache_each(struct cache *c, void (*fn)(void *arg, int64_t image, int fd), void *arg);

#endif

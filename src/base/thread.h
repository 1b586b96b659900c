/*
 * thread.h - threads that leave signals to the main thread.
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include "base/util.h"
#include <pthread.h>

/* Starts a named thread (15 characters) in which only the signals of its own faults are not blocked.
 * 0 or a negative errno. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg);
/* Sets a condition up to count its deadlines by the monotonic clock, as clock_mono_ms() does. */
void thread_cond_init(pthread_cond_t *cond);

#endif

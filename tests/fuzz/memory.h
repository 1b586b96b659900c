/* How much memory was held at most since memory_begin(), where a sanitizer counts it; else 0. */
#ifndef FUZZ_MEMORY_H
#define FUZZ_MEMORY_H

#include "base/util.h"

typedef void memory_malloc_fn(const volatile void *ptr, size_t size);
typedef void memory_free_fn(const volatile void *ptr);
__attribute__((weak)) int __sanitizer_install_malloc_and_free_hooks(
	memory_malloc_fn *on_malloc, memory_free_fn *on_free);
__attribute__((weak)) size_t __sanitizer_get_allocated_size(const volatile void *ptr);

static size_t memory_now, memory_most;

static void memory_malloc(const volatile void *ptr, size_t size)
{
	(void)ptr;
	memory_now += size;
	if (memory_now > memory_most)
		memory_most = memory_now;
}

/* What was there before the beginning may go as well. */
static void memory_free(const volatile void *ptr)
{
	const size_t size = ptr ? __sanitizer_get_allocated_size(ptr) : 0;

	memory_now -= size < memory_now ? size : memory_now;
}

static inline void memory_begin(void)
{
	static bool installed;

	if (!installed && __sanitizer_install_malloc_and_free_hooks)
		__sanitizer_install_malloc_and_free_hooks(memory_malloc, memory_free);
	installed = true;
	memory_now = memory_most = 0;
}

static inline size_t memory_peak(void)
{
	return memory_most;
}

#endif

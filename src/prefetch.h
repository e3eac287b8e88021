/* Asks for memory before it is needed, in the kernels for large steps. Any address is allowed: also one that nothing is at. */
#ifndef CYOPTIM_PREFETCH_H
#define CYOPTIM_PREFETCH_H

#include <stddef.h>

static inline void prefetch_bytes(const void *place, ptrdiff_t bytes) {
#if defined(CYOPTIM_PREFETCH) && defined(__GNUC__)
    for (ptrdiff_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)place + i);
#else
    (void)place, (void)bytes;
#endif
}

#endif

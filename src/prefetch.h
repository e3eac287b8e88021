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

/* n, of which the compiler is to know no bound. GCC asks for nothing ahead in a loop that it knows to be shorter than the
 * distance; but the pieces of a stream lie side by side, and what lies ahead of one is the next. */
static inline ptrdiff_t unbounded(ptrdiff_t n) {
#if defined(CYOPTIM_PREFETCH) && defined(__GNUC__)
    __asm__("" : "+r"(n));
#endif
    return n;
}

#endif

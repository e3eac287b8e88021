/* What the build decides: the compiler, and whether OpenMP says how many threads there may be. */
#ifndef CYOPTIM_BUILD_H
#define CYOPTIM_BUILD_H

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "threads/run.h"

/* Those that the calling thread may run on now. LLVM's OpenMP tells those of the beginning. */
static inline int most_processors(void) {
#if defined(_OPENMP) && defined(_WIN32)
    return omp_get_num_procs();
#else
    return run_processors();
#endif
}

#ifdef _OPENMP
static inline int openmp_version(void) { return _OPENMP; }
static inline int most_threads(void) { return omp_get_max_threads(); }
#else
static inline int openmp_version(void) { return 0; }
/* The number in this text, or the first in a list; 0 if there is none from 1 to INT_MAX. */
static inline int parsed_threads(const char *text) {
    char *end;
    long number;
    if (text == NULL) return 0;
    errno = 0;
    number = strtol(text, &end, 10);
    if (end == text || errno != 0 || number < 1 || number > INT_MAX) return 0;
    while (*end == ' ' || *end == '\t') end++;
    return *end == '\0' || *end == ',' ? (int)number : 0;
}

/* As OpenMP does: what the variable said when the first was asked for, or all processors. */
static inline int most_threads(void) {
    static atomic_int known = -1;
    int chosen = atomic_load_explicit(&known, memory_order_relaxed);
    if (chosen < 0) {
        chosen = parsed_threads(getenv("OMP_NUM_THREADS"));
        atomic_store_explicit(&known, chosen, memory_order_relaxed);
    }
    return chosen > 0 ? chosen : run_processors();
}
#endif

static inline const char *compiler_name(void) {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC";
#else
    return "unknown";
#endif
}

#endif

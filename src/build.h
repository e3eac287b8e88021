/* What the build decides: the compiler, and whether OpenMP says how many threads there may be. */
#ifndef CYOPTIM_BUILD_H
#define CYOPTIM_BUILD_H

#include <stdlib.h>

#include "threads.h"

#ifdef _OPENMP
#include <omp.h>
static inline int openmp_version(void) { return _OPENMP; }
static inline int most_threads(void) { return omp_get_max_threads(); }
/* Those that the calling thread may run on now. LLVM's OpenMP tells those of the beginning. */
static inline int most_processors(void) {
#ifdef _WIN32
    return omp_get_num_procs();
#else
    return thread_processors();
#endif
}
#else
static inline int openmp_version(void) { return 0; }
static inline int most_processors(void) { return thread_processors(); }
/* As OpenMP does: what the variable said when the first was asked for, or all processors. */
static inline int most_threads(void) {
    static int chosen = -1;
    if (chosen < 0) {
        const char *text = getenv("OMP_NUM_THREADS");
        int number = text != NULL ? atoi(text) : 0;
        chosen = number > 0 ? number : 0;
    }
    return chosen > 0 ? chosen : thread_processors();
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

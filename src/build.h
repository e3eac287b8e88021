/* What the build decides: the compiler, and OpenMP's calls or what they mean without OpenMP. */
#ifndef CYOPTIM_BUILD_H
#define CYOPTIM_BUILD_H

#ifdef _OPENMP
#include <omp.h>
static inline int openmp_version(void) { return _OPENMP; }
static inline int openmp_max_threads(void) { return omp_get_max_threads(); }
/* Those that the calling thread may run on now. */
static inline int openmp_processors(void) { return omp_get_num_procs(); }
#else
static inline int openmp_version(void) { return 0; }
static inline int openmp_max_threads(void) { return 1; }
static inline int openmp_processors(void) { return 1; }
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

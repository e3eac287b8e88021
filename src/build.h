/* What the build decides: the compiler, and OpenMP's calls or what they mean without OpenMP. */
#ifndef CYOPTIM_BUILD_H
#define CYOPTIM_BUILD_H

#ifdef _OPENMP
#include <omp.h>
static inline int openmp_version(void) { return _OPENMP; }
static inline int openmp_max_threads(void) { return omp_get_max_threads(); }
/* Give this thread's workers back before a fork: a child that inherits the record of workers it
 * does not have waits for them for ever (GCC's runtime). 0 on success. */
static inline int openmp_release_workers(void) {
/* OpenMP 5.0, and GCC, which had this call before it claimed 5.0. */
#if _OPENMP >= 201811 || (defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9)
    return omp_pause_resource_all(omp_pause_hard);
#else
    return -1;
#endif
}
#else
static inline int openmp_version(void) { return 0; }
static inline int openmp_max_threads(void) { return 1; }
static inline int openmp_release_workers(void) { return 0; }
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

/* A run as a parallel region of OpenMP, for programs that place its threads or share one team. */
#ifndef CYOPTIM_TEAM_H
#define CYOPTIM_TEAM_H

#include <string.h>

#include "pool.h"

#ifdef _OPENMP
#include <omp.h>

enum { TEAM_EXISTS = 1 };

/* In a forked child GNU's OpenMP waits for ever for the parent's threads, whoever has started them. */
static atomic_int team_exists = 0;
static void team_forget(void) { atomic_store(&team_exists, 0); }
static void team_begin(void) { atomic_store(&team_exists, thread_watch_forks(team_forget)); }
static int team_is_usable(void) { return atomic_load(&team_exists); }

static void team_run(Task task, const void *context, ptrdiff_t first, ptrdiff_t last, int threads) {
    Share shares[POOL_MOST];
    Run run = {1, threads < POOL_MOST ? threads : POOL_MOST, task, context, first, last};
    if (run.threads <= 1 || last - first > SHARE_TASKS) {
        run_serial(task, context, first, last);
        return;
    }
    memset(shares, 0, (size_t)run.threads * sizeof(Share));
    /* The region may get fewer threads: those that come do all shares. */
    #pragma omp parallel num_threads(run.threads)
    shares_work(&run, shares, omp_get_thread_num());
}

#else

enum { TEAM_EXISTS = 0 };

static void team_begin(void) {}
static int team_is_usable(void) { return 0; }

static void team_run(Task task, const void *context, ptrdiff_t first, ptrdiff_t last, int threads) {
    (void)threads;
    run_serial(task, context, first, last);
}

#endif
#endif

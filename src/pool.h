/* A pool of threads for runs of many short, independent tasks.
 *
 * (a) The caller works, too, and waits only for workers that have taken a task. A worker that gets
 *     no processor, because another library's threads spin on it or another process has it, costs
 *     nothing: the others do its share. (A parallel region of OpenMP waits for every thread of its
 *     team to arrive, which then takes milliseconds.)
 * (b) Each thread has a contiguous range of its own, the same at each run of the same size, so that
 *     it finds its data in its caches and on its memory node; a thread that is done takes from the others.
 * (c) Idle workers look for the next run for some tens of microseconds, then sleep.
 * (d) One run at a time: whoever finds the pool taken does its work alone. Nobody ever waits for
 *     somebody else's run.
 * (e) A forked child has no workers and makes its own. */
#ifndef CYOPTIM_POOL_H
#define CYOPTIM_POOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "threads.h"

typedef void (*PoolTask)(const void *context, ptrdiff_t index);

static void pool_serial(PoolTask task, const void *context, ptrdiff_t first, ptrdiff_t last) {
    for (; first < last; first++) task(context, first);
}

enum {
    POOL_MOST = 256,    /* threads, the caller's included */
    POOL_LOOKS = 1000   /* at whether something has happened, before a thread sleeps or yields */
};

typedef struct {
    _Alignas(64) atomic_ptrdiff_t next;
    ptrdiff_t end;
} PoolRange;

static struct {
    atomic_int taken;           /* by the thread whose run this is */
    atomic_ulong open;          /* number of the run that workers may join; 0: none */
    atomic_int inside;          /* workers that may be in a run */
    atomic_int sleeping;
    unsigned long runs;
    PoolTask task;
    const void *context;
    int threads;                /* of this run */
    int workers;                /* started so far */
    ThreadBed bed;
    PoolRange ranges[POOL_MOST];
} pool = {.bed = THREAD_BED};

static void pool_work(int thread) {
    for (int k = 0; k < pool.threads; k++) {
        PoolRange *range = &pool.ranges[(thread + k) % pool.threads];
        for (;;) {
            ptrdiff_t index = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
            if (index >= range->end) break;
            pool.task(pool.context, index);
        }
    }
}

static int pool_has_run(unsigned long last) {
    unsigned long run = atomic_load(&pool.open);
    return run != 0 && run != last;
}

static void pool_await(unsigned long last) {
    for (int look = 0; look < POOL_LOOKS; look++) {
        if (pool_has_run(last)) return;
        thread_pause();
    }
    thread_lock(&pool.bed);
    /* Either this is seen by whoever opens a run, or the run is seen here. */
    atomic_fetch_add(&pool.sleeping, 1);
    while (!pool_has_run(last)) thread_sleep(&pool.bed);
    atomic_fetch_sub(&pool.sleeping, 1);
    thread_unlock(&pool.bed);
}

static THREAD_RESULT pool_worker(void *argument) {
    int thread = (int)(intptr_t)argument;
    unsigned long last = 0;
    for (;;) {
        pool_await(last);
        /* Either whoever closes the run sees this worker inside, or it sees the run closed. */
        atomic_fetch_add(&pool.inside, 1);
        if (pool_has_run(last)) {
            last = atomic_load(&pool.open);
            if (last != 0 && thread < pool.threads) pool_work(thread);
        }
        atomic_fetch_sub(&pool.inside, 1);
    }
    return THREAD_END;
}

static void pool_forget(void) {
    /* In a forked child, where no worker exists and no run is open. */
    atomic_store(&pool.taken, 0);
    atomic_store(&pool.open, 0);
    atomic_store(&pool.inside, 0);
    atomic_store(&pool.sleeping, 0);
    pool.workers = 0;
    thread_renew_bed(&pool.bed);
}

static int pool_start(int threads) {
    /* Make workers up to this number of threads; return how many threads there can be. */
    static int watches_forks = 0;
    if (!watches_forks) watches_forks = thread_watch_forks(pool_forget);
    if (!watches_forks) return 1;
    while (pool.workers + 1 < threads && thread_start(pool_worker, pool.workers + 1)) {
        pool.workers++;
    }
    return pool.workers + 1 < threads ? pool.workers + 1 : threads;
}

static void pool_open(PoolTask task, const void *context, ptrdiff_t first, ptrdiff_t last,
                      int threads) {
    pool.task = task;
    pool.context = context;
    pool.threads = threads;
    for (int k = 0; k < threads; k++) {
        atomic_store_explicit(&pool.ranges[k].next, first + (last - first) * k / threads,
                              memory_order_relaxed);
        pool.ranges[k].end = first + (last - first) * (k + 1) / threads;
    }
    atomic_store(&pool.open, ++pool.runs);
    if (atomic_load(&pool.sleeping) != 0) {
        thread_lock(&pool.bed);
        thread_wake_all(&pool.bed);
        thread_unlock(&pool.bed);
    }
}

static void pool_close(void) {
    atomic_store(&pool.open, 0);
    for (int look = 0; atomic_load(&pool.inside) != 0; look++) {
        /* A worker that lost its processor in the middle of a task may get this one. */
        if (look < POOL_LOOKS) thread_pause();
        else thread_yield();
    }
}

/* Call task(context, index) for every index in [first, last), on at most this many threads. */
static void pool_run(PoolTask task, const void *context, ptrdiff_t first, ptrdiff_t last,
                     int threads) {
    if (threads > POOL_MOST) threads = POOL_MOST;
    if (threads <= 1 || atomic_exchange(&pool.taken, 1) != 0) {
        pool_serial(task, context, first, last);
        return;
    }
    pool_open(task, context, first, last, pool_start(threads));
    pool_work(0);
    pool_close();
    atomic_store(&pool.taken, 0);
}

#endif

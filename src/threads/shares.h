/* The division of a run's tasks among its threads.
 *
 * Each thread has a contiguous share, the same at each run of the same size, so that it finds its data in
 * its caches and on its memory node. A thread that is done takes tasks from the others.
 *
 * A share is one word: the number of the run that it was last used in, and how many of its tasks have been
 * taken in that run. Whoever takes a task compares and swaps the word. So the thread that opens a run has
 * nothing to write but the run itself, and a thread that comes late, when the run is over, changes nothing:
 * all tasks of the share have been taken by then, or it has a later number. */
#ifndef CYOPTIM_SHARES_H
#define CYOPTIM_SHARES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "system.h"

typedef void (*Task)(const void *context, ptrdiff_t index);

typedef struct {
    uint32_t number;            /* of runs, from 1 on */
    int threads;
    Task task;
    const void *context;
    ptrdiff_t first, last;
} Run;

typedef struct {
    _Alignas(64) atomic_uint_fast64_t taken;    /* number of the run << 32 | tasks */
    atomic_uint_fast64_t done;                  /* number of the run << 32 | tasks that this thread has done */
} Share;

enum {
    SHARE_TASKS = 1 << 30,      /* the most in a run: 32 bits count them */
    SHARE_KEPT = 4,             /* the last tasks of a share, which a thief leaves to its thread */
    SHARE_PATIENCE = 8          /* tasks: how long it waits for that thread to take one, whose data may have to come */
};

typedef struct {                /* of a thief */
    uint64_t word;              /* of the share, as last seen */
    int64_t since, patience;    /* ticks */
} Wait;

static inline uint64_t share_word(uint32_t number, uint32_t tasks) {
    return (uint64_t)number << 32 | tasks;
}

static inline ptrdiff_t share_start(const Run *run, int thread) {
    return run->first + (run->last - run->first) * thread / run->threads;
}

/* How many tasks nobody has taken; 0 in a run that is over. */
static inline ptrdiff_t share_left(const Run *run, uint64_t word, ptrdiff_t size) {
    int32_t behind = (int32_t)(run->number - (uint32_t)(word >> 32));
    if (behind < 0) return 0;
    return behind > 0 ? size : size - (ptrdiff_t)(uint32_t)word;
}

/* Whether a thief has to wait: the thread that has begun a share does the last tasks itself, as long as it
 * takes one now and then. To move their data to another cache would take longer, and again in the next run. */
static int share_is_kept(Wait *wait, uint64_t word, ptrdiff_t left, ptrdiff_t size) {
    int64_t now;
    if (wait == NULL || left > SHARE_KEPT || left == size) return 0;
    now = thread_ticks();
    if (word != wait->word) {
        wait->word = word;
        wait->since = now;
    }
    return now - wait->since < wait->patience;
}

/* Do what is left of a share; how many tasks that were. */
static uint32_t share_work(const Run *run, Share *share, int thread, Wait *wait) {
    ptrdiff_t start = share_start(run, thread), size = share_start(run, thread + 1) - start;
    uint32_t count = 0;
    for (;;) {
        uint64_t word = atomic_load_explicit(&share->taken, memory_order_acquire);
        ptrdiff_t left = share_left(run, word, size);
        if (left <= 0) return count;
        if (share_is_kept(wait, word, left, size)) {
            thread_pause();
        } else if (atomic_compare_exchange_weak(&share->taken, &word,
                                                share_word(run->number, (uint32_t)(size - left + 1)))) {
            run->task(run->context, start + size - left);
            count++;
        }
    }
}

/* What one thread does in a run: its own share, then what is left of the others'. */
static void shares_work(const Run *run, Share *shares, int thread) {
    int64_t begin = thread_ticks();
    uint32_t count = share_work(run, &shares[thread], thread, NULL), more;
    Wait wait = {0, 0, count > 0 ? SHARE_PATIENCE * (thread_ticks() - begin) / count : 0};
    atomic_store_explicit(&shares[thread].done, share_word(run->number, count), memory_order_release);
    for (int k = 1; k < run->threads; k++) {
        int other = (thread + k) % run->threads;
        more = share_work(run, &shares[other], other, &wait);
        if (more > 0) {
            count += more;
            atomic_store_explicit(&shares[thread].done, share_word(run->number, count), memory_order_release);
        }
    }
}

/* How many tasks of a run are done. */
static ptrdiff_t shares_done(const Run *run, Share *shares) {
    ptrdiff_t count = 0;
    for (int k = 0; k < run->threads; k++) {
        uint64_t word = atomic_load_explicit(&shares[k].done, memory_order_acquire);
        if ((uint32_t)(word >> 32) == run->number) count += (ptrdiff_t)(uint32_t)word;
    }
    return count;
}

static void run_serial(Task task, const void *context, ptrdiff_t first, ptrdiff_t last) {
    for (; first < last; first++) task(context, first);
}

#endif

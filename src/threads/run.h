/* A run of tasks on the threads of the chosen layer, and how many there may be. */
#ifndef CYOPTIM_RUN_H
#define CYOPTIM_RUN_H

#include "choice.h"
#include "team.h"

enum { LAYER_POOL, LAYER_OPENMP };

static atomic_int run_layer = LAYER_POOL;
static atomic_int run_takes_all = 0;   /* threads, whatever they bring: for tests and measurements */

#if defined(_MSC_VER)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

/* The processors that the calling thread may run on now. To ask the system takes a tenth of a small run: an
 * answer is good for so many nanoseconds. */
#define RUN_PLACES_AGE 1e5

static THREAD_LOCAL struct {
    int64_t until;              /* ticks */
    int count;
    ThreadPlaces places;
} run_known;

static int run_processors(void) {
    int64_t now = thread_ticks();
    if (now >= run_known.until || run_known.until - now > (int64_t)(RUN_PLACES_AGE * thread_tick_rate())) {
        run_known.count = thread_places(&run_known.places);
        run_known.until = now + (int64_t)(RUN_PLACES_AGE * thread_tick_rate());
    }
    return run_known.count;
}

/* Forget what is known, for a caller who wants the truth. */
static void run_ask_again(void) { run_known.until = 0; }

/* How many ticks it took, if it had to wait for a thread of the pool; else 0. */
static int64_t run_tasks(Task task, const void *context, ptrdiff_t first, ptrdiff_t last, int threads) {
    if (threads > 1 && (run_layer != LAYER_OPENMP || !team_is_usable())) {
        return pool_run(task, context, first, last, threads, run_known.count > 0 ? &run_known.places : NULL);
    }
    if (threads > 1) team_run(task, context, first, last, threads);
    else run_serial(task, context, first, last);
    return 0;
}

/* A run on as many threads as are best, of at most `most`; on one it should take so many nanoseconds. How many they are. */
static int run_chosen(Choice *choice, Task task, const void *context, ptrdiff_t first, ptrdiff_t last, int most,
                      double nanoseconds) {
    int threads = 1;
    if (last - first < most) most = (int)(last - first);
    if (run_takes_all) {
        run_tasks(task, context, first, last, threads = most);
    } else if (most <= 1 || nanoseconds < CHOICE_LEAST || atomic_exchange(&choice->busy, 1) != 0) {
        /* If somebody else has the choice, he has the pool, too. */
        run_serial(task, context, first, last);
    } else {
        int64_t begun = 0, time;
        if (run_layer == LAYER_OPENMP) choice->skips = 0;   /* nothing tells that its threads came late */
        threads = choice_begin(choice, most, nanoseconds);
        if (choice->measures) begun = thread_ticks();
        time = run_tasks(task, context, first, last, threads);
        if (choice->measures) time = thread_ticks() - begun;
        choice_end(choice, (double)time);
        atomic_store_explicit(&choice->busy, 0, memory_order_release);
    }
    return threads;
}

/* Choices of runs over arrays that are given only once: by their pass, and the logarithm of their time. */
enum { RUN_PASSES = 10, RUN_SIZES = 24 };

static Choice run_choices[RUN_PASSES][RUN_SIZES];

static Choice *run_shared_choice(int pass, double nanoseconds) {
    int size = 0;
    for (nanoseconds /= CHOICE_LEAST; nanoseconds >= 2 && size < RUN_SIZES - 1; nanoseconds /= 2) size++;
    return &run_choices[pass][size];
}

static void run_forget(void) {
    /* In a forked child: the threads do not exist that had taken any. */
    memset(run_choices, 0, sizeof run_choices);
}

#endif

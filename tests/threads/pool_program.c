/* The pool without Python: runs of many sizes on many more threads than processors, each task once, from
 * several callers at a time. For sanitizers, and for systems that the test suite cannot be run on:
 *
 *     x86_64-w64-mingw32-gcc -std=c11 -O2 -Wall -Isrc tests/threads/pool_program.c -o pool.exe && wine64 pool.exe
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "threads/run.h"

enum { MOST = 100000, THREADS = 64 };

typedef struct {
    atomic_uchar *done;
    unsigned char *seen;        /* by whoever does a task, and then by the caller: only the run orders them */
} Tally;

static void count(const void *context, ptrdiff_t index) {
    const Tally *tally = (const Tally *)context;
    atomic_fetch_add(&tally->done[index], 1);
    tally->seen[index]++;
}

static atomic_int wrong, callers;
static int runs = 3000;

static int run_all(int seed) {
    static atomic_uchar room[4][MOST];
    static Choice choices[4];
    static unsigned char seen[4][MOST];
    Tally tally = {room[seed], seen[seed]};
    for (int run = 0; run < runs; run++) {
        ptrdiff_t first = run % 7, last = first + (run * 7919 + seed) % (run % 50 == 0 ? MOST - 7 : 300);
        memset((void *)tally.done, 0, MOST);
        memset(tally.seen, 0, MOST);
        if (run % 3 == 0) run_chosen(&choices[seed], count, &tally, first, last, 1 + run % 9, 1e5);
        else pool_run(count, &tally, first, last, 1 + run % (run % 10 == 0 ? THREADS : 9), NULL);
        for (ptrdiff_t k = 0; k < MOST; k++) {
            int expected = k >= first && k < last;
            if (tally.done[k] != expected || tally.seen[k] != expected) atomic_fetch_add(&wrong, 1);
        }
        /* Now and then the workers fall asleep. */
        if (run % 100 == 0) for (int64_t until = thread_ticks() + 300000; thread_ticks() < until;) {}
    }
    return 0;
}

/* How many of the threads of a run are not where its caller may run. */
static atomic_int elsewhere;

#if defined(CPU_COUNT)
static void look_around(const void *context, ptrdiff_t index) {
    ThreadPlaces here;
    int64_t until = thread_ticks() + 100000;
    (void)index;
    ThreadPlaces both;
    thread_places(&here);
    CPU_AND(&both, &here, (const ThreadPlaces *)context);
    if (!thread_same_places(&here, &both)) atomic_fetch_add(&elsewhere, 1);
    while (thread_ticks() < until) {}       /* so that the others come, too */
}

#endif

static int run_where_the_caller_may(void) {
#if defined(CPU_COUNT)
    ThreadPlaces before, first;
    thread_places(&before);
    CPU_ZERO(&first);
    for (int k = 0; k < CPU_SETSIZE; k++) {
        if (CPU_ISSET(k, &before)) {
            CPU_SET(k, &first);
            break;
        }
    }
    for (int times = 0; times < 2; times++) {
        sched_setaffinity(0, sizeof first, &first);
        pool_run(look_around, &first, 0, 200, 4, &first);
        sched_setaffinity(0, sizeof before, &before);
        pool_run(look_around, &before, 0, 200, 4, &before);
    }
#endif
    return atomic_load(&elsewhere);
}

/* Of two tasks the second takes 20 million ticks; the first ends when another thread has begun it, or waits in vain. */
static atomic_int begun;

static void wait_or_be_late(const void *context, ptrdiff_t index) {
    int64_t until = thread_ticks() + 20000000;
    (void)context;
    if (index == 1) atomic_store(&begun, 1);
    while (thread_ticks() < until && (index == 1 || !atomic_load(&begun))) {}
}

static void do_nothing(const void *context, ptrdiff_t index) { (void)context, (void)index; }

/* Whether a run tells the time for which it had to wait for another thread, and no other run does. */
static int tells_late_threads(void) {
    int64_t time = 0;
    for (int times = 0; times < 50 && time == 0; times++) {
        atomic_store(&begun, 0);
        time = pool_run(wait_or_be_late, NULL, 0, 2, 2, NULL);
    }
    return time >= 10000000 && pool_run(do_nothing, NULL, 0, 1, 1, NULL) == 0;
}

static THREAD_RESULT caller(void *number) {
    run_all((int)(intptr_t)number);
    atomic_fetch_sub(&callers, 1);
    return THREAD_END;
}

int main(int count, char **arguments) {
    ThreadHandle handle;
    if (count > 1) runs = atoi(arguments[1]);
    run_all(0);
    if (thread_processors() > 1 && !tells_late_threads()) {
        printf("a run did not tell that a thread was late\n");
        return 3;
    }
    for (int k = 1; k < 4; k++) {
        atomic_fetch_add(&callers, 1);
        if (!thread_start(caller, k, &handle)) return 2;
    }
    run_all(0);
    while (atomic_load(&callers) != 0) thread_yield();
    printf("%d processors, %d workers, %d wrong, %d elsewhere\n", thread_processors(),
           atomic_load(&pool.workers), atomic_load(&wrong), run_where_the_caller_may());
    return atomic_load(&wrong) != 0 || atomic_load(&elsewhere) != 0 || atomic_load(&pool.workers) < 8;
}

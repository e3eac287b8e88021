/* The pool without Python: runs of many sizes on many threads, each task once, and several callers
 * at a time. For systems that the test suite cannot be run on:
 *
 *     x86_64-w64-mingw32-gcc -std=c11 -O2 -Wall -Isrc tests/pool_program.c -o pool.exe && wine64 pool.exe
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "pool.h"

enum { MOST = 100000, RUNS = 3000 };

typedef struct {
    atomic_uchar *done;
} Tally;

static void count(const void *context, ptrdiff_t index) {
    atomic_fetch_add(&((const Tally *)context)->done[index], 1);
}

static atomic_int wrong, callers;

static int run_all(int seed) {
    static atomic_uchar room[4][MOST];
    Tally tally = {room[seed]};
    for (int run = 0; run < RUNS; run++) {
        ptrdiff_t first = run % 7, last = first + (run * 7919 + seed) % (run % 50 == 0 ? MOST - 7 : 300);
        memset((void *)tally.done, 0, MOST);
        pool_run(count, &tally, first, last, 1 + run % 9);
        for (ptrdiff_t k = 0; k < MOST; k++) {
            if (tally.done[k] != (k >= first && k < last)) atomic_fetch_add(&wrong, 1);
        }
    }
    return 0;
}

static THREAD_RESULT caller(void *number) {
    run_all((int)(intptr_t)number);
    atomic_fetch_sub(&callers, 1);
    return THREAD_END;
}

int main(void) {
    run_all(0);
    for (int k = 1; k < 4; k++) {
        atomic_fetch_add(&callers, 1);
        if (!thread_start(caller, k)) return 2;
    }
    run_all(0);
    while (atomic_load(&callers) != 0) thread_yield();
    printf("%d processors, %d workers, %d wrong\n", thread_processors(), pool.workers, atomic_load(&wrong));
    return atomic_load(&wrong) != 0 || pool.workers < 1;
}

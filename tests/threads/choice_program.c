/* The choice of the number of threads, in worlds whose times are known: what it costs beyond the best number,
 * and how soon it follows a change. Prints a line a world; the exit status says whether all are within bounds. */
#define _GNU_SOURCE
#include <stdio.h>

#include "threads/run.h"

typedef double (*World)(int threads, long run);     /* microseconds */

static unsigned long state = 1;

static double uniform(void) {
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (double)(state >> 11) / 9007199254740992.0;
}

static double in_a_loop(int threads, long run) { (void)run; return 20.0 / threads + (threads > 1); }
static double between_products(int threads, long run) { (void)run; return 20.0 / threads + (threads > 1 ? 40 : 0); }
static double stalls(int threads, long run) { (void)run; return threads > 1 ? 5000 : 20; }
static double noisy(int threads, long run) {
    double time = in_a_loop(threads, run) * (1 + uniform() / 2);
    return uniform() < 0.001 ? time + 2000 : time;
}
static double long_runs(int threads, long run) { (void)run; return 16000.0 / threads; }
static double best_in_the_middle(int threads, long run) { (void)run; return 100.0 / threads + 4 * threads; }
static double only_all_help(int threads, long run) { (void)run; return threads == 1 ? 100 : 90 + 100.0 / threads - threads * 4; }
static double all_alike(int threads, long run) { (void)threads; (void)run; return 20; }
static double changing(int threads, long run) {
    return (run / 20000) % 2 ? between_products(threads, run) : in_a_loop(threads, run);
}

static double best_time(World world, int most, long run) {
    unsigned long kept = state;
    double best = 1e9;
    for (int threads = 1; threads <= most; threads *= 2) {
        double time;
        state = kept;
        time = world(threads, run);
        if (time < best) best = time;
    }
    state = kept;
    return best;
}

/* The time of many runs over that with the best power of two of threads at each, which is to be within the bound. */
static int check(const char *name, World world, int most, double expected, long runs, double bound) {
    static Choice choice;
    double spent = 0, best = 0, rate = thread_tick_rate() * 1e3;
    int best_threads = 0;
    memset(&choice, 0, sizeof choice);
    for (long run = 0; run < runs; run++) {
        double time, least = best_time(world, most, run);
        best_threads = choice_begin(&choice, most, expected * 1e3);
        time = world(best_threads, run);
        choice_end(&choice, time * rate);
        /* Adaptation: the first 50 ms do not count. */
        if (spent + best > 0 || run * expected > 5e4) {
            spent += time;
            best += least;
        }
    }
    printf("%-20s %2d threads: %.4f of the best, allowed %.3f\n", name, most, spent / best, bound);
    return spent > bound * best;
}

int main(void) {
    int wrong = 0;
    wrong += check("in a loop", in_a_loop, 2, 20, 100000, 1.012);
    wrong += check("in a loop", in_a_loop, 16, 20, 100000, 1.012);
    wrong += check("between products", between_products, 2, 20, 100000, 1.012);
    wrong += check("between products", between_products, 16, 20, 100000, 1.012);
    wrong += check("stalls", stalls, 2, 20, 1000000, 1.02);
    wrong += check("noisy", noisy, 2, 20, 100000, 1.02);
    wrong += check("long runs", long_runs, 16, 16000, 2000, 1.012);
    wrong += check("the middle is best", best_in_the_middle, 16, 100, 100000, 1.02);
    wrong += check("only all help", only_all_help, 16, 100, 100000, 1.02);
    wrong += check("all alike", all_alike, 16, 20, 100000, 1.0001);
    wrong += check("a bad guess", in_a_loop, 2, 2, 100000, 1.012);
    wrong += check("another bad guess", in_a_loop, 2, 2000, 100000, 1.012);
    wrong += check("changing", changing, 2, 20, 400000, 1.05);
    return wrong != 0;
}

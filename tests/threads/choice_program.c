/* The choice of the number of threads, in worlds whose times are known: what it costs beyond the best number,
 * and how soon it follows a change. Prints a line a world; the exit status says whether all are within bounds. */
#define _GNU_SOURCE
#include <stdio.h>

#include "threads/run.h"

enum { PERIOD = 20000, MOST_ARMS = 9 };     /* runs in which no world changes */

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
static double heavy_tails(int threads, long run) {      /* others are in the way now and then */
    double time = threads == 1 ? 115 + 20 * uniform() : 70 + 30 * uniform();
    (void)run;
    return threads > 1 && uniform() < 0.03 ? 800 : time;
}
static double long_runs(int threads, long run) { (void)run; return 16000.0 / threads; }
static double best_in_the_middle(int threads, long run) { (void)run; return 100.0 / threads + 4 * threads; }
static double only_all_help(int threads, long run) { (void)run; return threads == 1 ? 100 : 90 + 100.0 / threads - threads * 4; }
static double all_alike(int threads, long run) { (void)threads; (void)run; return 20; }
static double changing(int threads, long run) {
    return (run / PERIOD) % 2 ? between_products(threads, run) : in_a_loop(threads, run);
}

/* Adds the time of this run on each power of two of threads. */
static void add_times(World world, int most, long run, double *sums) {
    unsigned long kept = state;
    for (int threads = 1, arm = 0; threads <= most; threads *= 2, arm++) {
        state = kept;
        sums[arm] += world(threads, run);
    }
    state = kept;
}

static double take_best(int most, double *sums) {
    double best = sums[0];
    for (int threads = 1, arm = 0; threads <= most; threads *= 2, arm++) {
        if (sums[arm] < best) best = sums[arm];
        sums[arm] = 0;
    }
    return best;
}

/* The time of many runs over that of the best power of two of threads in each period, which is to be within the bound. */
static int check(const char *name, World world, int most, double expected, long runs, double bound) {
    static Choice choice;
    double sums[MOST_ARMS] = {0}, spent = 0, best = 0, rate = thread_tick_rate() * 1e3;
    memset(&choice, 0, sizeof choice);
    for (long run = 0; run < runs; run++) {
        double time;
        if (run % PERIOD == 0) best += take_best(most, sums);
        /* Adaptation: the first 50 ms do not count. */
        if (run * expected > 5e4) add_times(world, most, run, sums);
        time = world(choice_begin(&choice, most, expected * 1e3), run);
        if (choice.measures) choice_end(&choice, time * rate);
        if (run * expected > 5e4) spent += time;
    }
    best += take_best(most, sums);
    printf("%-20s %2d threads: %.4f of the best, allowed %.3f\n", name, most, spent / best, bound);
    return spent > bound * best;
}

/* The first thousand runs after products of matrices, whose threads are in the way of some: over many beginnings, the time
 * over that of the better number, which is to be within the bound. */
static double stalling;     /* how many runs on two threads wait for a processor, up to 3 ms */

static double after_products(int threads) {
    if (threads == 1) return 600 + 20 * uniform();
    return 330 + 30 * uniform() + (uniform() < stalling ? 3000 * uniform() : 0);
}

static int check_beginning(double share, double bound) {
    enum { RUNS = 1000, BEGINNINGS = 300 };
    static Choice choice;
    double one = 610, two = 345 + 1500 * share, spent = 0, rate = thread_tick_rate() * 1e3, ratio;
    stalling = share;
    for (int begin = 0; begin < BEGINNINGS; begin++) {
        memset(&choice, 0, sizeof choice);
        for (int run = 0; run < RUNS; run++) {
            double time = after_products(choice_begin(&choice, 2, 650e3));
            choice_end(&choice, time * rate);
            spent += time;
        }
    }
    ratio = spent / RUNS / BEGINNINGS / (one < two ? one : two);
    printf("a beginning, %2.0f %% stall: %.4f of the best, allowed %.3f\n", 100 * share, ratio, bound);
    return ratio > bound;
}

/* Two threads are a little better, but the first runs after a change are slow: the data are in the other's cache. */
static int check_moving(double bound) {
    enum { RUNS = 300000, MOVED = 4 };
    static Choice choice;
    double spent = 0, rate = thread_tick_rate() * 1e3, ratio, late;
    int last = 0, since = MOVED;
    memset(&choice, 0, sizeof choice);
    for (int run = 0; run < RUNS; run++) {
        int threads = choice_begin(&choice, 2, 1.5e3);
        double time = (threads == 1 ? 1.7 : 1.5) * (0.9 + 0.2 * uniform());
        since = threads == last ? since + 1 : 0;
        if (since < MOVED) time += 0.6;
        late = uniform() < 0.001 ? 6 : 0;
        time += late;
        last = threads;
        if (choice.measures || late) choice_end(&choice, time * rate);
        spent += time;
    }
    ratio = spent / RUNS / 1.506;
    printf("data that move: %.4f of the best, allowed %.3f\n", ratio, bound);
    return ratio > bound;
}

/* A program's first steps are slow, on two threads above all. */
static int check_cold_beginning(double bound) {
    enum { RUNS = 150, COLD = 8 };
    static Choice choice;
    double spent = 0, best = 0, rate = thread_tick_rate() * 1e3;
    memset(&choice, 0, sizeof choice);
    for (int run = 0; run < RUNS; run++) {
        int threads = choice_begin(&choice, 2, 1.1e6);
        double time = threads == 1 ? 1130 : run < COLD ? 2500 : 800;
        choice_end(&choice, time * rate);
        if (run >= COLD) spent += time;
        if (run >= COLD) best += 800;
    }
    printf("a cold beginning: %.4f of the best, allowed %.3f\n", spent / best, bound);
    return spent > bound * best;
}

int main(void) {
    int wrong = 0;
    wrong += check_beginning(0, 1.01);
    wrong += check_beginning(0.01, 1.03);
    wrong += check_beginning(0.05, 1.05);
    wrong += check_beginning(0.1, 1.05);
    wrong += check_beginning(0.2, 1.05);
    wrong += check_cold_beginning(1.05);
    wrong += check_moving(1.01);
    wrong += check("in a loop", in_a_loop, 2, 20, 100000, 1.007);
    wrong += check("in a loop", in_a_loop, 16, 20, 100000, 1.007);
    wrong += check("between products", between_products, 2, 20, 100000, 1.007);
    wrong += check("between products", between_products, 16, 20, 100000, 1.007);
    wrong += check("stalls", stalls, 2, 20, 1000000, 1.02);
    wrong += check("noisy", noisy, 2, 20, 100000, 1.01);
    wrong += check("heavy tails", heavy_tails, 2, 120, 100000, 1.015);
    wrong += check("long runs", long_runs, 16, 16000, 2000, 1.012);
    wrong += check("the middle is best", best_in_the_middle, 16, 100, 100000, 1.02);
    wrong += check("only all help", only_all_help, 16, 100, 100000, 1.02);
    wrong += check("all alike", all_alike, 16, 20, 100000, 1.0001);
    wrong += check("a bad guess", in_a_loop, 2, 2, 100000, 1.007);
    wrong += check("another bad guess", in_a_loop, 2, 2000, 100000, 1.007);
    wrong += check("changing", changing, 2, 20, 400000, 1.05);
    return wrong != 0;
}

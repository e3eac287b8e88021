/* How many threads a run takes.
 *
 * A run on n threads takes its work divided by n, and the time until the others have come. They come at
 * once if they still look for work; if they sleep, after some microseconds, or never, if other threads
 * occupy the processors. No constant tells which: in a loop of steps two threads halve a step of twenty
 * microseconds; between matrix products, whose threads linger, they double it. So runs are measured. A
 * Choice keeps the mean time of the runs of one kind for each number of threads, and takes the best; now
 * and then it tries another. What trials cost beyond the best time is counted, and kept below a
 * two-hundredth of the time of all runs. Before the first trial of a number of threads a model predicts its time.
 *
 * Results do not depend on it: they have the same bits for any number of threads. */
#ifndef CYOPTIM_CHOICE_H
#define CYOPTIM_CHOICE_H

#include <string.h>

#include "pool.h"

enum {
    CHOICE_ARMS = 9,        /* numbers of threads: 1, 2, 4, ..., and the most that there may be */
    CHOICE_TRIAL = 2,       /* runs of a trial that count, after those that wake the threads, */
    CHOICE_WARM = 5,        /* and as many in which their data come into their caches: also when the best ones return */
    CHOICE_CLOSE = 8,       /* runs of a trial that count, if those are about as good as the best */
    CHOICE_PATIENCE = 4,    /* times the lateness of threads that sleep, after which a trial no longer waits for them */
    CHOICE_STALL = 8,       /* times the best: a run that takes longer counts as this much, and ends a trial */
    CHOICE_MEAN = 256,      /* runs over which times are smoothed: a rare slow one must not look like the usual */
    CHOICE_SLOW = 8,        /* so many slow ones, one after the other, are a change */
    CHOICE_REST = 8,        /* runs until a trial is thought of again that cannot be afforded */
    CHOICE_SAMPLE = 8,      /* of so many short runs one is measured, */
    CHOICE_SURE = 32        /* once so many runs are in the mean */
};

#define CHOICE_CHANGE 1.5       /* times the least mean: if so many runs take longer, surroundings have changed */
#define CHOICE_NEAR 0.125       /* of the best time: a trial that differs by less goes on */
#define CHOICE_GAIN 0.015625    /* of the best time: what a trial has to win */
#define CHOICE_COST 0.005       /* of all time that may be spent on trials */
#define CHOICE_CREDIT 1000      /* runs: trials begin as if so many had been made, */
#define CHOICE_RUN 5e4          /* of so many nanoseconds at least */
#define CHOICE_WAKE 2e4         /* nanoseconds: how late threads that sleep are believed to come, until it is measured */
#define CHOICE_COME 500         /* nanoseconds: how late those come that do not */
#define CHOICE_LINGER 3e5       /* nanoseconds: a longer trial lets threads sleep */
#define CHOICE_SHORT 2e4        /* nanoseconds: to measure a shorter run takes more than a hundredth of it */
#define CHOICE_LEAST 1200       /* nanoseconds: a shorter run is done by one thread */

typedef struct {
    atomic_int busy;            /* a run is being measured */
    int most, arms;             /* threads that there may be; how many numbers of threads there are to choose from */
    int best, trial, left;      /* arms; runs that are left of the trial */
    int warm;                   /* runs since its threads have been woken */
    int counted;                /* runs of the trial that count, so far */
    int back;                   /* runs after a trial that did not win, until the data are back in their caches */
    int next;                   /* arm whose trial may come next */
    int slow;                   /* runs one after the other that were slower than they used to be */
    int count;                  /* runs in the mean time of the best arm */
    int begins;                 /* only the first arm has been measured so far */
    int measures;               /* the run that has begun */
    int skips;                  /* runs that need not be measured */
    int stands;                 /* runs that the next one that is measured stands for */
    double spent;               /* ticks: of all runs */
    double rest;                /* ticks of all runs until which no trial is thought of */
    double least;               /* ticks: the least mean time of the best arm since other arms were measured or forgotten */
    double waking, sum, lost;   /* ticks of the trial: until its threads are awake; of the runs that count; beyond the best */
    double time[CHOICE_ARMS];   /* ticks: mean time of a run; 0: not measured */
    double debt[CHOICE_ARMS];   /* ticks that trials have cost */
    unsigned char stalls[CHOICE_ARMS];  /* trials that were given up since the last one that was not */
} Choice;

static int choice_threads(const Choice *choice, int arm) {
    return arm + 1 == choice->arms ? choice->most : 1 << arm;
}

/* Ticks after which threads that sleep come. */
static double choice_lateness(void) {
    double late = (double)atomic_load_explicit(&pool.lateness, memory_order_relaxed);
    double usual = CHOICE_WAKE * thread_tick_rate();
    if (late <= 0) return usual;
    return late < CHOICE_STALL * usual ? late : CHOICE_STALL * usual;
}

/* What a run should take that takes so many ticks on one thread, if no other has to be woken. */
static double choice_model(const Choice *choice, int arm, double ticks) {
    int threads = choice_threads(choice, arm);
    return threads == 1 ? ticks : ticks / threads + CHOICE_COME * thread_tick_rate();
}

/* What has to be waited for if so many threads are to run. */
static double choice_wait(int threads) {
    return threads == 1 || pool_is_awake(threads) ? 0 : choice_lateness();
}

static double choice_expect(const Choice *choice, int arm, double ticks) {
    return choice->time[arm] > 0 ? choice->time[arm] : choice_model(choice, arm, ticks);
}

/* While fewer threads are tried the others must not fall asleep: to wake them would take longer than the trial. */
static void choice_keep_awake(const Choice *choice, double time) {
    double most = CHOICE_LINGER * thread_tick_rate();
    time *= CHOICE_WARM + CHOICE_TRIAL + 1;
    if (choice->trial < choice->best && time < most) {
        atomic_store_explicit(&pool.awaited, thread_ticks() + (int64_t)time, memory_order_relaxed);
    }
}

static void choice_begin_trial(Choice *choice, int arm) {
    choice->trial = arm;
    choice->left = CHOICE_TRIAL;
    choice->warm = choice->counted = choice->back = 0;
    choice->waking = choice->sum = choice->lost = 0;
}

static void choice_reset(Choice *choice, int most, double ticks) {
    int first = 0;
    double least = ticks;
    memset(choice, 0, sizeof *choice);
    atomic_store(&choice->busy, 1);
    choice->most = most;
    choice->stands = choice->begins = 1;
    for (choice->arms = 1; 1 << (choice->arms - 1) < most; choice->arms++) {}
    for (int arm = 1; arm < choice->arms; arm++) {
        double time = choice_model(choice, arm, ticks) + choice_wait(choice_threads(choice, arm));
        if (time < least) {
            least = time;
            first = arm;
        }
    }
    choice->best = first;
    choice_begin_trial(choice, first);
}

/* Begin a trial of the next arm if it can be afforded. */
static void choice_try(Choice *choice, double ticks) {
    double best = choice->time[choice->best], loss, credit, most;
    int arm = choice->next = (choice->next + 1) % choice->arms;
    if (arm == choice->best) return;
    /* Few runs were measured, in which a rare one may have been: so what the model says counts as much. */
    loss = (choice_expect(choice, arm, ticks) + choice_model(choice, arm, ticks)) / 2 - best;
    if (choice->time[arm] == 0 && loss < 0) loss = 0;
    else if (loss < best / 8) loss = best / 8;      /* what is moved from cache to cache */
    /* Until the others come the caller does their work, too. */
    if (choice_wait(choice_threads(choice, arm)) > 0) loss += best / 8;
    loss *= CHOICE_WARM + CHOICE_TRIAL;
    credit = CHOICE_RUN * thread_tick_rate();
    credit = CHOICE_CREDIT * (best > credit ? best : credit);
    most = CHOICE_COST * (choice->spent + credit) / (choice->arms - 1);
    if (choice->debt[arm] + loss <= most) {
        choice_begin_trial(choice, arm);
        choice_keep_awake(choice, choice_expect(choice, arm, ticks));
    } else {
        choice->rest = choice->spent + CHOICE_REST * best;
    }
}

static void choice_take(Choice *choice, int arm, int count) {
    choice->best = arm;
    choice->count = count;
}

/* The first arm was measured in a program's first steps, where much is slow that does not stay so: it gets another trial. */
static void choice_win_trial(Choice *choice) {
    if (choice->begins) choice->time[choice->best] = choice->debt[choice->best] = 0;
    choice_take(choice, choice->trial, choice->counted);
}

static void choice_end_trial(Choice *choice, double best, int stalls) {
    int arm = choice->trial;
    if (stalls) {
        if (choice->stalls[arm] < 10) choice->stalls[arm]++;
        choice->lost += CHOICE_STALL * best * (1 << choice->stalls[arm]);
        choice->time[arm] = CHOICE_STALL * best;
    } else {
        choice->stalls[arm] = 0;
        choice->time[arm] = choice->sum / choice->counted;
    }
    choice->left = 0;
    choice->least = 0;
    choice->debt[arm] += choice->lost > best / 4 ? choice->lost : best / 4;
    if (arm == choice->best) {
        choice->count = choice->counted;
        return;
    }
    if (choice->time[arm] < (1 - CHOICE_GAIN) * best) choice_win_trial(choice);
    else choice->back = CHOICE_WARM;
    choice->begins = 0;
}

/* Whether too few runs were counted to tell which is better. */
static int choice_is_close(const Choice *choice, double best) {
    double mean = choice->sum / choice->counted;
    return choice->counted < CHOICE_CLOSE && choice->trial != choice->best
        && mean > (1 - CHOICE_NEAR) * best && mean < (1 + CHOICE_NEAR) * best;
}

/* A run of a trial. If one stalls, others occupy the processors, or something rare has happened: the trial ends,
 * and the next one comes the later, the more have ended so. */
static void choice_note_trial(Choice *choice, double time) {
    double best = choice->time[choice->best] > 0 ? choice->time[choice->best] : time;
    int stalls = time > CHOICE_STALL * best, warm = choice->warm >= CHOICE_WARM;
    if (!warm) {
        choice->waking += time;
        if (choice->warm > 0 || pool_is_awake(choice_threads(choice, choice->trial))
            || choice->waking > CHOICE_PATIENCE * choice_lateness()) choice->warm++;
    } else {
        choice->sum += time;
        choice->counted++;
        choice->left--;
        if (choice->left == 0 && choice_is_close(choice, best)) choice->left = 1;
    }
    choice->lost += (stalls ? CHOICE_STALL * best : time) - best;
    if (choice->left == 0 || (stalls && warm)) choice_end_trial(choice, best, stalls);
}

/* The surroundings have changed: the best arm now takes this time, and what was measured in others no longer counts,
 * unless it promises to be better than that. */
static void choice_forget(Choice *choice, double time) {
    for (int arm = 0; arm < choice->arms; arm++) {
        if (arm != choice->best && choice->time[arm] >= time && choice->stalls[arm] == 0) {
            choice->time[arm] = choice->debt[arm] = 0;
        }
    }
    choice->time[choice->best] = choice->least = time;
    choice->count = CHOICE_TRIAL;
    choice->slow = 0;
}

/* So many runs of the best arm. If another arm promises to be clearly better, it takes its place at once; else a trial
 * decides. */
static void choice_note(Choice *choice, double time, int runs) {
    double *mean = &choice->time[choice->best];
    if (choice->back > 0) {
        choice->back--;
        choice->debt[choice->trial] += (time < CHOICE_STALL * *mean ? time : CHOICE_STALL * *mean) - *mean;
        return;
    }
    choice->count = choice->count + runs < CHOICE_MEAN ? choice->count + runs : CHOICE_MEAN;
    if (time > CHOICE_STALL * *mean) time = CHOICE_STALL * *mean;
    *mean += (time - *mean) * runs / choice->count;
    if (choice->least == 0 || *mean < choice->least) choice->least = *mean;
    choice->slow = time > CHOICE_CHANGE * choice->least ? choice->slow + 1 : 0;
    if (choice->slow == CHOICE_SLOW) choice_forget(choice, time);
    for (int arm = 0; arm < choice->arms; arm++) {
        if (choice->time[arm] > 0 && choice->time[arm] < (1 - CHOICE_NEAR) * choice->time[choice->best]) {
            choice_take(choice, arm, CHOICE_TRIAL);
        }
    }
    if (choice->count >= CHOICE_SURE && choice->slow == 0 && *mean < CHOICE_SHORT * thread_tick_rate()) {
        choice->skips = CHOICE_SAMPLE - 1;
    }
}

/* The number of threads of the run that begins: at most `most`, which is more than 1. On one thread it should
 * take so many nanoseconds. */
static int choice_begin(Choice *choice, int most, double nanoseconds) {
    double ticks = nanoseconds * thread_tick_rate();
    if (most > POOL_MOST) most = POOL_MOST;
    if (most != choice->most) {
        choice_reset(choice, most, ticks);
    } else if (choice->skips > 0) {
        choice->skips--;
        choice->stands++;
        choice->measures = 0;
        return choice_threads(choice, choice->best);
    } else if (choice->left == 0 && choice->spent >= choice->rest) {
        choice_try(choice, ticks);
    }
    choice->measures = 1;
    return choice_threads(choice, choice->left > 0 ? choice->trial : choice->best);
}

/* The run has taken so many ticks: one that is measured, or one that had to wait for another thread. */
static void choice_end(Choice *choice, double time) {
    int runs = choice->measures ? choice->stands : 1;
    if (time <= 0) return;
    choice->stands = choice->measures ? 1 : choice->stands - 1;
    choice->skips = 0;
    choice->spent += time * runs;
    if (choice->left > 0) choice_note_trial(choice, time);
    else choice_note(choice, time, runs);
}

#endif

/* A pool of threads for runs of many short, independent tasks.
 *
 * (a) The caller works, too, and waits only for workers that have taken a task. A worker that gets
 *     no processor, because another library's threads spin on it or another process has it, costs
 *     nothing: the others do its share. (A parallel region of OpenMP waits for every thread of its
 *     team to arrive, which then takes milliseconds.)
 * (b) Idle workers look for the next run for some tens of microseconds, then sleep. By the clock, as
 *     processors differ in how long a pause is. Those that sleep are woken in a tree: each wakes two others, so that
 *     the caller makes at most two calls of the system.
 * (c) One run at a time: whoever finds the pool taken does its work alone. Nobody ever waits for
 *     somebody else's run.
 * (d) Workers run where the caller may run, but not on its own processor: some systems would wake a worker
 *     there, where it can only disturb.
 * (e) A forked child has no workers and makes its own. */
#ifndef CYOPTIM_POOL_H
#define CYOPTIM_POOL_H

#include "shares.h"

enum {
    POOL_MOST = 256,    /* threads, the caller's included */
    POOL_LOOKS = 1000,  /* at whether the others are done, before the caller yields */
    POOL_LATE = 200,    /* such looks, after which another thread is late */
    POOL_GLANCES = 16   /* at whether there is another run, between two at the clock */
};

#define POOL_LINGER 5e4 /* nanoseconds without a run before a worker sleeps */

/* What workers see of the run, in one cache line. The number is written last; 0 while the rest changes. */
typedef struct {
    _Alignas(64) atomic_uint number;
    atomic_int threads;
    atomic_uintptr_t task, context;
    atomic_ptrdiff_t first, last;
    atomic_int_fast64_t opened;     /* ticks */
} Board;

typedef struct {
    _Alignas(64) ThreadBed bed;
    atomic_int asleep;
    ThreadHandle handle;
} Worker;

static struct {
    Board board;
    _Alignas(64) atomic_int sleeping;   /* workers */
    _Alignas(64) atomic_int taken;      /* by the thread whose run this is */
    atomic_int workers;                 /* started so far; those of the board are 1 to `workers` */
    uint32_t runs;
    ThreadPlaces places;                /* where workers run */
    atomic_int_fast64_t lateness;       /* of workers that were asleep, in ticks: a moving average */
    atomic_int_fast64_t awaited;        /* ticks until which another run is sure to come */
    Worker worker[POOL_MOST];
    Share shares[POOL_MOST];
} pool;

static uint32_t pool_number(void) { return (uint32_t)atomic_load(&pool.board.number); }

/* Whether there is another run than the last one; if so, a consistent copy of it: acquiring loads, and a
 * number that is the same before and after. */
static int pool_look(Run *run, uint32_t last) {
    uint32_t number = pool_number();
    if (number == 0 || number == last) return 0;
    run->number = number;
    run->threads = atomic_load_explicit(&pool.board.threads, memory_order_acquire);
    run->task = (Task)atomic_load_explicit(&pool.board.task, memory_order_acquire);
    run->context = (const void *)atomic_load_explicit(&pool.board.context, memory_order_acquire);
    run->first = atomic_load_explicit(&pool.board.first, memory_order_acquire);
    run->last = atomic_load_explicit(&pool.board.last, memory_order_acquire);
    return pool_number() == number;
}

static void pool_write(const Run *run) {
    atomic_store_explicit(&pool.board.number, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.board.threads, run->threads, memory_order_release);
    atomic_store_explicit(&pool.board.task, (uintptr_t)run->task, memory_order_release);
    atomic_store_explicit(&pool.board.context, (uintptr_t)run->context, memory_order_release);
    atomic_store_explicit(&pool.board.first, run->first, memory_order_release);
    atomic_store_explicit(&pool.board.last, run->last, memory_order_release);
    atomic_store_explicit(&pool.board.opened, thread_ticks(), memory_order_release);
    atomic_store(&pool.board.number, run->number);
}

static void pool_wake(int thread) {
    Worker *worker = &pool.worker[thread];
    if (atomic_load(&worker->asleep)) {
        thread_lock(&worker->bed);
        thread_wake(&worker->bed);
        thread_unlock(&worker->bed);
    }
}

/* Wake the children of a thread in the tree. Either this sees that a worker sleeps, or the worker sees the run. */
static void pool_wake_children(const Run *run, int thread) {
    if (atomic_load(&pool.sleeping) == 0) return;
    for (int child = 2 * thread + 1; child <= 2 * thread + 2 && child < run->threads; child++) {
        pool_wake(child);
    }
}

static void pool_sleep(Worker *worker, Run *run, uint32_t last) {
    thread_lock(&worker->bed);
    atomic_store(&worker->asleep, 1);
    atomic_fetch_add(&pool.sleeping, 1);
    while (!pool_look(run, last)) thread_sleep(&worker->bed);
    atomic_fetch_sub(&pool.sleeping, 1);
    atomic_store(&worker->asleep, 0);
    thread_unlock(&worker->bed);
}

static void pool_note_lateness(void) {
    int64_t late = thread_ticks() - atomic_load_explicit(&pool.board.opened, memory_order_relaxed);
    int64_t mean = atomic_load_explicit(&pool.lateness, memory_order_relaxed);
    if (late < 0) return;       /* clocks of two processors may differ */
    if (mean == 0) mean = late;
    atomic_store_explicit(&pool.lateness, mean + (late - mean) / 4, memory_order_relaxed);
}

static void pool_await(int thread, Run *run, uint32_t last) {
    int64_t until = thread_ticks() + (int64_t)(POOL_LINGER * thread_tick_rate()), now;
    do {
        for (int look = 0; look < POOL_GLANCES; look++) {
            if (pool_look(run, last)) return;
            thread_pause();
        }
        now = thread_ticks();
    } while (now < until || now < atomic_load_explicit(&pool.awaited, memory_order_relaxed));
    pool_sleep(&pool.worker[thread], run, last);
    if (thread < run->threads) pool_note_lateness();
}

static THREAD_RESULT pool_worker(void *argument) {
    int thread = (int)(intptr_t)argument;
    Run run = {0};
    for (;;) {
        pool_await(thread, &run, run.number);
        pool_wake_children(&run, thread);
        if (thread < run.threads) shares_work(&run, pool.shares, thread);
    }
    return THREAD_END;
}

static void pool_forget(void) {
    /* In a forked child, where no worker exists and no run is open. */
    atomic_store(&pool.taken, 0);
    atomic_store(&pool.board.number, 0);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.workers, 0);
}

static int pool_watches_forks(void) {
    static int watches = 0;
    if (!watches) watches = thread_watch_forks(pool_forget);
    return watches;
}

/* Make workers up to this number of threads; return how many threads there can be. */
static int pool_start(int threads) {
    int workers = atomic_load_explicit(&pool.workers, memory_order_relaxed);
    if (workers + 1 >= threads) return threads;
    if (!pool_watches_forks()) return 1;
    thread_no_places(&pool.places);     /* new workers are not there yet */
    while (workers + 1 < threads) {
        Worker *worker = &pool.worker[workers + 1];
        thread_make_bed(&worker->bed);
        atomic_store(&worker->asleep, 0);
        if (!thread_start(pool_worker, workers + 1, &worker->handle)) break;
        atomic_store_explicit(&pool.workers, ++workers, memory_order_relaxed);
    }
    return workers + 1;
}

/* Let the workers run where this thread may run, and does not. */
static void pool_follow(const ThreadPlaces *places) {
    ThreadPlaces others = *places;
    thread_leave_own(&others);
    if (thread_same_places(&others, &pool.places)) return;
    for (int k = 1; k <= atomic_load_explicit(&pool.workers, memory_order_relaxed); k++) {
        thread_move(pool.worker[k].handle, &others);
    }
    pool.places = others;
}

/* Wait for the others; whether that took long. */
static int pool_close(const Run *run) {
    ptrdiff_t tasks = run->last - run->first;
    int look = 0;
    for (; shares_done(run, pool.shares) != tasks; look++) {
        /* A worker that lost its processor in the middle of a task may get this one. */
        if (look < POOL_LOOKS) thread_pause();
        else thread_yield();
    }
    return look > POOL_LATE;
}

/* Whether so many threads would not have to be woken. */
static int pool_is_awake(int threads) {
    return atomic_load_explicit(&pool.workers, memory_order_relaxed) + 1 >= threads
        && atomic_load_explicit(&pool.sleeping, memory_order_relaxed) == 0;
}

/* Call task(context, index) for every index in [first, last), on at most this many threads. How many ticks it took, if it
 * had to wait for one that was late; else 0. */
static int64_t pool_run(Task task, const void *context, ptrdiff_t first, ptrdiff_t last, int threads,
                        const ThreadPlaces *places) {
    Run run = {0, threads < POOL_MOST ? threads : POOL_MOST, task, context, first, last};
    int64_t time;
    if (run.threads <= 1 || last - first > SHARE_TASKS || atomic_exchange(&pool.taken, 1) != 0) {
        run_serial(task, context, first, last);
        return 0;
    }
    run.threads = pool_start(run.threads);
    if (places != NULL) pool_follow(places);
    if (++pool.runs == 0) pool.runs = 1;
    run.number = pool.runs;
    pool_write(&run);
    pool_wake_children(&run, 0);
    shares_work(&run, pool.shares, 0);
    time = pool_close(&run) ? thread_ticks() - atomic_load_explicit(&pool.board.opened, memory_order_relaxed) : 0;
    atomic_store_explicit(&pool.taken, 0, memory_order_release);
    return time;
}

#endif

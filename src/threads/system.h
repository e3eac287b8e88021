/* What the pool needs of a system: threads, sleep until woken, forks, the processors that a thread may run
 * on, and a clock. POSIX threads, or Windows' own. */
#ifndef CYOPTIM_SYSTEM_H
#define CYOPTIM_SYSTEM_H

#include <stdint.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#if defined(_WIN32)

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#include <process.h>
#include <stdint.h>

/* A place for one thread to sleep at: it holds the lock, and waits there until it is woken. */
typedef struct {
    SRWLOCK lock;
    CONDITION_VARIABLE wake;
} ThreadBed;

static inline void thread_make_bed(ThreadBed *bed) {
    InitializeSRWLock(&bed->lock);
    InitializeConditionVariable(&bed->wake);
}

static inline void thread_lock(ThreadBed *bed) { AcquireSRWLockExclusive(&bed->lock); }
static inline void thread_unlock(ThreadBed *bed) { ReleaseSRWLockExclusive(&bed->lock); }
static inline void thread_sleep(ThreadBed *bed) {
    SleepConditionVariableSRW(&bed->wake, &bed->lock, INFINITE, 0);
}
static inline void thread_wake(ThreadBed *bed) { WakeConditionVariable(&bed->wake); }
static inline void thread_yield(void) { SwitchToThread(); }
static inline void thread_pause(void) { YieldProcessor(); }

/* There are no forks. */
static inline int thread_watch_forks(void (*forget)(void)) { (void)forget; return 1; }

typedef HANDLE ThreadHandle;

/* Start a thread that nobody waits for; whether there is one. */
static inline int thread_start(unsigned(__stdcall *work)(void *), int number, ThreadHandle *handle) {
    *handle = (HANDLE)_beginthreadex(NULL, 0, work, (void *)(intptr_t)number, 0, NULL);
    return *handle != 0;
}
#define THREAD_RESULT unsigned __stdcall
#define THREAD_END 0

/* Processors that this process may run on, of its own group of up to 64. */
static inline int thread_processors(void) {
    DWORD_PTR own, all;
    int count = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &all)) return 1;
    for (; own != 0; own &= own - 1) count++;
    return count > 0 ? count : 1;
}

/* A process's affinity is that of all of its threads: there is nothing to follow. */
typedef struct { char nothing; } ThreadPlaces;
static inline int thread_places(ThreadPlaces *places) { places->nothing = 0; return thread_processors(); }
static inline int thread_same_places(const ThreadPlaces *a, const ThreadPlaces *b) { (void)a; (void)b; return 1; }
static inline void thread_move(ThreadHandle handle, const ThreadPlaces *places) { (void)handle; (void)places; }
static inline void thread_no_places(ThreadPlaces *places) { (void)places; }
static inline void thread_leave_own(ThreadPlaces *places) { (void)places; }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
} ThreadBed;

static inline void thread_make_bed(ThreadBed *bed) {
    pthread_mutex_init(&bed->lock, NULL);
    pthread_cond_init(&bed->wake, NULL);
}

static inline void thread_lock(ThreadBed *bed) { pthread_mutex_lock(&bed->lock); }
static inline void thread_unlock(ThreadBed *bed) { pthread_mutex_unlock(&bed->lock); }
static inline void thread_sleep(ThreadBed *bed) { pthread_cond_wait(&bed->wake, &bed->lock); }
static inline void thread_wake(ThreadBed *bed) { pthread_cond_signal(&bed->wake); }
static inline void thread_yield(void) { sched_yield(); }
static inline void thread_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline int thread_watch_forks(void (*forget)(void)) {
    return pthread_atfork(NULL, NULL, forget) == 0;
}

typedef pthread_t ThreadHandle;

static inline int thread_start(void *(*work)(void *), int number, ThreadHandle *handle) {
    sigset_t all, before;
    pthread_attr_t detached;
    int failed;
    sigfillset(&all);           /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(handle, &detached, work, (void *)(intptr_t)number);
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}
#define THREAD_RESULT void *
#define THREAD_END NULL

#if defined(CPU_COUNT)          /* Linux, with _GNU_SOURCE, as Python defines it */
typedef cpu_set_t ThreadPlaces;
#else
typedef struct { char nothing; } ThreadPlaces;
#endif

/* The processors that the calling thread may run on: how many, and which. */
static inline int thread_places(ThreadPlaces *places) {
    long online;
#if defined(CPU_COUNT)
    if (sched_getaffinity(0, sizeof *places, places) == 0) return CPU_COUNT(places);
    CPU_ZERO(places);
#else
    places->nothing = 0;
#endif
    online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

static inline int thread_same_places(const ThreadPlaces *a, const ThreadPlaces *b) {
#if defined(CPU_COUNT)
    return CPU_EQUAL(a, b);
#else
    (void)a; (void)b;
    return 1;
#endif
}

static inline void thread_no_places(ThreadPlaces *places) {
#if defined(CPU_COUNT)
    CPU_ZERO(places);
#else
    (void)places;
#endif
}

/* Without the processor that the calling thread is on, if there are others. */
static inline void thread_leave_own(ThreadPlaces *places) {
#if defined(CPU_COUNT)
    int own = sched_getcpu();
    if (own >= 0 && own < CPU_SETSIZE && CPU_ISSET(own, places) && CPU_COUNT(places) > 1) CPU_CLR(own, places);
#else
    (void)places;
#endif
}

/* Let another thread run on these processors. */
static inline void thread_move(ThreadHandle handle, const ThreadPlaces *places) {
#if defined(CPU_COUNT)
    if (CPU_COUNT(places) > 0) pthread_setaffinity_np(handle, sizeof *places, places);
#else
    (void)handle; (void)places;
#endif
}

static inline int thread_processors(void) {
    ThreadPlaces places;
    return thread_places(&places);
}

#endif

/* A clock for comparisons, and roughly how many of its ticks are a nanosecond. */
static inline int64_t thread_ticks(void) {
#if defined(__x86_64__) || defined(__i386__)
    return (int64_t)__builtin_ia32_rdtsc();
#elif defined(_M_X64) || defined(_M_IX86)
    return (int64_t)__rdtsc();
#elif defined(__aarch64__) && !defined(_WIN32)
    uint64_t ticks;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(ticks));
    return (int64_t)ticks;
#elif defined(_WIN32)
    LARGE_INTEGER ticks;
    QueryPerformanceCounter(&ticks);
    return (int64_t)ticks.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

static inline double thread_tick_rate(void) {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
    return 2.5;
#elif defined(__aarch64__) && !defined(_WIN32)
    uint64_t hertz;
    __asm__ __volatile__("mrs %0, cntfrq_el0" : "=r"(hertz));
    return (double)hertz * 1e-9;
#elif defined(_WIN32)
    LARGE_INTEGER hertz;
    QueryPerformanceFrequency(&hertz);
    return (double)hertz.QuadPart * 1e-9;
#else
    return 1;
#endif
}

#endif

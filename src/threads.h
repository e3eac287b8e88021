/* What the pool needs of a system: threads, sleep until woken, forks, and how many processors there
 * are. POSIX threads, or Windows' own. */
#ifndef CYOPTIM_THREADS_H
#define CYOPTIM_THREADS_H

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

/* A place to sleep at: those who hold its lock may wait there until somebody wakes them all. */
typedef struct {
    SRWLOCK lock;
    CONDITION_VARIABLE wake;
} ThreadBed;

#define THREAD_BED {SRWLOCK_INIT, CONDITION_VARIABLE_INIT}

static inline void thread_lock(ThreadBed *bed) { AcquireSRWLockExclusive(&bed->lock); }
static inline void thread_unlock(ThreadBed *bed) { ReleaseSRWLockExclusive(&bed->lock); }
static inline void thread_sleep(ThreadBed *bed) {
    SleepConditionVariableSRW(&bed->wake, &bed->lock, INFINITE, 0);
}
static inline void thread_wake_all(ThreadBed *bed) { WakeAllConditionVariable(&bed->wake); }
static inline void thread_yield(void) { SwitchToThread(); }
static inline void thread_pause(void) { YieldProcessor(); }

/* There are no forks. */
static inline int thread_watch_forks(void (*forget)(void)) { (void)forget; return 1; }
static inline void thread_renew_bed(ThreadBed *bed) { (void)bed; }

/* Start a thread that nobody waits for; whether there is one. */
static inline int thread_start(unsigned(__stdcall *work)(void *), int number) {
    uintptr_t handle = _beginthreadex(NULL, 0, work, (void *)(intptr_t)number, 0, NULL);
    if (handle == 0) return 0;
    CloseHandle((HANDLE)handle);
    return 1;
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

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
} ThreadBed;

#define THREAD_BED {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER}

static inline void thread_lock(ThreadBed *bed) { pthread_mutex_lock(&bed->lock); }
static inline void thread_unlock(ThreadBed *bed) { pthread_mutex_unlock(&bed->lock); }
static inline void thread_sleep(ThreadBed *bed) { pthread_cond_wait(&bed->wake, &bed->lock); }
static inline void thread_wake_all(ThreadBed *bed) { pthread_cond_broadcast(&bed->wake); }
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
static inline void thread_renew_bed(ThreadBed *bed) {
    pthread_mutex_init(&bed->lock, NULL);
    pthread_cond_init(&bed->wake, NULL);
}

static inline int thread_start(void *(*work)(void *), int number) {
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t handle;
    int failed;
    sigfillset(&all);           /* signals are for the program's own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&handle, &detached, work, (void *)(intptr_t)number);
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}
#define THREAD_RESULT void *
#define THREAD_END NULL

/* Processors that the calling thread may run on. */
static inline int thread_processors(void) {
    long online;
#if defined(CPU_COUNT)          /* with _GNU_SOURCE, as Python defines it */
    cpu_set_t own;
    if (sched_getaffinity(0, sizeof own, &own) == 0) return CPU_COUNT(&own);
#endif
    online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

#endif
#endif

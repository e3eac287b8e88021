/* The cost of roots and divisions without that of memory: nanoseconds for each vector of 16 floats
 * in the nearest cache, best of many runs. Needs AVX-512:
 *
 *     gcc -O2 -march=native bench/limits.c -o limits && ./limits
 *
 * The Newton steps take the estimates of the processor (14 bits) to a result that is rounded
 * correctly for normal numbers; zero, infinity and NaN would need further instructions. */
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

#ifndef __AVX512F__
#error "needs AVX-512: compile with -march=native on a processor that has it"
#endif

enum { COUNT = 2048, WIDTH = 16, REPEATS = 50, RUNS = 1000 };

static float a[COUNT] __attribute__((aligned(64)));
static float b[COUNT] __attribute__((aligned(64)));
static float out[COUNT] __attribute__((aligned(64)));

typedef __m512 (*Term)(__m512 x, __m512 y);

static inline __m512 copy(__m512 x, __m512 y) { (void)y; return x; }
static inline __m512 root(__m512 x, __m512 y) { (void)x; return _mm512_sqrt_ps(y); }
static inline __m512 quotient(__m512 x, __m512 y) { return _mm512_div_ps(x, y); }
static inline __m512 root_quotient(__m512 x, __m512 y) {
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_sqrt_ps(y), _mm512_set1_ps(1e-8f)));
}
static inline __m512 roots_quotient(__m512 x, __m512 y) {
    return root_quotient(_mm512_sqrt_ps(x), y);
}
static inline __m512 newton_root(__m512 x, __m512 y) {
    __m512 half = _mm512_set1_ps(0.5f), estimate = _mm512_rsqrt14_ps(y), g, h, r;
    (void)x;
    g = _mm512_mul_ps(y, estimate);             /* near the root */
    h = _mm512_mul_ps(half, estimate);          /* near half its inverse */
    r = _mm512_fnmadd_ps(h, g, half);
    g = _mm512_fmadd_ps(g, r, g);
    h = _mm512_fmadd_ps(h, r, h);
    return _mm512_fmadd_ps(h, _mm512_fnmadd_ps(g, g, y), g);
}
static inline __m512 newton_quotient(__m512 x, __m512 y) {
    __m512 r = _mm512_rcp14_ps(y), q;
    r = _mm512_fmadd_ps(r, _mm512_fnmadd_ps(r, y, _mm512_set1_ps(1.0f)), r);
    q = _mm512_mul_ps(x, r);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, y, x), r, q);
}
static inline __m512 root_newton_quotient(__m512 x, __m512 y) {
    return newton_quotient(x, _mm512_add_ps(_mm512_sqrt_ps(y), _mm512_set1_ps(1e-8f)));
}
static inline __m512 both_newton(__m512 x, __m512 y) {
    return newton_quotient(x, _mm512_add_ps(newton_root(x, y), _mm512_set1_ps(1e-8f)));
}

/* Eight doubles take the place of sixteen floats. */
static inline __m512 root_quotient_double(__m512 x, __m512 y) {
    __m512d u = _mm512_castps_pd(x), v = _mm512_castps_pd(y);
    v = _mm512_add_pd(_mm512_sqrt_pd(v), _mm512_set1_pd(1e-8));
    return _mm512_castpd_ps(_mm512_div_pd(u, v));
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Inlined into each call, with the term in the middle of the loop. */
static inline __attribute__((always_inline)) void measure(const char *name, Term term) {
    double best = 1e18;
    for (int run = 0; run < RUNS; run++) {
        double start = now(), taken;
        for (int k = 0; k < REPEATS; k++) {
            for (int i = 0; i < COUNT; i += WIDTH) {
                _mm512_store_ps(out + i, term(_mm512_load_ps(a + i), _mm512_load_ps(b + i)));
            }
            __asm__ volatile("" ::: "memory");
        }
        taken = (now() - start) / (REPEATS * COUNT / WIDTH);
        if (taken < best) best = taken;
    }
    printf("%-36s %.2f ns\n", name, best);
}

int main(void) {
    for (int i = 0; i < COUNT; i++) {
        a[i] = 1 + (float)i * 0.001f;
        b[i] = 2 + (float)i * 0.01f;
    }
    measure("copy", copy);
    measure("root", root);
    measure("quotient", quotient);
    measure("quotient by a root", root_quotient);
    measure("quotient of two roots", roots_quotient);
    measure("root by Newton steps", newton_root);
    measure("quotient by Newton steps", newton_quotient);
    measure("root, quotient by Newton steps", root_newton_quotient);
    measure("both by Newton steps", both_newton);
    for (int i = 0; i < COUNT; i += WIDTH) {
        _mm512_store_pd(a + i, _mm512_set1_pd(1.5));
        _mm512_store_pd(b + i, _mm512_set1_pd(2.5));
    }
    measure("8 doubles: quotient by a root", root_quotient_double);
    return 0;
}

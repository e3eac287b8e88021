/* The cost of the codecs: nanoseconds an element, on one thread, best of many runs. The numbers are in the nearest cache,
 * where a step computes; what is stored, 16,384 elements, is in the second one. With the flags of CMakeLists.txt, which
 * choose the instruction set:
 *
 *     gcc -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -march=native -Isrc bench/codecs.c -lm -o codecs && ./codecs
 */
#define _POSIX_C_SOURCE 200809L
#include "codecs.h"
#include "fp_mode.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { COUNT = 16384, TILE = 2048, RUNS = 400 };

static const char *const NAMES[CODECS] = {
    "float32", "float64", "bfloat16", "bfloat16_stochastic", "bfloat16_split", "bfloat16_master", "float16",
    "float16_stochastic", "float16_master", "float8", "float8_positive", "dynamic8", "dynamic8_positive",
    "float16_positive", "float16_positive_stochastic",
};

static float values[TILE], out[CODEC_MOST];
static double stored[COUNT];
static float partner[COUNT];

/* So that the compiler does not know the codec. */
static void (*volatile decode)(int, const void *, const void *, float *, ptrdiff_t, ptrdiff_t) = codec_decode;
static void (*volatile encode)(int, const float *, void *, void *, uint64_t, ptrdiff_t, ptrdiff_t) = codec_encode;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static double random_number(void) { return rand() / (double)RAND_MAX; }

/* About normal, of sizes from 1 down to a fiftieth. */
static void fill(int positive) {
    for (int i = 0; i < TILE; i++) {
        double x = -6;
        for (int k = 0; k < 12; k++) x += random_number();
        x *= exp(-4 * random_number());
        values[i] = (float)(positive ? x * x : x);
    }
}

int main(void) {
    fp_flush();
    codecs_begin();
    for (int code = CODEC_BFLOAT16; code < CODECS; code++) {
        double decoding = 1e30, encoding = 1e30;
        fill(code == CODEC_FLOAT8_POSITIVE || code == CODEC_DYNAMIC8_POSITIVE || code >= CODEC_FLOAT16_POSITIVE);
        for (int run = 0; run < RUNS; run++) {
            const double start = now();
            for (int i = 0; i < COUNT; i += CODEC_MOST) encode(code, values + i % TILE, stored, partner, run, i, CODEC_MOST);
            const double between = now();
            for (int i = 0; i < COUNT; i += CODEC_MOST) decode(code, stored, partner, out, i, CODEC_MOST);
            const double end = now();
            encoding = between - start < encoding ? between - start : encoding;
            decoding = end - between < decoding ? end - between : decoding;
        }
        printf("%-28s decode %.3f  encode %.3f\n", NAMES[code], decoding / COUNT, encoding / COUNT);
    }
    return 0;
}

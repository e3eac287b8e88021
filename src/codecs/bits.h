/* What the codecs share: floats as bits, and random bits. */
#ifndef CYOPTIM_CODECS_BITS_H
#define CYOPTIM_CODECS_BITS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* For loops of which one argument is a constant. */
#ifdef _MSC_VER
#define CODEC_INLINE static __forceinline
#else
#define CODEC_INLINE static inline __attribute__((always_inline))
#endif

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static const uint32_t SIGN_BIT = 0x80000000u, INFINITY_BITS = 0x7f800000u, QUIET_BIT = 0x00400000u;
static const uint32_t LEAST_NORMAL = 0x00800000u;

static inline int is_above_zero(float x) { return (int32_t)bits_of(x) >= (int32_t)LEAST_NORMAL; }

static inline uint32_t magnitude_of(float x) { return bits_of(x) & 0x7fffffffu; }

/* Adding and subtracting it rounds what is far smaller to a whole number, and its lowest bits are that number. */
static const float WHOLE = 12582912.0f; /* 1.5 * 2^23 */

/* Random bits: a hash of the key and the number of the block, and then steps of the golden ratio. Each element's bits are
 * uniform over the keys, and those of a block are spread evenly. */
static const uint32_t GOLDEN_STEP = 0x9E3779B1u;

static inline uint64_t mixed(uint64_t x) { /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* The next n elements from one on that are in the same block; the upper 16 bits of `bits` are those of the first, and
 * those of the next ones follow by steps. */
typedef struct {
    uint32_t bits;
    ptrdiff_t n;
} Draws;

static inline Draws draws_from(uint64_t key, ptrdiff_t element, ptrdiff_t most) {
    const uint64_t block = (uint64_t)element / CODEC_BLOCK;
    const ptrdiff_t place = element % CODEC_BLOCK;
    const uint64_t hash = mixed(mixed(key + 0x9E3779B97F4A7C15u) + (block + 1) * 0x9E3779B97F4A7C15u);
    Draws draws;
    draws.bits = (uint32_t)(hash >> 32) + (uint32_t)place * GOLDEN_STEP;
    draws.n = CODEC_BLOCK - place < most ? CODEC_BLOCK - place : most;
    return draws;
}

static inline void decode_float64(const double *__restrict stored, float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = (float)stored[i];
}

static inline void encode_float64(const float *__restrict values, double *__restrict stored, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) stored[i] = values[i];
}

#endif

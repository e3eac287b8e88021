/* bfloat16, the upper half of a float32, and float16. */
#ifndef CYOPTIM_CODECS_SIXTEEN_H
#define CYOPTIM_CODECS_SIXTEEN_H

#include "bits.h"
#include "x86.h"

static inline float from_bfloat16(uint16_t h) { return float_of((uint32_t)h << 16); }

static inline uint16_t to_bfloat16(float x) {
    const uint32_t b = bits_of(x);
    return (uint16_t)((x == x ? b + 0x7fffu + (b >> 16 & 1) : b | QUIET_BIT) >> 16);
}

static inline void decode_bfloat16(const uint16_t *__restrict stored, float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = from_bfloat16(stored[i]);
}

static inline void encode_bfloat16(const float *__restrict values, uint16_t *__restrict stored, ptrdiff_t n) {
    for (ptrdiff_t i = narrow_bfloat16(values, stored, n); i < n; i++) stored[i] = to_bfloat16(values[i]);
}

static inline void add_bfloat16(const float *__restrict values, uint16_t *__restrict stored, uint32_t bits, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++, bits += GOLDEN_STEP) {
        const uint32_t b = bits_of(values[i]), draw = bits >> 16;
        stored[i] = (uint16_t)((values[i] == values[i] ? b + draw : b | QUIET_BIT) >> 16);
    }
}

static inline void encode_bfloat16_stochastic(const float *values, uint16_t *stored, uint64_t key, ptrdiff_t first,
                                              ptrdiff_t n) {
    Draws draws;
    for (ptrdiff_t i = 0; i < n; i += draws.n) {
        draws = draws_from(key, first + i, n - i);
        add_bfloat16(values + i, stored + i, draws.bits, draws.n);
    }
}

/* A float32 in two halves, as in TransformerEngine: the bfloat16 that is nearest, ties away from zero, and the lower 16
 * bits, as an integer with a sign. A NaN loses its lower bits, which would overflow into the sign of the upper ones.
 *
 * The user may have written the upper half. The lower one is then an error of at most half an ulp; only at zero, where
 * a negative one would make a NaN, it is left out. */
static inline void decode_split(const uint16_t *__restrict stored, const int16_t *__restrict rest, float *__restrict out,
                                ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t upper = (uint32_t)stored[i] << 16, lower = (uint32_t)(int32_t)rest[i];
        out[i] = float_of(upper + ((upper & ~SIGN_BIT) != 0 ? lower : 0));
    }
}

static inline void encode_split(const float *__restrict values, uint16_t *__restrict stored, int16_t *__restrict rest,
                                ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t raw = bits_of(values[i]);
        const uint32_t b = values[i] == values[i] ? raw : (raw | QUIET_BIT) & 0xffff0000u;
        stored[i] = (uint16_t)((b + 0x8000u) >> 16);
        rest[i] = (int16_t)(uint16_t)b;
    }
}

/* The master, unless the user has written the parameter since, or it has not begun. */
static inline void decode_bfloat16_master(const uint16_t *__restrict stored, const float *__restrict master,
                                          float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = to_bfloat16(master[i]) == stored[i] ? master[i] : from_bfloat16(stored[i]);
}

/* float16: five bits of exponent, ten of the fraction. */

static const uint32_t LEAST_NORMAL_HALF = 0x38800000u; /* 2^-14 */
static const uint32_t EXPONENT_SHIFT = 112u << 23;     /* the bias of 127 to one of 15 */
static const uint32_t INFINITY_HALF = 0x7c00u;

static inline float from_float16(uint16_t h) {
    const uint32_t a = h & 0x7fffu;
    uint32_t b = (a << 13) + EXPONENT_SHIFT;
    b = a < 0x400u ? bits_of((float)(int32_t)a * 5.9604644775390625e-8f) : b; /* 2^-24 */
    b = a >= INFINITY_HALF ? b + EXPONENT_SHIFT : b;
    b = a > INFINITY_HALF ? b | QUIET_BIT : b;
    return float_of(b | (uint32_t)(h & 0x8000u) << 16);
}

/* Of `half`, what `a` rounds to without regard of infinity and NaN. */
static inline uint16_t float16_of(uint32_t half, uint32_t a, uint32_t b) {
    half = (int32_t)half > (int32_t)INFINITY_HALF ? INFINITY_HALF : half;
    half = a > INFINITY_BITS ? (a >> 13 & 0x3ffu) | 0x7e00u : half;
    return (uint16_t)(half | (b >> 16 & 0x8000u));
}

static inline uint16_t to_float16(float x) {
    const uint32_t b = bits_of(x), a = b & ~SIGN_BIT;
    const uint32_t normal = (a + 0xfffu + (a >> 13 & 1) - EXPONENT_SHIFT) >> 13;
    const uint32_t small = bits_of(float_of(a) + 0.5f) - bits_of(0.5f); /* the ulp of 0.5 is 2^-24 */
    return float16_of(a < LEAST_NORMAL_HALF ? small : normal, a, b);
}

static inline void decode_float16(const uint16_t *__restrict stored, float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = widen_float16(stored, out, n); i < n; i++) out[i] = from_float16(stored[i]);
}

static inline void encode_float16(const float *__restrict values, uint16_t *__restrict stored, ptrdiff_t n) {
    for (ptrdiff_t i = narrow_float16(values, stored, n); i < n; i++) stored[i] = to_float16(values[i]);
}

static inline void add_float16(const float *__restrict values, uint16_t *__restrict stored, uint32_t bits, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++, bits += GOLDEN_STEP) {
        const uint32_t b = bits_of(values[i]), a = b & ~SIGN_BIT, draw = bits >> 16;
        const uint32_t normal = (a + (draw >> 3) - EXPONENT_SHIFT) >> 13;
        const int is_small = a < LEAST_NORMAL_HALF;
        /* In units of 2^-24 / 2^16. */
        const uint32_t small = (uint32_t)((int32_t)(float_of(is_small ? a : 0) * 1099511627776.0f) + (int32_t)draw) >> 16;
        stored[i] = float16_of(is_small ? small : normal, a, b);
    }
}

static inline void encode_float16_stochastic(const float *values, uint16_t *stored, uint64_t key, ptrdiff_t first,
                                             ptrdiff_t n) {
    Draws draws;
    for (ptrdiff_t i = 0; i < n; i += draws.n) {
        draws = draws_from(key, first + i, n - i);
        add_float16(values + i, stored + i, draws.bits, draws.n);
    }
}

/* The least number above 0 in the place of 0 for what is above it: a step divides by the root of it. */
static inline void keep_positive(const float *__restrict values, uint16_t *__restrict stored, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        stored[i] = (uint16_t)(stored[i] | ((stored[i] == 0) & is_above_zero(values[i])));
}

static inline void decode_float16_master(const uint16_t *__restrict stored, const float *__restrict master,
                                         float *__restrict out, ptrdiff_t n) {
    uint16_t rounded[CODEC_MOST];
    encode_float16(master, rounded, n); /* by instructions, where there are some */
    decode_float16(stored, out, n);
    for (ptrdiff_t i = 0; i < n; i++) out[i] = rounded[i] == stored[i] ? master[i] : out[i];
}

#endif

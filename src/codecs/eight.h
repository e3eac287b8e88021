/* Eight bits an element, and a scale for each block: float8 (e4m3fn) and the dynamic maps of bitsandbytes.
 *
 * A scale is the largest magnitude of its block, of float8 by 448. A block without normal numbers has the scale 0. In a
 * block with an infinity or a NaN the scale is that, and all is lost but the infinities of float8. */
#ifndef CYOPTIM_CODECS_EIGHT_H
#define CYOPTIM_CODECS_EIGHT_H

#include "bits.h"
#include "map.h"
#include "x86.h"

static inline ptrdiff_t block_at(ptrdiff_t i, ptrdiff_t n) { return n - i < CODEC_BLOCK ? n - i : CODEC_BLOCK; }

/* The bits of the largest magnitude: a maximum of integers, which is exact in any order, and NaN is above infinity. */
static inline uint32_t largest(const float *__restrict values, ptrdiff_t n) {
    int32_t most = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const int32_t a = (int32_t)magnitude_of(values[i]);
        most = a > most ? a : most;
    }
    return (uint32_t)most < LEAST_NORMAL ? 0 : (uint32_t)most;
}

/* float8: four bits of exponent, three of the fraction; no infinity, one NaN. */

static const float LEAST_FLOAT8 = 0.001953125f; /* 2^-9 */

static inline float from_float8(uint8_t code) {
    const uint32_t a = code & 0x7fu;
    uint32_t b = (a << 20) + (120u << 23);
    b = a < 8 ? bits_of((float)(int32_t)a * LEAST_FLOAT8) : b;
    b = a == 0x7f ? INFINITY_BITS | QUIET_BIT : b;
    return float_of(b | (uint32_t)(code & 0x80u) << 24);
}

static inline void make_float8_map(void) {
    for (int code = 0; code < 256; code++) NUMBERS[FLOAT8_MAP][code] = from_float8((uint8_t)code);
}

/* Of the magnitude of x, at least this code. */
static inline uint32_t to_float8(float x, int32_t least) {
    const uint32_t a = magnitude_of(x);
    const uint32_t normal = (a + 0x7ffffu + (a >> 20 & 1) - (120u << 23)) >> 20;
    const uint32_t small = bits_of(float_of(a) + 16384.0f) - bits_of(16384.0f); /* the ulp of 2^14 is 2^-9 */
    int32_t code = (int32_t)(a < 0x3c800000u ? small : normal); /* 2^-6 */
    code = code > least ? code : least;
    return (uint32_t)(code < 0x7e ? code : 0x7e);
}

static inline void decode_float8(const uint8_t *__restrict codes, const float *__restrict scales, float *__restrict out,
                                 ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const float scale = *scales++;
        for (ptrdiff_t j = look_up(FLOAT8_MAP, codes + i, scale, out + i, m); j < m; j++)
            out[i + j] = from_float8(codes[i + j]) * scale;
    }
}

CODEC_INLINE void encode_float8(const float *__restrict values, uint8_t *__restrict codes, float *__restrict scales,
                                ptrdiff_t n, const int positive) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const uint32_t most = largest(values + i, m);
        const float least = float_of(LEAST_NORMAL), part = float_of(most) / 448.0f;
        const float scale = part < least ? least : part;
        *scales++ = most == 0 ? 0.0f : scale;
        for (ptrdiff_t j = 0; j < m; j++) {
            const float x = values[i + j];
            const int32_t least_code = positive && is_above_zero(x) ? 1 : 0;
            codes[i + j] = (uint8_t)(to_float8(x / scale, least_code) | (bits_of(x) >> 24 & 0x80u));
        }
    }
}

/* The dynamic maps. */

CODEC_INLINE void decode_dynamic8(const int map, const uint8_t *__restrict codes, const float *__restrict scales,
                                  float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const float scale = *scales++;
        for (ptrdiff_t j = look_up(map, codes + i, scale, out + i, m); j < m; j++)
            out[i + j] = NUMBERS[map][codes[i + j]] * scale;
    }
}

/* What is encoded. Of the map without signs, a number above zero is at least what rounds to the first code above it. */
CODEC_INLINE float quotient_of(const int map, float x, float scale) {
    const float quotient = x / scale, floor = is_above_zero(x) ? BOUNDS[map][0] : 0.0f;
    return map == SIGNED_MAP || quotient > floor ? quotient : floor;
}

/* Returns whether rounding may have decided somewhere. */
CODEC_INLINE int dynamic8_by_lines(const int map, const float *__restrict values, uint8_t *__restrict codes, float scale,
                                   ptrdiff_t n) {
    const float *bounds = BOUNDS[map], least = bounds[0], b1 = bounds[1], b2 = bounds[2], b3 = bounds[3],
                b4 = bounds[4], b5 = bounds[5], b6 = bounds[6], top = bounds[7];
    const int has_signs = map == SIGNED_MAP;
    int32_t farthest = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const float y = quotient_of(map, values[i], scale);
        const int32_t b = (int32_t)bits_of(y), negative = has_signs ? -(int32_t)((uint32_t)b >> 31) : 0;
        /* Below zero a tie goes towards zero: the next number there decides like a number above zero. */
        const float x = has_signs ? float_of((uint32_t)(b & 0x7fffffff) + (uint32_t)negative) : y;
        float parts = (float)PARTS(map, 0), slope = SLOPE(map, 0, 1e6);
#define DECADE(i, bound, scale) \
        parts = x >= bound ? (float)PARTS(map, i) : parts; \
        slope = x >= bound ? SLOPE(map, i, scale) : slope;
        DECADE(1, b1, 1e5)
        DECADE(2, b2, 1e4)
        DECADE(3, b3, 1e3)
        DECADE(4, b4, 1e2)
        DECADE(5, b5, 1e1)
        DECADE(6, b6, 1e0)
#undef DECADE
        const float line = x * slope + OFFSET(map, parts), last = LAST(map, parts);
        const float t = line < last ? line : last, whole = t + WHOLE;
        const int32_t distance = (int32_t)magnitude_of(t - (whole - WHOLE));
        const int32_t k = (int32_t)(bits_of(whole) - bits_of(WHOLE));
        int32_t code = ZERO_CODE(map) + ((k ^ negative) - negative);
        code = x >= least ? code : ZERO_CODE(map);
        code = y >= top ? 255 : code;
        codes[i] = (uint8_t)code;
        farthest = distance > farthest ? distance : farthest;
    }
    return farthest >= (int32_t)bits_of(UNSURE);
}

CODEC_INLINE void encode_dynamic8(const int map, const float *values, uint8_t *codes, float *scales, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const uint32_t most = largest(values + i, m);
        const float scale = float_of(most), divisor = most == 0 ? 1.0f : scale;
        int unsure = 0;
        const ptrdiff_t done = most < INFINITY_BITS ? dynamic8_by_tables(map, values + i, codes + i, divisor, m, &unsure) : 0;
        if (dynamic8_by_lines(map, values + i + done, codes + i + done, divisor, m - done) | unsure)
            for (ptrdiff_t j = i; j < i + m; j++)
                codes[j] = settled(map, codes[j], quotient_of(map, values[j], divisor));
        *scales++ = scale;
    }
}

#endif

/* Eight bits an element, and a scale for each block: float8 (e4m3fn) and the dynamic maps of bitsandbytes.
 *
 * A scale is the largest magnitude of its block, of float8 by 448. A block without normal numbers has the scale 0. In a
 * block with an infinity or a NaN the scale is that, and all is lost but the infinities of float8. */
#ifndef CYOPTIM_CODECS_EIGHT_H
#define CYOPTIM_CODECS_EIGHT_H

#include "bits.h"

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

static inline int is_above_zero(float x) { return (int32_t)bits_of(x) >= (int32_t)LEAST_NORMAL; }

/* float8: four bits of exponent, three of the fraction; no infinity, one NaN. */

static inline float from_float8(uint8_t code) {
    const uint32_t a = code & 0x7fu;
    uint32_t b = (a << 20) + (120u << 23);
    b = a < 8 ? bits_of((float)(int32_t)a * 0.001953125f) : b; /* 2^-9 */
    b = a == 0x7f ? INFINITY_BITS | QUIET_BIT : b;
    return float_of(b | (uint32_t)(code & 0x80u) << 24);
}

static inline uint8_t to_float8(float x) {
    const uint32_t a = magnitude_of(x);
    const uint32_t normal = (a + 0x7ffffu + (a >> 20 & 1) - (120u << 23)) >> 20;
    const uint32_t small = bits_of(float_of(a) + 16384.0f) - bits_of(16384.0f); /* the ulp of 2^14 is 2^-9 */
    const uint32_t code = a < 0x3c800000u ? small : normal;                     /* 2^-6 */
    return (uint8_t)((int32_t)code > 0x7e ? 0x7e : code);
}

static inline void decode_float8(const uint8_t *__restrict codes, const float *__restrict scales, float *__restrict out,
                                 ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const float scale = *scales++;
        for (ptrdiff_t j = 0; j < m; j++) out[i + j] = from_float8(codes[i + j]) * scale;
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
            const uint8_t code = to_float8(x / scale);
            codes[i + j] = (uint8_t)(((positive & (code == 0) & is_above_zero(x)) ? 1 : code) | (bits_of(x) >> 24 & 0x80u));
        }
    }
}

/* The dynamic maps: zero, one, and in each of seven decades twice as many numbers, at even distances, as in the one
 * before. The first has one of each sign, or two without signs. */

enum { DECADES = 7 };

typedef struct {
    float values[256];
    float bounds[DECADES]; /* the least that rounds into each decade: in the first to a number above 0 */
    float top;             /* the least that rounds to 1 */
} Map;

static Map SIGNED_MAP, UNSIGNED_MAP;

/* The least float32 that is at least as near to b as to a < b. */
static inline float bound_between(float a, float b) {
    const double middle = ((double)a + b) / 2;
    const float nearest = (float)middle;
    return nearest < middle ? nextafterf(nearest, 2.0f) : nearest;
}

/* The numbers of a decade are the middles of the parts of [0.1, 1], as torch computes them: linspace comes from both
 * ends, and does not round its products. */
static inline float edge_of(int k, int parts) {
    const float step = (1.0f - 0.1f) / (float)parts;
    return k < (parts + 1) / 2 ? (float)(0.1f + (double)step * k) : (float)(1.0 - (double)step * (parts - k));
}

static inline void make_map(Map *map, int first) {
    static const float powers[DECADES] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    const int zero = first == 1 ? 127 : 0;
    float *above = map->values + zero;
    for (int i = 0; i < DECADES; i++) {
        const int parts = first << i, start = parts - first + 1;
        for (int k = 0; k < parts; k++) above[start + k] = (edge_of(k, parts) + edge_of(k + 1, parts)) / 2 * powers[i];
        map->bounds[i] = bound_between(start == 1 ? 0.0f : above[start - 1], above[start]);
    }
    map->values[zero] = 0.0f;
    map->values[255] = 1.0f;
    for (int k = 1; k <= zero; k++) map->values[zero - k] = -above[k];
    map->top = bound_between(map->values[254], 1.0f);
}

static inline void decode_dynamic8(const Map *map, const uint8_t *__restrict codes, const float *__restrict scales,
                                   float *__restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const float scale = *scales++;
        for (ptrdiff_t j = 0; j < m; j++) out[i + j] = map->values[codes[i + j]] * scale;
    }
}

/* How near to the middle between two numbers it takes the map itself to decide. The line below is within 2.5e-5. */
static const float UNSURE = 0.5f - 3.1e-5f;

/* The nearest code, ties up, from one that is next to it or right. */
static inline uint8_t settled(const Map *map, uint8_t code, float y) {
    if (code < 255 && 2.0 * y >= (double)map->values[code] + map->values[code + 1]) return code + 1;
    if (code > 0 && 2.0 * y < (double)map->values[code - 1] + map->values[code]) return code - 1;
    return code;
}

/* Within a decade the map is a line, so that the code is the whole number that is nearest to a * y + b, kept within
 * the decade. `first` is 1 of the map with signs, else 2.
 *
 * Returns whether rounding may have decided somewhere. */
CODEC_INLINE int encode_by_lines(const Map *map, const float *__restrict values, uint8_t *__restrict codes, float scale,
                                 ptrdiff_t n, const int first) {
    const float b0 = map->bounds[0], b1 = map->bounds[1], b2 = map->bounds[2], b3 = map->bounds[3], b4 = map->bounds[4],
                b5 = map->bounds[5], b6 = map->bounds[6], top = map->top;
    const float lower = (float)first, slope = (float)(first * 1e6 / 0.9);
    int32_t farthest = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const float y = values[i] / scale;
        const int32_t b = (int32_t)bits_of(y), negative = first == 1 ? -(int32_t)((uint32_t)b >> 31) : 0;
        /* Below zero a tie goes towards zero: the next number there decides like a number above zero. */
        const float x = first == 1 ? float_of((uint32_t)(b & 0x7fffffff) + (uint32_t)negative) : y;
        float parts = lower, a = slope;
#define DECADE(k, bound, power) \
        parts = x >= bound ? lower * (1 << k) : parts; \
        a = x >= bound ? (float)(first * (1 << k) * power / 0.9) : a;
        DECADE(1, b1, 1e5)
        DECADE(2, b2, 1e4)
        DECADE(3, b3, 1e3)
        DECADE(4, b4, 1e2)
        DECADE(5, b5, 1e1)
        DECADE(6, b6, 1e0)
#undef DECADE
        const float low = parts - lower, high = low + parts - 1.0f;
        float t = x * a + (parts * (float)(8 / 9.0) - (lower + 0.5f));
        t = t > low ? t : low;
        t = t < high ? t : high;
        const float whole = t + WHOLE;
        const int32_t distance = (int32_t)magnitude_of(t - (whole - WHOLE));
        farthest = distance > farthest ? distance : farthest;
        const int32_t k = (int32_t)(bits_of(whole) - bits_of(WHOLE)) + 1;
        int32_t code = first == 1 ? 127 + ((k ^ negative) - negative) : k;
        code = x >= b0 ? code : (first == 1 ? 127 : 0);
        code = y >= top ? 255 : code;
        codes[i] = (uint8_t)code;
    }
    return farthest >= (int32_t)bits_of(UNSURE);
}

CODEC_INLINE void encode_dynamic8(const Map *map, const float *values, uint8_t *codes, float *scales, ptrdiff_t n,
                                  const int first) {
    for (ptrdiff_t i = 0; i < n; i += CODEC_BLOCK) {
        const ptrdiff_t m = block_at(i, n);
        const float scale = float_of(largest(values + i, m)), divisor = scale == 0.0f ? 1.0f : scale;
        *scales++ = scale;
        if (encode_by_lines(map, values + i, codes + i, divisor, m, first))
            for (ptrdiff_t j = 0; j < m; j++) codes[i + j] = settled(map, codes[i + j], values[i + j] / divisor);
    }
}

static inline void encode_dynamic8_signed(const float *values, uint8_t *codes, float *scales, ptrdiff_t n) {
    encode_dynamic8(&SIGNED_MAP, values, codes, scales, n, 1);
}

static inline void encode_dynamic8_unsigned(const float *values, uint8_t *codes, float *scales, ptrdiff_t n) {
    encode_dynamic8(&UNSIGNED_MAP, values, codes, scales, n, 2);
    for (ptrdiff_t i = 0; i < n; i++) codes[i] = (codes[i] == 0) & is_above_zero(values[i]) ? 1 : codes[i];
}

#endif

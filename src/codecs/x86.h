/* What x86 processors convert by instructions of their own. Each function does as many elements as fill its vectors, and
 * returns how many; the loops that call it do the rest, and define the bits. */
#ifndef CYOPTIM_CODECS_X86_H
#define CYOPTIM_CODECS_X86_H

#include "bits.h"
#include "map.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Every processor with AVX2 has F16C; MSVC has no macro for it. */
#if defined(__F16C__) || (defined(_MSC_VER) && !defined(__clang__) && defined(__AVX2__))

#if defined(__AVX512F__)
static inline ptrdiff_t widen_float16(const uint16_t *stored, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(stored + i))));
    return i;
}

static inline ptrdiff_t narrow_float16(const float *values, uint16_t *stored, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(stored + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}
#else
static inline ptrdiff_t widen_float16(const uint16_t *stored, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(stored + i))));
    return i;
}

static inline ptrdiff_t narrow_float16(const float *values, uint16_t *stored, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(stored + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}
#endif

#else
static inline ptrdiff_t widen_float16(const uint16_t *stored, float *out, ptrdiff_t n) {
    (void)stored, (void)out, (void)n;
    return 0;
}

static inline ptrdiff_t narrow_float16(const float *values, uint16_t *stored, ptrdiff_t n) {
    (void)values, (void)stored, (void)n;
    return 0;
}
#endif

#if defined(__AVX512BF16__) && defined(__AVX512F__)
/* The instruction takes denormals for zeros in any mode: up to the first one. */
static inline ptrdiff_t narrow_bfloat16(const float *values, uint16_t *stored, ptrdiff_t n) {
    const __m512i exponent = _mm512_set1_epi32(0x7f800000), fraction = _mm512_set1_epi32(0x007fffff);
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i low = _mm512_loadu_si512(values + i), high = _mm512_loadu_si512(values + i + 16);
        const __mmask16 tiny_low = _mm512_testn_epi32_mask(low, exponent), tiny_high = _mm512_testn_epi32_mask(high, exponent);
        if ((tiny_low | tiny_high) != 0 && (_mm512_mask_test_epi32_mask(tiny_low, low, fraction) |
                                            _mm512_mask_test_epi32_mask(tiny_high, high, fraction)) != 0)
            break;
        _mm512_storeu_si512(stored + i,
                            (__m512i)_mm512_cvtne2ps_pbh(_mm512_castsi512_ps(high), _mm512_castsi512_ps(low)));
    }
    return i;
}
#else
static inline ptrdiff_t narrow_bfloat16(const float *values, uint16_t *stored, ptrdiff_t n) {
    (void)values, (void)stored, (void)n;
    return 0;
}
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
/* Tables of a map that fit into registers. No two bounds are in one binade: for each, from 2^-31 on, the bound in it and
 * the number of the line below that. Line 0 is that of 0, 1 to 7 those of the decades, 8 that of 1. */
typedef struct {
    float bounds[32];
    int32_t lines[32];
    float slopes[16], offsets[16], lasts[16];
} Lines;

static Lines LINES[DYNAMIC_MAPS];

static inline void make_lines(int map) {
    Lines *lines = &LINES[map];
    for (int e = 0; e < 32; e++) {
        int line = 0;
        while (line <= DECADES && BOUNDS[map][line] <= ldexpf(1.0f, e - 31)) line++;
        lines->lines[e] = line;
        lines->bounds[e] = line <= DECADES ? BOUNDS[map][line] : INFINITY;
    }
    for (int i = 0; i < DECADES; i++) {
        lines->slopes[i + 1] = SLOPE(map, i, pow(10.0, 6 - i));
        lines->offsets[i + 1] = OFFSET(map, PARTS(map, i));
        lines->lasts[i + 1] = LAST(map, PARTS(map, i));
    }
    lines->lasts[DECADES + 1] = lines->offsets[DECADES + 1] = (float)(255 - ZERO_CODE(map));
}

/* As dynamic8_by_lines, of finite numbers. */
CODEC_INLINE ptrdiff_t dynamic8_by_tables(const int map, const float *values, uint8_t *codes, float scale, ptrdiff_t n,
                                          int *unsure) {
    const Lines *tables = &LINES[map];
    const __m512 bounds0 = _mm512_loadu_ps(tables->bounds), bounds1 = _mm512_loadu_ps(tables->bounds + 16);
    const __m512i lines0 = _mm512_loadu_si512(tables->lines), lines1 = _mm512_loadu_si512(tables->lines + 16);
    const __m512 slopes = _mm512_loadu_ps(tables->slopes), offsets = _mm512_loadu_ps(tables->offsets);
    const __m512 lasts = _mm512_loadu_ps(tables->lasts), divisor = _mm512_set1_ps(scale);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), tiny = _mm512_set1_epi32((127 - 31) << 23);
    const __m512i normal = _mm512_set1_epi32((int)LEAST_NORMAL), least = _mm512_set1_epi32((int)bits_of(BOUNDS[map][0]));
    const __m512i one = _mm512_set1_epi32(1), zero = _mm512_set1_epi32(ZERO_CODE(map));
    __m512 farthest = _mm512_setzero_ps();
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512 x = _mm512_loadu_ps(values + i);
        const __m512i y = _mm512_castps_si512(_mm512_div_ps(x, divisor));
        const __mmask16 negative = _mm512_movepi32_mask(y);
        __m512i a = y;
        if (map == SIGNED_MAP) {
            a = _mm512_and_si512(y, magnitude);
            a = _mm512_mask_sub_epi32(a, negative, a, one);
        }
        a = _mm512_max_epi32(a, tiny);
        if (map == UNSIGNED_MAP)
            a = _mm512_mask_max_epi32(a, _mm512_cmpge_epi32_mask(_mm512_castps_si512(x), normal), a, least);
        const __m512i binade = _mm512_srli_epi32(a, 23);
        const __m512 f = _mm512_castsi512_ps(a), bound = _mm512_permutex2var_ps(bounds0, binade, bounds1);
        __m512i line = _mm512_permutex2var_epi32(lines0, binade, lines1);
        line = _mm512_mask_add_epi32(line, _mm512_cmp_ps_mask(f, bound, _CMP_GE_OQ), line, one);
        __m512 t = _mm512_fmadd_ps(f, _mm512_permutexvar_ps(line, slopes), _mm512_permutexvar_ps(line, offsets));
        t = _mm512_min_ps(t, _mm512_permutexvar_ps(line, lasts));
        farthest = _mm512_range_ps(farthest, _mm512_reduce_ps(t, 0), 0xb); /* the larger magnitude */
        __m512i code = _mm512_cvtps_epi32(t);
        if (map == SIGNED_MAP) {
            code = _mm512_mask_sub_epi32(_mm512_add_epi32(zero, code), negative, zero, code);
            code = _mm512_max_epi32(code, _mm512_setzero_si512()); /* -1 has no code */
        }
        _mm_storeu_si128((__m128i *)(codes + i), _mm512_cvtepi32_epi8(code));
    }
    *unsure = _mm512_cmp_ps_mask(farthest, _mm512_set1_ps(UNSURE), _CMP_GE_OQ) != 0;
    return i;
}
#else
static inline void make_lines(int map) { (void)map; }

static inline ptrdiff_t dynamic8_by_tables(int map, const float *values, uint8_t *codes, float scale, ptrdiff_t n,
                                           int *unsure) {
    (void)map, (void)values, (void)codes, (void)scale, (void)n, (void)unsure;
    return 0;
}
#endif

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
/* The numbers of all codes, byte by byte. */
static uint8_t BYTES[CODE_MAPS][4][256];

static inline void make_bytes(int map) {
    for (int code = 0; code < 256; code++)
        for (int k = 0; k < 4; k++) BYTES[map][k][code] = (uint8_t)(bits_of(NUMBERS[map][code]) >> (8 * k));
}

/* The numbers of codes, times the scale: each of their bytes from a table of 256, which is in four registers. */
CODEC_INLINE ptrdiff_t look_up(const int map, const uint8_t *codes, float scale, float *out, ptrdiff_t n) {
    /* The bytes of four codes are put together within each quarter of a register. */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factor = _mm512_set1_ps(scale);
    __m512i table[4][4];
    ptrdiff_t i = 0;
    for (int k = 0; k < 4; k++)
        for (int q = 0; q < 4; q++) table[k][q] = _mm512_loadu_si512(BYTES[map][k] + 64 * q);
    for (; i + 64 <= n; i += 64) {
        const __m512i code = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes + i));
        const __mmask64 upper = _mm512_movepi8_mask(code);
        __m512i bytes[4];
        for (int k = 0; k < 4; k++)
            bytes[k] = _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(table[k][0], code, table[k][1]),
                                              _mm512_permutex2var_epi8(table[k][2], code, table[k][3]));
        const __m512i low0 = _mm512_unpacklo_epi8(bytes[0], bytes[1]), low1 = _mm512_unpackhi_epi8(bytes[0], bytes[1]);
        const __m512i high0 = _mm512_unpacklo_epi8(bytes[2], bytes[3]), high1 = _mm512_unpackhi_epi8(bytes[2], bytes[3]);
        const __m512i numbers[4] = {_mm512_unpacklo_epi16(low0, high0), _mm512_unpackhi_epi16(low0, high0),
                                    _mm512_unpacklo_epi16(low1, high1), _mm512_unpackhi_epi16(low1, high1)};
        for (int q = 0; q < 4; q++)
            _mm512_storeu_ps(out + i + 16 * q, _mm512_mul_ps(_mm512_castsi512_ps(numbers[q]), factor));
    }
    return i;
}
#else
static inline void make_bytes(int map) { (void)map; }

static inline ptrdiff_t look_up(int map, const uint8_t *codes, float scale, float *out, ptrdiff_t n) {
    (void)map, (void)codes, (void)scale, (void)out, (void)n;
    return 0;
}
#endif

#endif

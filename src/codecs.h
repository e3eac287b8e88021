/* How elements are stored. The arithmetic is in float32; a codec turns pieces of a stream into it, and back.
 *
 * (a) Plain loops, which the compiler vectorizes: each kernel module has them for its instruction set. What codecs/x86.h
 *     does by instructions of its own has the same bits.
 * (b) No operation depends on whether denormals are flushed, but for results that are denormal themselves.
 * (c) Of 8 bits, blocks of 256 elements have a scale each. Random bits depend on the key and on the place of the element
 *     in its array alone. So the division into pieces changes nothing. */
#ifndef CYOPTIM_CODECS_H
#define CYOPTIM_CODECS_H

#include <stddef.h>
#include <stdint.h>

enum {
    CODEC_FLOAT32 = 0,
    CODEC_FLOAT64 = 1,
    CODEC_BFLOAT16 = 2,            /* to nearest, ties to even, as all that does not say otherwise */
    CODEC_BFLOAT16_STOCHASTIC = 3, /* up with the probability that makes the mean right */
    CODEC_BFLOAT16_SPLIT = 4,      /* partner: int16, the rest of the float32 */
    CODEC_BFLOAT16_MASTER = 5,     /* partner: the float32 itself */
    CODEC_FLOAT16 = 6,
    CODEC_FLOAT16_STOCHASTIC = 7,
    CODEC_FLOAT16_MASTER = 8,
    CODEC_FLOAT8 = 9,              /* e4m3fn; partner: float32, the scales of the blocks */
    CODEC_FLOAT8_POSITIVE = 10,    /* the same, and what is above 0 does not become 0 */
    CODEC_DYNAMIC8 = 11,           /* codes of the signed dynamic map of bitsandbytes; partner: the scales */
    CODEC_DYNAMIC8_POSITIVE = 12,  /* of the unsigned one, and what is above 0 does not become 0 */
    CODEC_FLOAT16_POSITIVE = 13,   /* as without the word, and what is above 0 does not become 0 */
    CODEC_FLOAT16_POSITIVE_STOCHASTIC = 14,
    CODECS = 15,
    CODEC_BLOCK = 256,             /* elements that have a scale, or a sequence of random bits */
    CODEC_MOST = 512               /* elements that one call takes */
};

/* Bytes of a stored element. */
static inline ptrdiff_t codec_size(int code) {
    static const unsigned char sizes[CODECS] = {4, 8, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2};
    return sizes[code];
}

/* Bytes of an element of the partner; 0: it has none. */
static inline ptrdiff_t codec_partner_size(int code) {
    static const unsigned char sizes[CODECS] = {0, 0, 0, 0, 2, 4, 0, 0, 4, 4, 4, 4, 4, 0, 0};
    return sizes[code];
}

/* Whether the partner has an element for each block, not for each element. */
static inline int codec_has_scales(int code) { return code >= CODEC_FLOAT8 && code <= CODEC_DYNAMIC8_POSITIVE; }

/* Whether the key matters. */
static inline int codec_is_stochastic(int code) {
    return code == CODEC_BFLOAT16_STOCHASTIC || code == CODEC_FLOAT16_STOCHASTIC || code == CODEC_FLOAT16_POSITIVE_STOCHASTIC;
}

#include "codecs/bits.h"
#include "codecs/sixteen.h"
#include "codecs/eight.h"

/* Before any other call: makes the tables. */
static inline void codecs_begin(void) {
    for (int map = 0; map < DYNAMIC_MAPS; map++) {
        make_dynamic_map(map);
        make_lines(map);
    }
    make_float8_map();
    for (int map = 0; map < CODE_MAPS; map++) make_bytes(map);
}

/* Elements [first, first + n) of the arrays that begin at `stored` and `partner`, n <= CODEC_MOST. Of a codec with scales,
 * `first` is a multiple of a block, and n is one, too, but at the end of the array. */
static inline void codec_decode(int code, const void *stored, const void *partner, float *out, ptrdiff_t first, ptrdiff_t n) {
    const uint16_t *words = (const uint16_t *)stored + first;
    const uint8_t *codes = (const uint8_t *)stored + first;
    const float *others = (const float *)partner + (partner == NULL ? 0 : codec_has_scales(code) ? first / CODEC_BLOCK : first);
    switch (code) {
    case CODEC_FLOAT32: memcpy(out, (const float *)stored + first, n * sizeof(float)); break;
    case CODEC_FLOAT64: decode_float64((const double *)stored + first, out, n); break;
    case CODEC_BFLOAT16:
    case CODEC_BFLOAT16_STOCHASTIC: decode_bfloat16(words, out, n); break;
    case CODEC_BFLOAT16_SPLIT: decode_split(words, (const int16_t *)partner + first, out, n); break;
    case CODEC_BFLOAT16_MASTER: decode_bfloat16_master(words, others, out, n); break;
    case CODEC_FLOAT16:
    case CODEC_FLOAT16_STOCHASTIC:
    case CODEC_FLOAT16_POSITIVE:
    case CODEC_FLOAT16_POSITIVE_STOCHASTIC: decode_float16(words, out, n); break;
    case CODEC_FLOAT16_MASTER: decode_float16_master(words, others, out, n); break;
    case CODEC_FLOAT8:
    case CODEC_FLOAT8_POSITIVE: decode_float8(codes, others, out, n); break;
    case CODEC_DYNAMIC8: decode_dynamic8(SIGNED_MAP, codes, others, out, n); break;
    case CODEC_DYNAMIC8_POSITIVE: decode_dynamic8(UNSIGNED_MAP, codes, others, out, n); break;
    }
}

static inline void codec_encode(int code, const float *values, void *stored, void *partner, uint64_t key, ptrdiff_t first,
                                ptrdiff_t n) {
    uint16_t *words = (uint16_t *)stored + first;
    uint8_t *codes = (uint8_t *)stored + first;
    float *others = (float *)partner + (partner == NULL ? 0 : codec_has_scales(code) ? first / CODEC_BLOCK : first);
    switch (code) {
    case CODEC_FLOAT32: memcpy((float *)stored + first, values, n * sizeof(float)); break;
    case CODEC_FLOAT64: encode_float64(values, (double *)stored + first, n); break;
    case CODEC_BFLOAT16: encode_bfloat16(values, words, n); break;
    case CODEC_BFLOAT16_STOCHASTIC: encode_bfloat16_stochastic(values, words, key, first, n); break;
    case CODEC_BFLOAT16_SPLIT: encode_split(values, words, (int16_t *)partner + first, n); break;
    case CODEC_BFLOAT16_MASTER:
        encode_bfloat16(values, words, n);
        memcpy(others, values, n * sizeof(float));
        break;
    case CODEC_FLOAT16: encode_float16(values, words, n); break;
    case CODEC_FLOAT16_STOCHASTIC: encode_float16_stochastic(values, words, key, first, n); break;
    case CODEC_FLOAT16_POSITIVE:
        encode_float16(values, words, n);
        keep_positive(values, words, n);
        break;
    case CODEC_FLOAT16_POSITIVE_STOCHASTIC:
        encode_float16_stochastic(values, words, key, first, n);
        keep_positive(values, words, n);
        break;
    case CODEC_FLOAT16_MASTER:
        encode_float16(values, words, n);
        memcpy(others, values, n * sizeof(float));
        break;
    case CODEC_FLOAT8: encode_float8(values, codes, others, n, 0); break;
    case CODEC_FLOAT8_POSITIVE: encode_float8(values, codes, others, n, 1); break;
    case CODEC_DYNAMIC8: encode_dynamic8(SIGNED_MAP, values, codes, others, n); break;
    case CODEC_DYNAMIC8_POSITIVE: encode_dynamic8(UNSIGNED_MAP, values, codes, others, n); break;
    }
}

#endif

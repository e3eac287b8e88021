/* The numbers of the codes of eight bits. The dynamic maps are those of bitsandbytes: zero, one, and in each of seven
 * decades twice as many numbers, at even distances, as in the one before. */
#ifndef CYOPTIM_CODECS_MAP_H
#define CYOPTIM_CODECS_MAP_H

#include "bits.h"

enum { SIGNED_MAP, UNSIGNED_MAP, DYNAMIC_MAPS, FLOAT8_MAP = DYNAMIC_MAPS, CODE_MAPS };
enum { DECADES = 7 };

static float NUMBERS[CODE_MAPS][256];
static float BOUNDS[DYNAMIC_MAPS][DECADES + 1]; /* the least that rounds into each decade, and to 1 */

#define ZERO_CODE(map) ((map) == SIGNED_MAP ? 127 : 0)

/* How many numbers above zero a decade has. Within it they are a line: the code of y, counted from that of zero, is the
 * whole number that is nearest to slope * y + offset, and at most the last one. */
#define PARTS(map, decade) (((map) == SIGNED_MAP ? 1 : 2) << (decade))
#define SLOPE(map, decade, scale) ((float)(PARTS(map, decade) * (scale) / 0.9))
#define OFFSET(map, parts) ((float)(parts) * (float)(8 / 9.0) + (0.5f - (float)PARTS(map, 0)))
#define LAST(map, parts) ((float)(2 * (parts) - PARTS(map, 0)))

/* How near to the middle between two numbers the map itself decides. Lines, and how they are rounded, are within 2.6e-5. */
static const float UNSURE = 0.5f - 4e-5f;

/* The nearest code, ties up, from one that is it or next to it. */
static inline uint8_t settled(int map, uint8_t code, float y) {
    const float *numbers = NUMBERS[map];
    if (code < 255 && 2.0 * y >= (double)numbers[code] + numbers[code + 1]) return code + 1;
    if (code > 0 && 2.0 * y < (double)numbers[code - 1] + numbers[code]) return code - 1;
    return code;
}

/* The least float32 that is at least as near to b as to a < b. */
static inline float bound_between(float a, float b) {
    const double middle = ((double)a + b) / 2;
    const float nearest = (float)middle;
    return nearest < middle ? nextafterf(nearest, 2.0f) : nearest;
}

/* The edges of so many equal parts of [0.1, 1], as torch computes them: linspace comes from both ends, and does not round
 * its products. */
static inline float edge_of(int k, int parts) {
    const float step = (1.0f - 0.1f) / (float)parts;
    return k < (parts + 1) / 2 ? (float)(0.1f + (double)step * k) : (float)(1.0 - (double)step * (parts - k));
}

/* The numbers of a decade are the middles of its parts. */
static inline void make_dynamic_map(int map) {
    static const float powers[DECADES] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    float *above = NUMBERS[map] + ZERO_CODE(map);
    above[0] = 0.0f;
    NUMBERS[map][255] = 1.0f;
    for (int i = 0; i < DECADES; i++) {
        const int parts = PARTS(map, i), start = parts - PARTS(map, 0) + 1;
        for (int k = 0; k < parts; k++) above[start + k] = (edge_of(k, parts) + edge_of(k + 1, parts)) / 2 * powers[i];
        BOUNDS[map][i] = bound_between(above[start - 1], above[start]);
    }
    BOUNDS[map][DECADES] = bound_between(NUMBERS[map][254], 1.0f);
    for (int k = 1; k <= ZERO_CODE(map); k++) above[-k] = -above[k];
}

#endif

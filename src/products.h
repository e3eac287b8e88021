/* Products of matrices for the Newton-Schulz iteration, compiled once per instruction set.
 *
 * (a) A matrix lies in panels of PANEL columns: the first panel with all of its rows, then the second. Both factors of
 *     a product are read along the inner dimension, which is that of their rows: out[i][j] = sum of a[k][i] b[k][j].
 *     So neither needs to be packed, and the left factor is a transposed matrix, or a symmetric one.
 * (b) A symmetric result is computed on and above its diagonal and mirrored: half of the work. Any other result can be
 *     written in both orders, as it is and transposed, as the next products need them.
 * (c) An element is one chain of additions along k, by fused multiply-adds where there are any. So it has the same bits
 *     for any number of threads, any size of a tile, and every instruction set that has them.
 * (d) Intrinsics rather than plain loops: no compiler keeps a tile of accumulators in registers by itself, and kernels
 *     are compiled without contraction.
 */
#ifndef CYOPTIM_PRODUCTS_H
#define CYOPTIM_PRODUCTS_H

#include <stddef.h>
#include <string.h>

enum {
    PANEL_BYTES = 128,      /* of a row of a panel: two cache lines */
    TILE_ROWS = 8,          /* of the result, which a task computes at a time */
    DEPTH = 256             /* rows of a panel that stay in the first-level cache meanwhile */
};

typedef struct {
    int is_double, symmetric;
    ptrdiff_t rows, columns, depth;         /* of the result, and the inner dimension */
    const void *a, *b, *z;                  /* factors, and what is added; NULL: nothing */
    void *out, *mirror;                     /* result, and its transpose; NULL: not wanted */
    ptrdiff_t a_rows, b_rows, out_rows, mirror_rows;    /* of their panels; z has those of `out` */
    double alpha, beta, diagonal;           /* out = alpha a'b + beta z + diagonal I */
} Product;

#if defined(__AVX512F__)
#include <immintrin.h>
#define TILE_AT_ONCE 8
#define VECTOR_f __m512
#define LANES_f 16
#define OP_f(op) _mm512_##op##_ps
#define VECTOR_d __m512d
#define LANES_d 8
#define OP_d(op) _mm512_##op##_pd
#define FUSED(t, a, b, c) OP_##t(fmadd)(a, b, c)
#elif defined(__AVX2__)
#include <immintrin.h>
#define TILE_AT_ONCE 4
#define VECTOR_f __m256
#define LANES_f 8
#define OP_f(op) _mm256_##op##_ps
#define VECTOR_d __m256d
#define LANES_d 4
#define OP_d(op) _mm256_##op##_pd
#define FUSED(t, a, b, c) OP_##t(fmadd)(a, b, c)
#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define TILE_AT_ONCE 4
#define VECTOR_f __m128
#define LANES_f 4
#define OP_f(op) _mm_##op##_ps
#define VECTOR_d __m128d
#define LANES_d 2
#define OP_d(op) _mm_##op##_pd
#define FUSED(t, a, b, c) OP_##t(add)(OP_##t(mul)(a, b), c)
#elif defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>
#define TILE_AT_ONCE 8
#define VECTOR_f float32x4_t
#define LANES_f 4
#define OP_f(op) neon_f_##op
#define VECTOR_d float64x2_t
#define LANES_d 2
#define OP_d(op) neon_d_##op
#define neon_f_loadu(p) vld1q_f32(p)
#define neon_f_storeu(p, v) vst1q_f32(p, v)
#define neon_f_set1(x) vdupq_n_f32(x)
#define neon_d_loadu(p) vld1q_f64(p)
#define neon_d_storeu(p, v) vst1q_f64(p, v)
#define neon_d_set1(x) vdupq_n_f64(x)
#define FUSED_f(a, b, c) vfmaq_f32(c, a, b)
#define FUSED_d(a, b, c) vfmaq_f64(c, a, b)
#define FUSED(t, a, b, c) FUSED_##t(a, b, c)
#else
#define TILE_AT_ONCE 4
#define VECTOR_f float
#define LANES_f 1
#define OP_f(op) scalar_##op
#define VECTOR_d double
#define LANES_d 1
#define OP_d(op) scalar_##op
#define scalar_loadu(p) (*(p))
#define scalar_storeu(p, v) (*(p) = (v))
#define scalar_set1(x) (x)
#define FUSED(t, a, b, c) ((a) * (b) + (c))
#endif

static inline ptrdiff_t product_panel(int is_double) {
    return PANEL_BYTES / (is_double ? sizeof(double) : sizeof(float));
}

/* Rows of a task: two panels wide. */
static inline ptrdiff_t product_height(const Product *p) { return 2 * product_panel(p->is_double); }

static inline ptrdiff_t product_task_count(const Product *p) {
    ptrdiff_t panel = product_panel(p->is_double), height = 2 * panel;
    ptrdiff_t panels = (p->columns + panel - 1) / panel, tasks = 0, j;
    if (!p->symmetric) return panels * ((p->rows + height - 1) / height);
    for (j = 0; j < panels; j++) tasks += j / 2 + 1;
    return tasks;
}

/* The panel and the block of rows of a task. */
static inline void product_place(const Product *p, ptrdiff_t task, ptrdiff_t *panel, ptrdiff_t *block) {
    ptrdiff_t height = product_height(p), j = 0;
    if (p->symmetric) {
        while (task > j / 2) task -= j / 2 + 1, j++;
    } else {
        ptrdiff_t blocks = (p->rows + height - 1) / height;
        j = task / blocks;
        task %= blocks;
    }
    *panel = j;
    *block = task;
}

#define PRODUCT_TASK(t, real)                                                                                           \
/* c += a'b over `depth` rows: TILE_ROWS by a panel. */                                                                 \
static inline void product_tile_##t(const real *a, const real *b, real *c, ptrdiff_t depth) {                           \
    enum { PANEL = PANEL_BYTES / sizeof(real) };                                                                        \
    ptrdiff_t column, row, k;                                                                                           \
    int r;                                                                                                              \
    for (column = 0; column < PANEL; column += 2 * LANES_##t)                                                           \
        for (row = 0; row < TILE_ROWS; row += TILE_AT_ONCE) {                                                           \
            const real *x = a + row, *y = b + column;                                                                   \
            real *s = c + row * PANEL + column;                                                                         \
            VECTOR_##t left[TILE_AT_ONCE], right[TILE_AT_ONCE];                                                         \
            for (r = 0; r < TILE_AT_ONCE; r++) {                                                                        \
                left[r] = OP_##t(loadu)(s + r * PANEL);                                                                 \
                right[r] = OP_##t(loadu)(s + r * PANEL + LANES_##t);                                                    \
            }                                                                                                           \
            for (k = 0; k < depth; k++, x += PANEL, y += PANEL) {                                                       \
                VECTOR_##t first = OP_##t(loadu)(y), second = OP_##t(loadu)(y + LANES_##t);                             \
                for (r = 0; r < TILE_AT_ONCE; r++) {                                                                    \
                    VECTOR_##t factor = OP_##t(set1)(x[r]);                                                             \
                    left[r] = FUSED(t, factor, first, left[r]);                                                         \
                    right[r] = FUSED(t, factor, second, right[r]);                                                      \
                }                                                                                                       \
            }                                                                                                           \
            for (r = 0; r < TILE_AT_ONCE; r++) {                                                                        \
                OP_##t(storeu)(s + r * PANEL, left[r]);                                                                 \
                OP_##t(storeu)(s + r * PANEL + LANES_##t, right[r]);                                                    \
            }                                                                                                           \
        }                                                                                                               \
}                                                                                                                       \
                                                                                                                        \
/* Finish a tile whose first row is i, of the panel that begins with column j, and write it where it is wanted. */      \
static inline void product_write_##t(const Product *p, real *c, ptrdiff_t i, ptrdiff_t j) {                             \
    enum { PANEL = PANEL_BYTES / sizeof(real) };                                                                        \
    const real *z = (const real *)p->z;                                                                                 \
    real *out = (real *)p->out, *mirror = (real *)p->mirror;                                                            \
    real alpha = (real)p->alpha, beta = (real)p->beta, diagonal = (real)p->diagonal;                                    \
    ptrdiff_t place = j * p->out_rows + i * PANEL, from = 0, after = 0, r, k;                                           \
    for (k = 0; k < TILE_ROWS * PANEL; k++) c[k] *= alpha;                                                              \
    if (z)                                                                                                              \
        for (k = 0; k < TILE_ROWS * PANEL; k++) c[k] += beta * z[place + k];                                            \
    if (p->symmetric) {                                                                                                 \
        from = i > j ? i - j : 0;                                                                                       \
        after = i + TILE_ROWS > j ? i + TILE_ROWS - j : 0;                                                              \
        if (i >= j) {                                                                                                   \
            for (r = 0; r < TILE_ROWS; r++) {                                                                           \
                if (i + r < p->columns) c[r * PANEL + from + r] += diagonal;                                            \
                for (k = 0; k < r; k++) c[r * PANEL + from + k] = c[k * PANEL + from + r];                              \
            }                                                                                                           \
        }                                                                                                               \
    }                                                                                                                   \
    if (out)                                                                                                            \
        for (r = 0; r < TILE_ROWS; r++)                                                                                 \
            memcpy(out + place + r * PANEL + from, c + r * PANEL + from, (PANEL - from) * sizeof(real));                \
    if (mirror) {                                                                                                       \
        real *turned = mirror + (i / PANEL) * p->mirror_rows * PANEL + j * PANEL + i % PANEL;                           \
        for (k = after; k < PANEL; k++)                                                                                 \
            for (r = 0; r < TILE_ROWS; r++) turned[k * PANEL + r] = c[r * PANEL + k];                                   \
    }                                                                                                                   \
}                                                                                                                       \
                                                                                                                        \
static void product_task_##t(const Product *p, ptrdiff_t task) {                                                        \
    enum { PANEL = PANEL_BYTES / sizeof(real) };                                                                        \
    real sums[2 * PANEL * PANEL];                                                                                       \
    ptrdiff_t panel, block, i, first, last, k;                                                                          \
    product_place(p, task, &panel, &block);                                                                             \
    first = block * 2 * PANEL;                                                                                          \
    last = first + 2 * PANEL < p->rows ? first + 2 * PANEL : p->rows;                                                   \
    if (p->symmetric && last > (panel + 1) * PANEL) last = (panel + 1) * PANEL;                                         \
    memset(sums, 0, sizeof sums);                                                                                       \
    for (k = 0; k < p->depth; k += DEPTH) {                                                                             \
        ptrdiff_t depth = p->depth - k < DEPTH ? p->depth - k : DEPTH;                                                  \
        const real *b = (const real *)p->b + (panel * p->b_rows + k) * PANEL;                                           \
        for (i = first; i < last; i += TILE_ROWS)                                                                       \
            product_tile_##t((const real *)p->a + ((i / PANEL) * p->a_rows + k) * PANEL + i % PANEL, b,                 \
                             sums + (i - first) * PANEL, depth);                                                        \
    }                                                                                                                   \
    for (i = first; i < last; i += TILE_ROWS)                                                                           \
        product_write_##t(p, sums + (i - first) * PANEL, i, panel * PANEL);                                             \
}

PRODUCT_TASK(f, float)
PRODUCT_TASK(d, double)

static inline void product_task(const Product *p, ptrdiff_t task) {
    if (p->is_double) product_task_d(p, task);
    else product_task_f(p, task);
}

#endif

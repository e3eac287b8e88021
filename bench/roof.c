/* The roof: what moving Adam's memory costs, with one multiplication and addition per array.
 *
 * (a) A step reads p, g, m and v and writes p, m and v: 7 streams, of which nothing can be left
 *     out, because each result depends on the one before.
 * (b) Each thread walks one contiguous range of all elements, cut evenly to the element.
 * (c) All loads come before the stores: large arrays lie a multiple of 4096 bytes apart, where a
 *     load after a store to another array is taken to depend on it.
 * (d) Plain stores: non-temporal ones would save reading what is written, but cyoptim has none.
 */
typedef struct {
    void *p, *g, *m, *v;
    long long size;
} Span;

#define ROOF(NAME, REAL)                                                                      \
    static void walk_##NAME(const Span *span, REAL c) {                                       \
        REAL *restrict p = span->p, *restrict m = span->m, *restrict v = span->v;             \
        const REAL *restrict g = span->g;                                                     \
        for (long long i = 0; i < span->size; i++) {                                          \
            REAL d = c * g[i], first = m[i] + d, second = v[i] + d, value = p[i] + c * first; \
            m[i] = first;                                                                     \
            v[i] = second;                                                                    \
            p[i] = value;                                                                     \
        }                                                                                     \
    }                                                                                         \
    /* The thread number t walks spans[first[t]] to spans[first[t + 1] - 1]. */               \
    void roof_##NAME(const Span *spans, const long long *first, int threads, double c) {      \
        if (threads == 1) {                                                                   \
            for (long long s = first[0]; s < first[1]; s++)                                   \
                walk_##NAME(&spans[s], (REAL)c);                                              \
            return;                                                                           \
        }                                                                                     \
        _Pragma("omp parallel for schedule(static, 1) num_threads(threads)")                  \
        for (int t = 0; t < threads; t++)                                                     \
            for (long long s = first[t]; s < first[t + 1]; s++)                               \
                walk_##NAME(&spans[s], (REAL)c);                                              \
    }

ROOF(float32, float)
ROOF(float64, double)

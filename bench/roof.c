/* The roof: moves an optimizer's memory, with one multiplication and addition per array.
 *
 * (a) A step reads READ arrays and reads and writes WRITTEN ones. Nothing can be left out, because
 *     each sum depends on the one before; the last one is the parameter's.
 * (b) Each thread walks one contiguous range of all elements, cut evenly to the element.
 * (c) All loads come before the stores: large arrays lie a multiple of 4096 bytes apart, where a
 *     load after a store to another array is taken to depend on it.
 * (d) Plain stores: non-temporal ones would save reading what is written, but cyoptim has none.
 *
 * The compiler unrolls the loops over k, whose number of rounds it knows, and vectorizes the other.
 */
typedef struct {
    REAL *written[WRITTEN]; /* the parameter first */
    const REAL *read[READ];
    long long size;
} Span;

static void walk(const Span *span, REAL c) {
    _Pragma("GCC ivdep") /* the arrays do not overlap */
    for (long long i = 0; i < span->size; i++) {
        REAL sums[WRITTEN], last = span->read[0][i];
        for (int k = 1; k < READ; k++)
            last += span->read[k][i];
        for (int k = WRITTEN - 1; k >= 0; k--)
            sums[k] = last = span->written[k][i] + c * last;
        for (int k = 0; k < WRITTEN; k++)
            span->written[k][i] = sums[k];
    }
}

/* The thread number t walks spans[first[t]] to spans[first[t + 1] - 1]. */
void roof(const Span *spans, const long long *first, int threads, double c) {
    if (threads == 1) {
        for (long long s = first[0]; s < first[1]; s++)
            walk(&spans[s], (REAL)c);
        return;
    }
    _Pragma("omp parallel for schedule(static, 1) num_threads(threads)")
    for (int t = 0; t < threads; t++)
        for (long long s = first[t]; s < first[t + 1]; s++)
            walk(&spans[s], (REAL)c);
}

/* The roof: moves an optimizer's memory, with one multiplication and addition per array.
 *
 * (a) A pass reads READ arrays and reads and writes WRITTEN ones. Nothing can be left out, because
 *     each sum depends on the one before; the last one is that of the first array.
 * (b) Each thread walks one contiguous range of all elements, cut evenly to the element.
 * (c) All loads come before the stores: large arrays lie a multiple of 4096 bytes apart, where a
 *     load after a store to another array is taken to depend on it.
 * (d) Plain stores: non-temporal ones would save reading what is written, but cyoptim has none.
 * (e) If nothing is written, the squares are added up: LANES sums of a block, as one chain of
 *     additions would be slower than memory, and blocks in double.
 *
 * The compiler unrolls the loops over k, whose number of rounds it knows, and vectorizes the other.
 */
typedef struct {
    REAL *written[WRITTEN];
    const REAL *read[READ];
    long long size;
} Span;

#if WRITTEN

static double walk(const Span *span, REAL c) {
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
    return 0;
}

#else

enum { LANES = 64, BLOCK = 4096 };

static double walk(const Span *span, REAL c) {
    double total = 0;
    for (long long start = 0; start < span->size; start += BLOCK) {
        const REAL *x[READ];
        long long left = span->size - start, n = left < BLOCK ? left : BLOCK, i = 0;
        REAL lanes[LANES] = {0}, rest = 0;
        for (int j = 0; j < READ; j++)
            x[j] = span->read[j] + start;
        for (; i + LANES <= n; i += LANES)
            for (int j = 0; j < READ; j++)
                for (int k = 0; k < LANES; k++)
                    lanes[k] += c * x[j][i + k] * x[j][i + k];
        for (; i < n; i++)
            for (int j = 0; j < READ; j++)
                rest += c * x[j][i] * x[j][i];
        for (int k = 0; k < LANES; k++)
            rest += lanes[k];
        total += rest;
    }
    return total;
}

#endif

/* The thread number t walks spans[first[t]] to spans[first[t + 1] - 1]. */
double roof(const Span *spans, const long long *first, int threads, double c) {
    double total = 0;
    if (threads == 1) {
        for (long long s = first[0]; s < first[1]; s++)
            total += walk(&spans[s], (REAL)c);
        return total;
    }
    _Pragma("omp parallel for schedule(static, 1) num_threads(threads) reduction(+ : total)")
    for (int t = 0; t < threads; t++)
        for (long long s = first[t]; s < first[t + 1]; s++)
            total += walk(&spans[s], (REAL)c);
    return total;
}

# The passes over the matrices of Adafactor's family, and what is computed between two of them.

cdef inline void factored_rows(const Factored *f, int phase, floating *param, Py_ssize_t block, int rows, bint first,
                               Py_ssize_t i, Py_ssize_t start, Py_ssize_t n, double *lanes) noexcept nogil:
    # `param` chooses the type. Rows of the block's matrix from i on, a constant number; n elements of each, from `start` on.
    # `first`: of the block's rows.
    cdef Py_ssize_t matrix = block // (f.across * f.down), row = matrix * f.rows + i
    cdef Py_ssize_t place = row * f.columns + start, line = matrix * f.columns + start, r, at
    cdef floating *g = (<floating *>f.grad) + place
    cdef floating *moment = NULL if f.moment == NULL else (<floating *>f.moment) + place
    cdef floating *column = (<floating *>f.factors[1]) + line
    cdef floating *factor = (<floating *>f.factors[0]) + row
    cdef double *row_sums = f.row_sums + (matrix * f.across + block % f.across) * f.rows + i
    cdef double *column_sums = f.column_sums + (block // f.across) * f.columns + start
    cdef floating keep = <floating>f.keep, gain = <floating>f.gain, most = <floating>f.most
    cdef floating shrink = <floating>f.shrink, size = <floating>f.size
    param += place
    if phase == MEAN_SQUARES:
        if f.scaled:
            add_plain_squares(param, f.columns, rows, lanes, n)
        if f.vector:
            move_squares(g, (<floating *>f.squares[1]) + line, column, f.weight, f.eps, f.product, n)
        else:
            add_squares_each(g, f.columns, rows, row_sums, column_sums, first, n)
    elif phase == SCALED_SQUARES:
        add_scaled_squares(g, f.columns, rows, factor, column, most, f.product, lanes, n)
    elif phase == RESIDUALS:
        add_residuals(g, moment, f.columns, rows, factor, column, <floating>f.along, keep, gain, row_sums, column_sums,
                      first, n)
    else:
        for r in range(rows):
            at = r * f.columns
            if phase == AGREEMENTS:
                lanes[0] += count_agreements(g + at, moment + at, factor[r], column, keep, gain, n)
            elif moment == NULL:
                scaled_update(param + at, g + at, factor[r], column, most, f.product, shrink, size, n)
            elif f.confidence[0] == NULL:
                followed_update(param + at, g + at, moment + at, factor[r], column, keep, gain, f.cautious, shrink, size, n)
            else:
                confident_update(param + at, g + at, moment + at, factor[r], column,
                                 (<floating *>f.confidence[0])[row + r], (<floating *>f.confidence[1]) + line, keep, gain,
                                 shrink, size, n)


cdef inline void factored_block(const Factored *f, int phase, Py_ssize_t block, floating *param) noexcept nogil:
    cdef Py_ssize_t first = (block // f.across) % f.down * f.height, stop = min(first + f.height, f.rows), i = first
    cdef Py_ssize_t start = (block % f.across) * f.width, n = min(f.width, f.columns - start)
    cdef double lanes[LANES]
    memset(lanes, 0, sizeof(lanes))
    while i + TOGETHER <= stop:
        factored_rows(f, phase, param, block, TOGETHER, i == first, i, start, n, lanes)
        i += TOGETHER
    while i < stop:
        factored_rows(f, phase, param, block, 1, i == first, i, start, n, lanes)
        i += 1
    if phase == MEAN_SQUARES:
        f.param_squares[block] = fold_sums(lanes)
    else:
        f.sums[block] = fold_sums(lanes)


cdef void run_block(const Factored *f, int phase, Py_ssize_t block) noexcept nogil:
    if f.dtype == FLOAT32:
        factored_block(f, phase, block, <float *>f.param)
    else:
        factored_block(f, phase, block, <double *>f.param)


cdef inline double total_of(const double *sums, Py_ssize_t n) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(n):
        total = total + sums[i]
    return total


cdef inline void fold_lines(double *sums, Py_ssize_t parts, Py_ssize_t n) noexcept nogil:
    """Add up the parts of n sums each, in their order, in the place of the first."""
    cdef Py_ssize_t part, i
    for part in range(1, parts):
        for i in range(n):
            sums[i] = sums[i] + sums[part * n + i]


cdef inline void settle_lines(Factored *f, void **kept, void **factors, double weight, double eps,
                              floating *type) noexcept nogil:
    """Move the averages of rows and columns, and compute the factors by them."""
    cdef floating *row = <floating *>kept[0]
    cdef floating *column = <floating *>kept[1]
    cdef Py_ssize_t matrix
    cdef double mean
    for matrix in range(f.count):
        fold_lines(f.row_sums + matrix * f.across * f.rows, f.across, f.rows)
        fold_lines(f.column_sums + matrix * f.down * f.columns, f.down, f.columns)
        mean = move_lines(row, f.row_sums + matrix * f.across * f.rows, f.rows, <double>f.columns, weight, eps)
        move_lines(column, f.column_sums + matrix * f.down * f.columns, f.columns, <double>f.rows, weight, eps)
        row_factors(row, (<floating *>factors[0]) + matrix * f.rows, mean, f.least_mean, f.product, f.rows)
        column_factors(column, (<floating *>factors[1]) + matrix * f.columns, f.product, f.columns)
        row += f.rows
        column += f.columns


cdef inline void settle_typed(Factored *f, int phase, floating *type) noexcept nogil:
    cdef Py_ssize_t i
    if phase == RESIDUALS:
        settle_lines(f, f.residuals, f.confidence, f.residual_weight, f.residual_eps, type)
    elif not f.vector:
        settle_lines(f, f.squares, f.factors, f.weight, f.eps, type)
    else:
        (<floating *>f.factors[0])[0] = 1


cdef void settle(Factored *f, int phase) noexcept nogil:
    """What is computed between a pass and the next."""
    cdef double elements = <double>(f.count * f.rows * f.columns)
    if phase == MEAN_SQUARES or phase == RESIDUALS:
        if f.dtype == FLOAT32:
            settle_typed(f, phase, <float *>NULL)
        else:
            settle_typed(f, phase, <double *>NULL)
    if phase == MEAN_SQUARES:
        f.scale = 1
        if f.scaled:
            f.scale = scale_of(sqrt(total_of(f.param_squares, f.blocks) / elements), f.least_scale, f.product)
        f.clip = 1
        decide(f)
    elif phase == SCALED_SQUARES:
        f.clip = clip_of(sqrt(total_of(f.sums, f.blocks) / elements), f.threshold)
        decide(f)
    elif phase == AGREEMENTS:
        f.size = f.size / greater(total_of(f.sums, f.blocks) / elements, 1e-3)


cdef void step_whole(Factored *f) noexcept nogil:
    """All passes, one after the other."""
    cdef Py_ssize_t block
    cdef int phase
    for phase in range(FACTORED_PASSES):
        if takes_pass(f, phase):
            for block in range(f.blocks):
                run_block(f, phase, block)
            settle(f, phase)


cdef void factor(const void *context, Py_ssize_t bundle) noexcept nogil:
    """A bundle of a FactoredRun."""
    cdef const FactoredRun *run = <const FactoredRun *>context
    cdef Factored *f = run.parameters[0]
    cdef Py_ssize_t i
    cdef unsigned long long mode = fp_flush()
    if run.phase == FACTORED_PASSES:
        for i in range(run.bundles[bundle], run.bundles[bundle + 1]):
            step_whole(run.parameters[i])
    elif run.settles:
        settle(f, run.phase)
    else:
        for i in range(bundle * f.bundle, min((bundle + 1) * f.bundle, f.blocks)):
            run_block(f, run.phase, i)
    fp_restore(mode)

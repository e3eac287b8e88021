# The passes over matrices with row and column factors.

cdef inline void factored_row(const Matrices *m, int phase, floating *param, Py_ssize_t block,
                              Py_ssize_t i, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    # `param` chooses the type. Row i of the block's matrix, n elements from `start` on.
    cdef Py_ssize_t matrix = block // (m.across * m.down), row = matrix * m.rows + i
    cdef floating *g = (<floating *>m.grad) + row * m.columns + start
    cdef floating *column = (<floating *>m.column) + matrix * m.columns + start
    cdef floating *factor = (<floating *>m.row) + row
    cdef floating *moment = NULL if m.moment == NULL else (<floating *>m.moment) + row * m.columns + start
    cdef double *column_sums = NULL if m.column_sums == NULL else (
        m.column_sums + (block // m.across) * m.columns + start)
    cdef floating keep = <floating>m.keep, gain = <floating>m.gain
    param += row * m.columns + start
    if phase == STATISTICS:
        m.row_sums[(matrix * m.across + block % m.across) * m.rows + i] = sum_squares(g, n)
        add_squares_each(g, column_sums, n)
    elif phase == RESIDUALS:
        m.row_sums[(matrix * m.across + block % m.across) * m.rows + i] = add_residuals(
            g, moment, factor[0], column, <floating>m.clip, keep, gain, column_sums, n)
    elif phase == SQUARES:
        m.squares[block] += scaled_square(g, factor[0], column, <floating>m.floor, m.product, n)
    elif phase == AGREEMENTS:
        m.squares[block] += count_agreements(g, moment, factor[0], column, keep, gain, n)
    elif m.moment == NULL:
        scaled_update(param, g, factor[0], column, <floating>m.floor, m.product, <floating>m.shrink,
                      <floating>m.size, n)
    elif m.more_row == NULL:
        followed_update(param, g, moment, factor[0], column, keep, gain, m.cautious, <floating>m.shrink,
                        <floating>m.size, n)
    else:
        confident_update(param, g, moment, factor[0], column, (<floating *>m.more_row)[row],
                         (<floating *>m.more_column) + matrix * m.columns + start, keep, gain,
                         <floating>m.shrink, <floating>m.size, n)


cdef inline void factored_block(const Matrices *m, int phase, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t down = (block // m.across) % m.down, i
    cdef Py_ssize_t start = (block % m.across) * m.width, n = min(m.width, m.columns - start)
    for i in range(down * m.height, min((down + 1) * m.height, m.rows)):
        if m.dtype == FLOAT32:
            factored_row(m, phase, <float *>m.param, block, i, start, n)
        else:
            factored_row(m, phase, <double *>m.param, block, i, start, n)


cdef inline void run_blocks(const Matrices *m, int phase, Py_ssize_t bundle) noexcept nogil:
    # Sums are zero when a pass begins; each block adds to places of its own.
    cdef Py_ssize_t block
    for block in range(bundle * m.bundle, min((bundle + 1) * m.bundle, m.blocks)):
        factored_block(m, phase, block)

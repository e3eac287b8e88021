# The passes over a matrix that Muon steps, and the products of its iteration.

cdef enum:
    PANELS = 8              # side by side, of which a row is read at a time, while their transposed parts stay in the cache


cdef inline void directed_rows(const Directed *m, floating *param, Py_ssize_t block) noexcept nogil:
    # `param` chooses the type.
    cdef Py_ssize_t panel = PANEL_BYTES // sizeof(floating)
    cdef Py_ssize_t first = block * panel, last = min(first + panel, m.rows)
    cdef Py_ssize_t start = 0, stop, r
    cdef double lanes[LANES]
    for r in range(LANES):
        lanes[r] = 0
    while start < m.columns:
        stop = min(start + PANELS * panel, m.columns)
        for r in range(first, last):
            directed_row(m, param, lanes, r, first, start, stop)
        if m.phase == DIRECTED:
            for r in range(last, first + panel):
                clear_turned(m, param, r - first, first, start, stop)
        start = stop
    if m.phase == DIRECTED:
        m.squares[block] = fold_sums(lanes)


cdef inline void directed_row(const Directed *m, floating *param, double *lanes, Py_ssize_t r, Py_ssize_t first,
                              Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t panel = PANEL_BYTES // sizeof(floating)
    cdef Py_ssize_t n, k, place
    cdef floating *row
    cdef floating *turned
    cdef floating factor = <floating>m.factor
    while start < stop:
        n = min(panel, stop - start)
        place = r * m.columns + start
        row = (<floating *>m.panels) + start * m.panel_rows + r * panel
        turned = (<floating *>m.turned) + first * m.turned_rows + start * panel + r - first
        if m.phase == DIRECTED:
            muon_direction((<floating *>m.buffer) + place, (<floating *>m.grad) + place, row, m.sign, m.momentum,
                           m.nesterov, n)
            add_squares(row, lanes, n)
            for k in range(n):
                turned[k * panel] = row[k]
            for k in range(n, panel):
                row[k] = 0
        elif m.phase == RESCALED:
            for k in range(n):
                row[k] = factor * row[k]
                turned[k * panel] = row[k]
        elif m.phase == STEPPED:
            muon_step(param + place, row, m.shrink, m.size, m.cautious, n)
        else:
            memcpy((<floating *>m.flat) + place, row, n * sizeof(floating))
        start += panel


cdef inline void clear_turned(const Directed *m, floating *param, Py_ssize_t r, Py_ssize_t first, Py_ssize_t start,
                              Py_ssize_t stop) noexcept nogil:
    # Columns of a panel that the matrix does not fill.
    cdef Py_ssize_t panel = PANEL_BYTES // sizeof(floating), k
    for k in range(start, stop):
        ((<floating *>m.turned) + first * m.turned_rows + k * panel)[r] = 0


cdef inline void directed_segments(const Directed *m, floating *param, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t s, k, n = m.segment
    cdef floating *row
    cdef double lanes[LANES]
    for s in range(block * m.bundle, min((block + 1) * m.bundle, m.segments)):
        row = (<floating *>m.flat) + s * n
        if m.phase == MEASURED:
            for k in range(LANES):
                lanes[k] = 0
            add_squares(row, lanes, n)
            m.squares[s] = fold_sums(lanes)
        else:
            muon_step(param + s * n, row, m.shrink, m.size * m.factors[s], m.cautious, n)


cdef void direct(const void *context, Py_ssize_t block) noexcept nogil:
    cdef const Directed *m = <const Directed *>context
    cdef unsigned long long mode = fp_flush()
    if m.dtype == FLOAT32:
        if m.phase < MEASURED:
            directed_rows(m, <float *>m.param, block)
        else:
            directed_segments(m, <float *>m.param, block)
    elif m.phase < MEASURED:
        directed_rows(m, <double *>m.param, block)
    else:
        directed_segments(m, <double *>m.param, block)
    fp_restore(mode)


cdef void multiply(const void *context, Py_ssize_t task) noexcept nogil:
    cdef unsigned long long mode = fp_flush()
    product_task(<const Product *>context, task)
    fp_restore(mode)

# Reductions: a result a chunk, which the caller combines in the order of the chunks.

cdef inline double reduce_streams(const Table *table, floating **s, Py_ssize_t n) noexcept nogil:
    if table.reduction == DOT:
        return dot_span(s[0], s[1], n)
    if table.reduction == AXPBY_DOT:
        return axpby_dot_span(s, table.factors, n)
    return reduce_span(s[0], n, table.reduction, table.order)


cdef inline double reduce_pieces(const Table *table, const Chunk *chunk, floating *type) noexcept nogil:
    """As reduce_streams, of streams that are stored in other types."""
    cdef floating pieces[3 * PIECE]
    cdef floating *s[3]
    cdef double total = 0, value
    cdef Py_ssize_t start = chunk.start, n
    cdef int k
    while start < chunk.stop:
        n = unbounded(min(<Py_ssize_t>PIECE, chunk.stop - start))
        for k in range(3):
            s[k] = pieces + PIECE * k
            if table.tensors[chunk.tensor].streams[k] != NULL:
                read(table, chunk.tensor, k, s[k], start, n)
        value = reduce_streams(table, s, n)
        total = value if start == chunk.start else combine(total, value, table.reduction)
        start += n
    return total


cdef inline double reduce_chunk(const Table *table, const Chunk *chunk) noexcept nogil:
    cdef const Tensor *tensor = &table.tensors[chunk.tensor]
    cdef float *s32[3]
    cdef double *s64[3]
    cdef int k
    if is_coded(table, chunk.tensor):
        if tensor.dtype == FLOAT32:
            return reduce_pieces(table, chunk, <float *>NULL)
        return reduce_pieces(table, chunk, <double *>NULL)
    if tensor.dtype == FLOAT32:
        for k in range(3):
            s32[k] = (<float *>tensor.streams[k]) + chunk.start
        return reduce_streams(table, s32, chunk.stop - chunk.start)
    for k in range(3):
        s64[k] = (<double *>tensor.streams[k]) + chunk.start
    return reduce_streams(table, s64, chunk.stop - chunk.start)


cdef inline double norm_pieces(const Table *table, const Chunk *chunk, floating *type) noexcept nogil:
    """The sum of squares of a chunk of a gradient that is stored in another type."""
    cdef floating piece[PIECE]
    cdef floating *s[1]
    cdef double lane[LANES]
    cdef Py_ssize_t start = chunk.start, n
    memset(lane, 0, sizeof(lane))
    while start < chunk.stop:
        n = unbounded(min(<Py_ssize_t>PIECE, chunk.stop - start))
        read(table, chunk.tensor, 1, piece, start, n)
        add_squares(piece, lane, n)
        start += n
    return fold_sums(lane)


cdef inline double norm_chunk(const Table *table, const Chunk *chunk) noexcept nogil:
    """The sum of squares of a chunk of a gradient, before any stage."""
    cdef const Tensor *tensor = &table.tensors[chunk.tensor]
    cdef Py_ssize_t n = chunk.stop - chunk.start
    if tensor.row < 0:
        return 0
    if code_of(table, chunk.tensor, 1) != tensor.dtype:
        if tensor.dtype == FLOAT32:
            return norm_pieces(table, chunk, <float *>NULL)
        return norm_pieces(table, chunk, <double *>NULL)
    if tensor.dtype == FLOAT32:
        return reduce_span((<float *>tensor.streams[1]) + chunk.start, n, SUM_SQUARES, 0)
    return reduce_span((<double *>tensor.streams[1]) + chunk.start, n, SUM_SQUARES, 0)

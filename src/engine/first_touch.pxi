# What new state begins with, written by the threads that step it.
#
# The system puts a page where it is first touched. State that begins with zeros is touched by the first step;
# other state is written here, before it, by a run that is shared in the same way.

cdef Py_ssize_t FIRST_TOUCH_LEAST = 1 << 20     # bytes of an array that is worth it

cdef enum FillKind:
    NO_FILL
    FILL_VALUE
    FILL_COPY       # of the parameter

cdef struct Fill:
    FillKind kind
    double value

cdef struct Fills:
    const Table *table
    const Fill *of              # per tensor and stream


cdef void fill_span(char *to, const char *source, double value, int dtype, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    cdef float narrow = <float>value
    if source != NULL:
        memcpy(to, source, n * itemsize(dtype))
    elif dtype == FLOAT32:
        for k in range(n):
            (<float *>to)[k] = narrow
    else:
        for k in range(n):
            (<double *>to)[k] = value


cdef void fill_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    cdef const Fills *fills = <const Fills *>context
    cdef const Table *table = fills.table
    cdef const Chunk *chunk
    cdef const Tensor *tensor
    cdef const Fill *fill
    cdef Py_ssize_t c, start, size
    cdef int k
    for c in range(table.bundles[bundle], table.bundles[bundle + 1]):
        chunk = &table.chunks[c]
        tensor = &table.tensors[chunk.tensor]
        size = itemsize(tensor.dtype)
        start = chunk.start * size
        for k in range(2, MAX_STREAMS):
            fill = &fills.of[MAX_STREAMS * chunk.tensor + k]
            if fill.kind != NO_FILL:
                fill_span(<char *>tensor.streams[k] + start,
                          <const char *>tensor.streams[0] + start if fill.kind == FILL_COPY else NULL,
                          fill.value, tensor.dtype, chunk.stop - chunk.start)


cdef int fill_together(const Table *table, Py_ssize_t n_tensors, Py_ssize_t n_bundles, list wanted) except -1:
    """Fill streams of a table: (tensor, stream, value), or None for a copy of the parameter."""
    cdef Fills fills
    cdef Fill *fill = <Fill *>PyMem_Calloc(n_tensors * MAX_STREAMS, sizeof(Fill))
    cdef Py_ssize_t i, k
    if not fill:
        raise MemoryError
    for i, k, value in wanted:
        fill[MAX_STREAMS * i + k].kind = FILL_COPY if value is None else FILL_VALUE
        fill[MAX_STREAMS * i + k].value = 0 if value is None else value
    fills.table, fills.of = table, fill
    with nogil:
        run_tasks(fill_bundle, &fills, 0, n_bundles, available_threads())
    PyMem_Free(fill)
    return 0

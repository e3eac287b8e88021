# What new state begins with, written by the threads that step it.
#
# The system puts a page where it is first touched. State that begins with zeros is touched by the first step;
# other state is written here, before it, by a run that is shared in the same way.

cdef Py_ssize_t FIRST_TOUCH_LEAST = 1 << 20     # bytes of an array that is worth it

cdef struct Fill:
    bint wanted
    const char *source          # what is copied; NULL: the number, in both types
    float narrow
    double wide

cdef struct Fills:
    const Table *table
    const Fill *of              # per tensor and stream


cdef void fill_span(const Fill *fill, char *to, int dtype, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k, size = itemsize(dtype)
    to += start * size
    if fill.source != NULL:
        memcpy(to, fill.source + start * size, n * size)
    elif dtype == FLOAT32:
        for k in range(n):
            (<float *>to)[k] = fill.narrow
    else:
        for k in range(n):
            (<double *>to)[k] = fill.wide


cdef void fill_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    cdef const Fills *fills = <const Fills *>context
    cdef const Table *table = fills.table
    cdef const Chunk *chunk
    cdef const Tensor *tensor
    cdef const Fill *fill
    cdef Py_ssize_t c
    cdef int k
    for c in range(table.bundles[bundle], table.bundles[bundle + 1]):
        chunk = &table.chunks[c]
        tensor = &table.tensors[chunk.tensor]
        for k in range(2, MAX_STREAMS):
            fill = &fills.of[MAX_STREAMS * chunk.tensor + k]
            if fill.wanted:
                fill_span(fill, <char *>tensor.streams[k], tensor.dtype, chunk.start, chunk.stop - chunk.start)


cdef int fill_together(const Table *table, Py_ssize_t n_tensors, Py_ssize_t n_bundles, list views,
                       list wanted) except -1:
    """Fill streams of a table: (tensor, stream, number), or None for a copy of the parameter, its view."""
    cdef Fills fills
    cdef Fill *all
    cdef Fill *fill
    cdef Py_ssize_t i, k
    for i, k, value in wanted:
        if value is None and cnp.PyArray_NBYTES(<cnp.ndarray>views[i]) != table.tensors[i].size * itemsize(table.tensors[i].dtype):
            raise RuntimeError("a parameter was resized while its state was being made")
    all = <Fill *>PyMem_Calloc(n_tensors * MAX_STREAMS, sizeof(Fill))
    if not all:
        raise MemoryError
    for i, k, value in wanted:
        fill = &all[MAX_STREAMS * i + k]
        fill.wanted = True
        if value is None:
            fill.source = <const char *>cnp.PyArray_DATA(<cnp.ndarray>views[i])
        else:
            fill.wide = <double>value
            fill.narrow = <float>fill.wide
    fills.table, fills.of = table, all
    with nogil:
        run_tasks(fill_bundle, &fills, 0, n_bundles, available_threads())
    PyMem_Free(all)
    return 0

# The update of a parameter whose gradient is sparse.

cdef class SparseUpdate(Work):
    """The spans of one parameter that have a gradient, each a tensor to the kernels.

    Parameters
    ----------
    count : int
        How many there are.
    starts, lengths : ndarray of int64
        Where they lie in the parameter, in elements.
    values : ndarray
        Their gradients, one after the other.
    whole : ndarray
        The parameter.
    """

    cdef cnp.ndarray starts, lengths, values
    cdef Py_ssize_t slot
    cdef int row                # of the parameter in its plan

    def __init__(self, Py_ssize_t count, cnp.ndarray starts not None, cnp.ndarray lengths not None,
                 cnp.ndarray values not None, Py_ssize_t slot, cnp.ndarray whole not None):
        cdef const int64_t *length
        cdef Py_ssize_t k, reals = 2 if cnp.PyArray_ISCOMPLEX(values) else 1
        # They are written through from here on.
        check_spans(count, starts, lengths, values, whole)
        length = <const int64_t *>cnp.PyArray_DATA(lengths)
        self.starts, self.lengths, self.values = starts, lengths, values
        self.slot = slot
        for k in range(count):
            self.table.tensors[k].size = reals * length[k]
            self.take_type(k, values)
        self.cut([range(count)])
        self.new_row()

    cdef void run(self, const Table *table, const Tensor *whole) noexcept:
        """Update the spans of a tensor of a table; everything has been allocated before."""
        cdef const int64_t *start = <const int64_t *>cnp.PyArray_DATA(self.starts)
        cdef char *values = <char *>cnp.PyArray_DATA(self.values)
        cdef Py_ssize_t k, m, size = itemsize(whole.dtype)
        cdef Py_ssize_t reals = 2 if cnp.PyArray_ISCOMPLEX(self.values) else 1
        cdef Tensor *span
        self.table.rows[0] = table.rows[whole.row]
        self.table.before, self.table.stages = table.before, table.stages
        for k in range(self.n_tensors):
            span = &self.table.tensors[k]
            for m in range(MAX_STREAMS):
                if whole.streams[m] != NULL:
                    span.streams[m] = <char *>whole.streams[m] + size * reals * start[k]
            span.streams[1] = values
            values += size * span.size
        self.update(0, self.n_bundles)


cdef int check_spans(Py_ssize_t count, cnp.ndarray starts, cnp.ndarray lengths, cnp.ndarray values,
                     cnp.ndarray whole) except -1:
    """Refuse spans that do not lie in the parameter, one after the other, or whose gradients are not
    as many."""
    cdef const int64_t *start
    cdef const int64_t *length
    cdef Py_ssize_t k
    cdef int64_t end = 0, total = 0
    for numbers in (starts, lengths):
        if (cnp.PyArray_TYPE(<cnp.ndarray>numbers) != cnp.NPY_INT64 or len(numbers) != count
                or cnp.PyArray_NDIM(<cnp.ndarray>numbers) != 1
                or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>numbers)):
            raise TypeError(f"expected {count} numbers of int64, got {numbers.dtype}")
    if (values.dtype != whole.dtype or cnp.PyArray_NDIM(values) != 1
            or not cnp.PyArray_ISCARRAY_RO(values)):
        raise TypeError(f"expected values of dtype {whole.dtype}, got {values.dtype}")
    start = <const int64_t *>cnp.PyArray_DATA(starts)
    length = <const int64_t *>cnp.PyArray_DATA(lengths)
    for k in range(count):
        if not (end <= start[k] <= cnp.PyArray_SIZE(whole)
                and 0 < length[k] <= cnp.PyArray_SIZE(whole) - start[k]):
            raise ValueError(f"a span of {length[k]} elements at {start[k]} is not in the parameter")
        end = start[k] + length[k]
        total += length[k]
    if total != cnp.PyArray_SIZE(values):
        raise ValueError(f"{cnp.PyArray_SIZE(values)} values for spans of {total} elements")
    return 0

# The update of a parameter whose gradient is sparse.

cdef class Runs(Work):
    """The spans of one parameter that have a gradient, each a tensor to the kernels.

    Parameters
    ----------
    count : int
        How many there are.
    starts, lengths : ndarray of int64
        Where they lie in the parameter, in elements.
    values : ndarray
        Their gradients, one after the other.
    """

    cdef cnp.ndarray starts, lengths, values
    cdef Py_ssize_t slot
    cdef int row                # of the parameter in its plan

    def __init__(self, Py_ssize_t count, cnp.ndarray starts, cnp.ndarray lengths,
                 cnp.ndarray values, Py_ssize_t slot):
        cdef const int64_t *length = <const int64_t *>cnp.PyArray_DATA(lengths)
        cdef Py_ssize_t k, reals = 2 if cnp.PyArray_ISCOMPLEX(values) else 1
        self.starts, self.lengths, self.values = starts, lengths, values
        self.slot = slot
        for k in range(count):
            self.table.tensors[k].size = reals * length[k]
            self.table.tensors[k].dtype = dtype_code(values)
        self.cut([range(count)])
        self.new_row()

    cdef void run(self, const Tensor *whole, const Row *row) noexcept:
        """Update the spans of a tensor; everything has been allocated before."""
        cdef const int64_t *start = <const int64_t *>cnp.PyArray_DATA(self.starts)
        cdef char *values = <char *>cnp.PyArray_DATA(self.values)
        cdef Py_ssize_t k, m, size = itemsize(whole.dtype)
        cdef Py_ssize_t reals = 2 if cnp.PyArray_ISCOMPLEX(self.values) else 1
        cdef Tensor *span
        self.table.rows[0] = row[0]
        for k in range(self.n_tensors):
            span = &self.table.tensors[k]
            for m in range(MAX_STREAMS):
                if whole.streams[m] != NULL:
                    span.streams[m] = <char *>whole.streams[m] + size * reals * start[k]
            span.streams[1] = values
            values += size * span.size
        self.update(0, self.n_bundles)

# Adafactor's passes over matrices.

cdef class Factored:
    """A batch of matrices whose gradient is scaled by row and column factors, as in Adafactor.

    Parameters
    ----------
    param, grad : ndarray
        In C order and of the same shape and real dtype; the last two axes make a matrix, one axis
        a matrix of one row.
    """

    cdef Table table
    cdef Matrices matrices
    cdef cnp.ndarray param, grad
    cdef Py_ssize_t count
    cdef list kept

    def __init__(self, cnp.ndarray param not None, cnp.ndarray grad not None):
        cdef Matrices *table = &self.matrices
        check_dense(param)
        if not (not cnp.PyArray_ISCOMPLEX(param) and cnp.PyArray_IS_C_CONTIGUOUS(param) and same_layout(param, grad)
                and cnp.PyArray_ISWRITEABLE(param) and cnp.PyArray_SIZE(param)):
            raise ValueError("expected two arrays in C order, of the same shape and dtype")
        shape = (1, 1, *(<object>param).shape)
        self.param, self.grad = param, grad
        table.dtype = dtype_code(param)
        table.param, table.grad = cnp.PyArray_DATA(param), cnp.PyArray_DATA(grad)
        table.columns = shape[len(shape) - 1]
        table.rows = shape[len(shape) - 2]
        self.count = cnp.PyArray_SIZE(param) // (table.rows * table.columns)
        # Tall blocks where there are many rows, so that the sums of columns stay small.
        table.width = min(table.columns, CHUNK)
        table.height = min(table.rows, max(64, CHUNK // table.width))
        table.down = (table.rows + table.height - 1) // table.height
        table.across = (table.columns + table.width - 1) // table.width
        table.blocks = self.count * table.down * table.across
        table.bundle = max(1, CHUNK // (table.width * table.height))

    cdef int run(self, Pass phase) except -1:
        cdef Py_ssize_t bundles = (self.matrices.blocks + self.matrices.bundle - 1) // self.matrices.bundle
        cdef double nanoseconds = cnp.PyArray_NBYTES(self.param) / sizeof(float) * 4 * NANOSECONDS
        cdef int most = available_threads()
        self.table.phase, self.table.matrices = phase, &self.matrices
        with nogil:
            run_chosen(run_shared_choice(phase, nanoseconds), KERNELS.run, &self.table, 0, bundles, most, nanoseconds)
        return 0

    def mean_squares(self) -> tuple:
        """The means of the squared gradient along each row, and along each column."""
        cdef Matrices *table = &self.matrices
        self.check_ready()
        row_sums = np.zeros((self.count, table.across, table.rows))
        column_sums = np.zeros((self.count, table.down, table.columns))
        table.row_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>row_sums)
        table.column_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>column_sums)
        self.run(STATISTICS)
        return (_in_order(row_sums) / <double>table.columns,
                _in_order(column_sums) / <double>table.rows)

    def scale(self, cnp.ndarray row not None, cnp.ndarray column not None, double floor) -> float:
        """Set the factors, and return the norm of ``u = grad / sqrt(max(row * column, floor))``.

        `row` and `column` are in C order and of the parameter's dtype, one element for each row
        and each column of all matrices.
        """
        cdef Matrices *table = &self.matrices
        cdef Py_ssize_t b
        cdef double total = 0
        self.check_ready()
        for factor, length in ((row, table.rows), (column, table.columns)):
            if (not cnp.PyArray_IS_C_CONTIGUOUS(factor) or factor.dtype != self.param.dtype
                    or factor.size != self.count * length):
                raise ValueError("expected a factor for each row and each column")
        squares = np.zeros(table.blocks)
        self.kept = [row, column]
        table.row, table.column = cnp.PyArray_DATA(row), cnp.PyArray_DATA(column)
        table.squares = <double *>cnp.PyArray_DATA(<cnp.ndarray>squares)
        table.floor = floor
        self.run(SQUARES)
        for b in range(table.blocks):
            total += table.squares[b]
        return sqrt(total)

    cdef int prepare(self, double shrink, double size) except -1:
        """Make ready for ``param = shrink * param - size * u``, with the factors of the last
        :meth:`scale`."""
        if self.kept is None:
            raise ValueError("no factors have been set")
        self.matrices.shrink, self.matrices.size = shrink, size
        return 0

    cdef int check_ready(self) except -1:
        if self.matrices.param == NULL or not self.still():
            raise ValueError("the matrices are not where they were")
        return 0

    cdef bint still(self) noexcept:
        """Whether the arrays still are where they were."""
        cdef Py_ssize_t size = self.count * self.matrices.rows * self.matrices.columns
        return (cnp.PyArray_DATA(self.param) == self.matrices.param
                and cnp.PyArray_DATA(self.grad) == self.matrices.grad
                and cnp.PyArray_SIZE(self.param) == size and cnp.PyArray_SIZE(self.grad) == size
                and (self.kept is None
                     or (cnp.PyArray_DATA(<cnp.ndarray>self.kept[0]) == self.matrices.row
                         and cnp.PyArray_DATA(<cnp.ndarray>self.kept[1]) == self.matrices.column)))

    def update(self, double shrink, double size) -> None:
        """``param = shrink * param - size * u``, with the factors of the last :meth:`scale`."""
        self.check_ready()
        self.prepare(shrink, size)
        self.run(SCALED)


cdef object _in_order(object sums):
    """Added up along the blocks, one after the other."""
    total = sums[:, 0].copy()
    for block in range(1, sums.shape[1]):
        total += sums[:, block]
    return total

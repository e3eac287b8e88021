# Adafactor's passes over matrices.

cdef class Factored:
    """A batch of matrices whose gradient is scaled by row and column factors, as in Adafactor and its relatives.

    Parameters
    ----------
    param, grad : ndarray
        In C order and of the same shape and real dtype; the last two axes make a matrix, one axis
        a matrix of one row.
    """

    cdef Table table
    cdef Matrices matrices
    cdef cnp.ndarray param, grad, moment
    cdef Py_ssize_t count
    cdef list kept              # the factors
    cdef list more              # the further factors

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
        return self.means(STATISTICS)

    cdef tuple means(self, Pass phase):
        """The means of squares along each row, and along each column."""
        cdef Matrices *table = &self.matrices
        self.check_ready()
        row_sums = np.zeros((self.count, table.across, table.rows))
        column_sums = np.zeros((self.count, table.down, table.columns))
        table.row_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>row_sums)
        table.column_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>column_sums)
        self.run(phase)
        table.row_sums = table.column_sums = NULL
        return (_in_order(row_sums) / <double>table.columns,
                _in_order(column_sums) / <double>table.rows)

    def scale(self, cnp.ndarray row not None, cnp.ndarray column not None, double floor) -> float:
        """Set the factors, and return the norm of ``u = grad / sqrt(max(row * column, floor))``.

        `row` and `column` are in C order and of the parameter's dtype, one element for each row
        and each column of all matrices.
        """
        self.set_factors(row, column)
        self.matrices.floor, self.matrices.product = floor, False
        return sqrt(self.total(SQUARES))

    def multiply(self, cnp.ndarray row not None, cnp.ndarray column not None) -> None:
        """Set the factors of ``u = grad * row * column``, given as those of :meth:`scale`."""
        self.set_factors(row, column)
        self.matrices.product = True

    def norm(self) -> float:
        """The norm of u."""
        self.check_factors()
        return sqrt(self.total(SQUARES))

    def follow(self, cnp.ndarray moment not None, double keep, double gain, bint cautious=False) -> None:
        """Let the update be by ``moment = keep * moment + gain * u``, an array like the parameter.

        `cautious`: without its elements that do not have the sign of the gradient, or the other one if `gain` is
        negative.
        """
        cdef Matrices *table = &self.matrices
        self.check_factors()
        if not table.product:
            raise ValueError("only the product form has a moment")
        if not (same_layout(self.param, moment) and cnp.PyArray_ISWRITEABLE(moment)):
            raise ValueError("expected a moment like the parameter")
        self.moment = moment
        table.moment, table.keep, table.gain = cnp.PyArray_DATA(moment), keep, gain
        table.cautious = cautious

    def agreements(self) -> float:
        """How many elements of the next moment have the sign that `cautious` asks for."""
        self.check_moment()
        return self.total(AGREEMENTS)

    def residual_squares(self, double clip) -> tuple:
        """The means of the square of ``clip * u - moment``, with the next moment, along rows and columns."""
        self.check_moment()
        self.matrices.clip = clip
        return self.means(RESIDUALS)

    def confide(self, cnp.ndarray row not None, cnp.ndarray column not None) -> None:
        """Let the update be by ``moment * row * column``."""
        self.check_moment()
        self.check_lengths(row, column)
        self.more = [row, column]
        self.matrices.more_row = cnp.PyArray_DATA(row)
        self.matrices.more_column = cnp.PyArray_DATA(column)

    cdef int set_factors(self, cnp.ndarray row, cnp.ndarray column) except -1:
        self.check_ready()
        self.check_lengths(row, column)
        self.kept = [row, column]
        self.matrices.row, self.matrices.column = cnp.PyArray_DATA(row), cnp.PyArray_DATA(column)
        return 0

    cdef int check_lengths(self, cnp.ndarray row, cnp.ndarray column) except -1:
        cdef Matrices *table = &self.matrices
        for factor, length in ((row, table.rows), (column, table.columns)):
            if (not cnp.PyArray_IS_C_CONTIGUOUS(factor) or factor.dtype != self.param.dtype
                    or factor.size != self.count * length):
                raise ValueError("expected a factor for each row and each column")
        return 0

    cdef double total(self, Pass phase) except? -1:
        """The sum over all blocks of what a pass finds."""
        cdef Py_ssize_t b
        cdef double total = 0
        squares = np.zeros(self.matrices.blocks)
        self.matrices.squares = <double *>cnp.PyArray_DATA(<cnp.ndarray>squares)
        self.run(phase)
        for b in range(self.matrices.blocks):
            total += self.matrices.squares[b]
        return total

    cdef int prepare(self, double shrink, double size) except -1:
        """Make ready for ``param = shrink * param - size * u``, or the same with the moment."""
        self.check_factors()
        self.matrices.shrink, self.matrices.size = shrink, size
        return 0

    cdef int check_ready(self) except -1:
        if self.matrices.param == NULL or not self.still():
            raise ValueError("the matrices are not where they were")
        return 0

    cdef int check_factors(self) except -1:
        if self.kept is None:
            raise ValueError("no factors have been set")
        return self.check_ready()

    cdef int check_moment(self) except -1:
        if self.moment is None:
            raise ValueError("no moment has been set")
        return self.check_ready()

    cdef bint still(self) noexcept:
        """Whether the arrays still are where they were."""
        cdef Matrices *table = &self.matrices
        cdef Py_ssize_t size = self.count * table.rows * table.columns
        return (is_at(self.param, table.param, size) and is_at(self.grad, table.grad, size)
                and (self.moment is None or is_at(self.moment, table.moment, size))
                and self.are_at(self.kept, table.row, table.column)
                and self.are_at(self.more, table.more_row, table.more_column))

    cdef bint are_at(self, list factors, const void *row, const void *column) noexcept:
        return factors is None or (
            is_at(<cnp.ndarray>factors[0], row, self.count * self.matrices.rows)
            and is_at(<cnp.ndarray>factors[1], column, self.count * self.matrices.columns))

    def update(self, double shrink, double size) -> None:
        """``param = shrink * param - size * u``, or the same with the moment."""
        self.prepare(shrink, size)
        self.run(SCALED)


cdef inline bint is_at(cnp.ndarray array, const void *place, Py_ssize_t size) noexcept:
    return cnp.PyArray_DATA(array) == place and cnp.PyArray_SIZE(array) == size


cdef object _in_order(object sums):
    """Added up along the blocks, one after the other."""
    total = sums[:, 0].copy()
    for block in range(1, sums.shape[1]):
        total += sums[:, block]
    return total

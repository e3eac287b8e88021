# Muon's step of a parameter: one matrix or several, made orthogonal by Newton-Schulz iterations.
#
# With X for the matrix on its wide side and G = X X', an iteration X = (a I + b G + c G G) X is a polynomial in G, and so
# are several: they need products of small symmetric matrices only, until X is wanted. But where G rounds the square of
# a small singular value, the next iterations multiply what is lost by a a each; so X and G are computed afresh before
# that has grown much. Where X is nearly square, nothing is saved, and each iteration makes them afresh.

cdef enum:
    PRODUCT = 7                     # in the place of a pass, of the runs of products
    MOST_ITERATIONS = 99

cdef double FLOPS = 60              # of a product on one thread in a nanosecond, as is believed until it has been measured
cdef double GROWTH = 200            # what rounding may be multiplied by: then X is as exact as by iterations of its own
cdef double SLENDER = 1.25          # times its other side: from there on a matrix is far from a square


cdef class Workspace:
    """Memory for the matrices of a step, which is kept for the next."""

    cdef char *memory
    cdef Py_ssize_t size

    def __dealloc__(self):
        PyMem_Free(self.memory)

    cdef int reserve(self, Py_ssize_t size) except -1:
        cdef char *memory
        size += 64
        if size > self.size:
            memory = <char *>PyMem_Malloc(size)
            if not memory:
                raise MemoryError
            PyMem_Free(self.memory)
            self.memory, self.size = memory, size
        return 0

    cdef char *start(self) noexcept:
        return &self.memory[(64 - <uintptr_t>self.memory % 64) % 64]


cdef class MuonStep:
    """A step of a parameter by Muon, which a :class:`Commit` makes.

    Parameters
    ----------
    workspace : Workspace
    arrays : tuple of ndarray
        Parameter, gradient and momentum: in C order, of one shape and one real dtype.
    stack : tuple of int
        How many matrices the parameter is, and their rows and columns.
    triples : list of (float, float, float)
        The coefficients of each iteration.
    divisor : tuple of float
        ``(safety, least, added)``: a matrix is divided by ``max(safety * norm, least) + added`` first.
    momentum, nesterov, sign, shrink, size, cautious
        ``buffer += (1 - momentum) * (sign * grad - buffer)``; ``param = shrink * param - size * orthogonal``.
    """

    cdef Workspace workspace
    cdef cnp.ndarray param, grad, buffer, variance
    cdef Directed matrix
    cdef Product product
    cdef Py_ssize_t count, n, m, group      # short and long side; segments whose length is kept
    cdef double coefficients[MOST_ITERATIONS][3]
    cdef int iterations
    cdef double safety, least, added, beta2, size
    cdef char *base                 # the workspace's memory, and
    cdef char *memory               # what of it is not in use

    def __init__(self, Workspace workspace not None, tuple arrays not None, tuple stack not None, list triples not None,
                 tuple divisor not None, *, double momentum, bint nesterov, double sign, double shrink, double size,
                 bint cautious):
        cdef Directed *matrix = &self.matrix
        self.param, self.grad, self.buffer = arrays
        self.workspace = workspace
        for array in (self.param, self.grad, self.buffer):
            check_dense(array)
            if (cnp.PyArray_ISCOMPLEX(<cnp.ndarray>array) or not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>array)
                    or not same_layout(self.param, <cnp.ndarray>array)):
                raise ValueError("expected arrays in C order, of the same shape and real dtype")
        if not (cnp.PyArray_ISWRITEABLE(self.param) and cnp.PyArray_ISWRITEABLE(self.buffer)):
            raise ValueError("expected a parameter and a momentum that can be written")
        self.count, matrix.rows, matrix.columns = stack
        if self.count * matrix.rows * matrix.columns != cnp.PyArray_SIZE(self.param):
            raise ValueError(f"{stack} are not the matrices of an array of {cnp.PyArray_SIZE(self.param)} elements")
        if len(triples) > MOST_ITERATIONS:
            raise ValueError(f"{len(triples)} iterations, expected {MOST_ITERATIONS} or fewer")
        for k, triple in enumerate(triples):
            for i in range(3):
                self.coefficients[<int>k][<int>i] = triple[i]
        self.iterations = <int>len(triples)
        self.safety, self.least, self.added = divisor
        self.n, self.m = min(matrix.rows, matrix.columns), max(matrix.rows, matrix.columns)
        matrix.dtype = computed_code(self.param)
        matrix.momentum, matrix.nesterov, matrix.sign = momentum, nesterov, sign
        matrix.shrink, matrix.cautious, self.size = shrink, cautious, size
        self.variance = None
        self._reserve()

    def normalize(self, cnp.ndarray variance not None, double beta2) -> None:
        """Divide each row by the root of an average of its mean squares, which is moved: NorMuon. The length of the rows
        of the parameter's last two axes together stays. `variance` has the parameter's shape, with a last axis of 1."""
        cdef tuple shape = (<object>self.param).shape
        cdef Py_ssize_t rank = len(shape), group, segment, size = self.matrix.rows * self.matrix.columns
        check_dense(variance)
        if (rank < 2 or (<object>variance).shape != (*shape[:rank - 1], 1)
                or not cnp.PyArray_IS_C_CONTIGUOUS(variance) or variance.dtype != self.param.dtype
                or not cnp.PyArray_ISWRITEABLE(variance)):
            raise ValueError(f"expected an element for each row of an array of shape {shape}, in C order and of its "
                             "dtype")
        group, segment = shape[rank - 2], shape[rank - 1]
        # A matrix is whole groups of whole rows, unless the array has got another shape since it was checked.
        if not self.still() or size % max(group * segment, 1):
            raise ValueError(f"expected matrices of whole rows of an array of shape {shape}")
        self.variance, self.beta2, self.group, self.matrix.segment = variance, beta2, group, segment
        self._reserve()

    cdef Py_ssize_t _padded(self, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t panel = PANEL_BYTES // itemsize(self.matrix.dtype)
        return (n + panel - 1) // panel * panel

    cdef int _reserve(self) except -1:
        cdef Py_ssize_t n = self._padded(self.n), m = self._padded(self.m), segments = 0
        if self.variance is not None:
            segments = cnp.PyArray_SIZE(self.variance) // max(self.count, 1)
        self.workspace.reserve((3 * n * m + 4 * n * n) * itemsize(self.matrix.dtype)
                               + (m + 3 * segments + 128) * sizeof(double))
        return 0

    cdef bint still(self) noexcept:
        """Whether the arrays still are of the size that was checked. Their memory is asked for by the run."""
        cdef Py_ssize_t size = self.count * self.matrix.rows * self.matrix.columns
        return (cnp.PyArray_SIZE(self.param) == size and cnp.PyArray_SIZE(self.grad) == size
                and cnp.PyArray_SIZE(self.buffer) == size
                and (self.variance is None or size == cnp.PyArray_SIZE(self.variance) * self.matrix.segment))

    cdef char *take(self, Py_ssize_t size) noexcept nogil:
        cdef char *taken = self.memory
        self.memory = &self.memory[(size + 63) // 64 * 64]
        return taken

    cdef void run(self) noexcept:
        cdef char *param = <char *>cnp.PyArray_DATA(self.param)
        cdef char *grad = <char *>cnp.PyArray_DATA(self.grad)
        cdef char *buffer = <char *>cnp.PyArray_DATA(self.buffer)
        cdef char *variance = NULL if self.variance is None else <char *>cnp.PyArray_DATA(self.variance)
        if cnp.PyArray_SIZE(self.param) == 0:
            return
        self.base = self.workspace.start()
        if cnp.PyArray_SIZE(self.param) <= SHORT_CHUNK:     # shorter than a release of the GIL is worth
            self.run_all(param, grad, buffer, variance)
        else:
            with nogil:
                self.run_all(param, grad, buffer, variance)

    cdef void run_all(self, char *param, char *grad, char *buffer, char *variance) noexcept nogil:
        cdef Py_ssize_t k, item = itemsize(self.matrix.dtype)
        cdef Py_ssize_t size = self.matrix.rows * self.matrix.columns
        for k in range(self.count):
            self.matrix.param = &param[k * size * item]
            self.matrix.grad = &grad[k * size * item]
            self.matrix.buffer = &buffer[k * size * item]
            if variance == NULL:
                self.step_matrix(NULL)
            else:
                self.step_matrix(&variance[k * (size // self.matrix.segment) * item])

    cdef void direct(self, int phase, Py_ssize_t blocks) noexcept nogil:
        """A pass over the matrix."""
        cdef double nanoseconds = 8 * NANOSECONDS * self.n * self.m
        self.matrix.phase = phase
        run_chosen(run_shared_choice(DIRECTIONS, nanoseconds), KERNELS.direct, &self.matrix, 0, blocks,
                   available_threads() if nanoseconds > CHOICE_LEAST else 1, nanoseconds)

    cdef void multiply(self, char *a, char *b, Py_ssize_t rows, Py_ssize_t depth, char *out, double alpha) noexcept nogil:
        """``out = alpha a'b + beta z + diagonal I``, with what is set in the product, which is symmetric."""
        self.product.symmetric, self.product.rows, self.product.columns = True, self.n, self.n
        self.product.a, self.product.b, self.product.a_rows, self.product.b_rows = a, b, rows, rows
        self.product.out, self.product.mirror, self.product.depth = out, out, depth
        self.product.out_rows = self.product.mirror_rows = self._padded(self.n)
        self.product.alpha = alpha
        self.run_product()
        self.product.z, self.product.diagonal = NULL, 0

    cdef void run_product(self) noexcept nogil:
        cdef Product *p = &self.product
        cdef Py_ssize_t tasks
        cdef double nanoseconds = 2 * (<double>p.rows * p.columns * p.depth) / (2 if p.symmetric else 1) / FLOPS
        p.is_double = self.matrix.dtype != FLOAT32
        tasks = product_task_count(p)
        run_chosen(run_shared_choice(PRODUCT, nanoseconds), KERNELS.multiply, p, 0, tasks,
                   available_threads() if nanoseconds > CHOICE_LEAST else 1, nanoseconds)

    cdef void step_matrix(self, char *variance) noexcept nogil:
        cdef Directed *matrix = &self.matrix
        cdef Py_ssize_t n = self._padded(self.n), m = self._padded(self.m), item = itemsize(matrix.dtype)
        cdef Py_ssize_t panel = PANEL_BYTES // item, blocks = (matrix.rows + panel - 1) // panel, k
        cdef bint tall = matrix.rows > matrix.columns
        cdef double total = 0, divisor, scale, least = 1e-12 if matrix.dtype == FLOAT32 else 1e-120
        self.memory = self.base
        # The matrix on its wide side, X, in panels of its rows and in panels of its columns.
        cdef char *by_rows = self.take(n * m * item)
        cdef char *by_columns = self.take(n * m * item)
        cdef char *spare = self.take(n * m * item)
        matrix.panels, matrix.turned = by_columns, by_rows
        if tall:
            matrix.panels, matrix.turned = by_rows, by_columns
        matrix.panel_rows, matrix.turned_rows = self._padded(matrix.rows), self._padded(matrix.columns)
        matrix.squares = <double *>self.take(blocks * sizeof(double))
        matrix.size = self.size
        self.direct(DIRECTED, blocks)
        for k in range(blocks):
            total += matrix.squares[k]
        total = sqrt(total)
        divisor = max(self.safety * total, self.least) + self.added
        if not isfinite(total):
            matrix.size = NAN           # in every element, for any number of iterations
        elif divisor > 0 and total > 0:
            scale = 1 / divisor
            if self.iterations == 0 or not least < total < 1 / least:   # the squares of elements must not vanish
                matrix.factor, scale = scale, 1
                self.direct(RESCALED, blocks)
            self.iterate(by_rows, &by_columns, spare, tall, scale)
            if not tall:
                matrix.panels = by_columns
        if variance == NULL:
            self.direct(STEPPED, blocks)
        else:
            self.step_normalized(variance, by_columns if tall else by_rows, blocks)

    cdef void iterate(self, char *by_rows, char **by_columns, char *spare, bint tall, double scale) noexcept nogil:
        """All iterations, of ``scale * X``; what is left is in panels of rows if tall, of columns if not."""
        cdef Py_ssize_t n = self._padded(self.n), m = self._padded(self.m), size = n * n * itemsize(self.matrix.dtype)
        cdef char *gram = self.take(size)
        cdef char *polynomial = self.take(size)
        cdef char *other = self.take(size)
        cdef char *all = self.take(size)        # the product of the polynomials
        cdef const double *abc
        cdef int done = 0, end
        cdef bint first
        while done < self.iterations:
            self.multiply(by_rows, by_rows, m, self.m, gram, scale * scale)
            first, end = True, self.end_of_polynomial(done)
            while True:
                abc = &self.coefficients[done][0]
                self.product.z, self.product.beta, self.product.diagonal = gram, abc[1], abc[0]
                self.multiply(gram, gram, n, self.n, polynomial, abc[2])
                if first:
                    all, polynomial = polynomial, all
                else:
                    self.multiply(polynomial, all, n, self.n, other, 1)
                    all, other = other, all
                done += 1
                if done == end:
                    break
                self.multiply(all if first else polynomial, gram, n, self.n, other, 1)
                self.multiply(other, all if first else polynomial, n, self.n, gram, 1)
                first = False
            self.product.symmetric, self.product.rows, self.product.columns = False, self.n, self.m
            self.product.a, self.product.a_rows, self.product.depth = all, n, self.n
            self.product.b, self.product.b_rows = by_columns[0], n
            self.product.out, self.product.out_rows, self.product.mirror = spare, n, by_rows
            if done == self.iterations and tall:
                self.product.out = NULL
            elif done == self.iterations:
                self.product.mirror = NULL
            self.product.mirror_rows = m
            self.product.alpha = scale
            self.run_product()
            by_columns[0], spare = spare, by_columns[0]
            scale = 1

    cdef int end_of_polynomial(self, int begin) noexcept nogil:
        """How far the iterations from here on may be one polynomial. The last ones are as many as may be: what rounding
        leaves in earlier ones, later ones multiply."""
        cdef int end = self.iterations, k
        cdef double growth, a
        cdef double limit = 0 if self.m < SLENDER * self.n else GROWTH
        while True:
            k, growth = end - 1, 1
            while k > begin:
                a = self.coefficients[k - 1][0]
                growth *= max(a * a, 1)
                if growth > limit:
                    break
                k -= 1
            if k == begin:
                return end
            end = k

    cdef void step_normalized(self, char *variance, char *flat, Py_ssize_t blocks) noexcept nogil:
        cdef Directed *matrix = &self.matrix
        cdef Py_ssize_t k
        matrix.flat = flat
        matrix.segments = matrix.rows * matrix.columns // matrix.segment
        matrix.bundle = max(1, SHORT_CHUNK // matrix.segment)
        matrix.squares = <double *>self.take(matrix.segments * sizeof(double))
        matrix.factors = <double *>self.take(matrix.segments * sizeof(double))
        self.direct(FLATTENED, blocks)
        blocks = (matrix.segments + matrix.bundle - 1) // matrix.bundle
        self.direct(MEASURED, blocks)
        k = 0
        while k < matrix.segments:
            if matrix.dtype == FLOAT32:
                even_out(<float *>variance + k, matrix.squares + k, matrix.factors + k, self.beta2, matrix.segment,
                          self.group)
            else:
                even_out(<double *>variance + k, matrix.squares + k, matrix.factors + k, self.beta2, matrix.segment,
                          self.group)
            k += self.group
        self.direct(STEPPED_BY_SEGMENTS, blocks)


# The factors of some rows, whose length together stays: NorMuon (Li et al. 2025, algorithm 1).
cdef void even_out(cython.floating *v, const double *squares, double *factors, double beta2, Py_ssize_t length,
                    Py_ssize_t rows) noexcept nogil:
    cdef double before = 0, after = 0, ratio
    cdef Py_ssize_t k
    for k in range(rows):
        v[k] = v[k] + <cython.floating>(1 - beta2) * (<cython.floating>(squares[k] / length) - v[k])
        factors[k] = 1 / (sqrt(v[k]) + 1e-10)
        before += squares[k]
        after += squares[k] * factors[k] * factors[k]
    ratio = sqrt(before) / (sqrt(after) + 1e-10)
    for k in range(rows):
        factors[k] *= ratio

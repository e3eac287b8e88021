# The tables of a run, and runs over lists of arrays.

# Chunks of small tensors share a bundle; each costs about as much as this many elements.
cdef Py_ssize_t TENSOR_COST = 64


cdef class Work:
    """Owns the tables of a run over a fixed list of tensors: tensors, chunks, bundles, rows."""

    cdef Table table
    cdef Py_ssize_t n_tensors, n_chunks, n_bundles, n_rows, room
    cdef Py_ssize_t total       # elements
    cdef Py_ssize_t words       # of four bytes, in one stream

    def __cinit__(self, items, *args):
        cdef Py_ssize_t n_tensors = items if isinstance(items, int) else len(items)
        self.n_tensors = n_tensors
        self.table.tensors = <Tensor *>PyMem_Calloc(max(n_tensors, 1), sizeof(Tensor))
        self.room = 4
        self.table.rows = <Row *>PyMem_Calloc(self.room, sizeof(Row))
        if not self.table.tensors or not self.table.rows:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.table.tensors)
        PyMem_Free(self.table.rows)
        PyMem_Free(self.table.chunks)
        PyMem_Free(self.table.bundles)

    cdef int cut(self, list waves) except -1:
        """Cut the tensors into chunks and bundles; return nothing but set the wave limits.

        `waves` lists the tensor numbers that may run side by side; each becomes a range of
        bundles, (first, last), in place.
        """
        cdef Py_ssize_t chunks = 0, t, start, cost, c = 0, b = 0
        for wave in waves:
            for t in wave:
                chunks += (self.table.tensors[t].size + CHUNK - 1) // CHUNK
        PyMem_Free(self.table.chunks)
        PyMem_Free(self.table.bundles)
        self.table.chunks = <Chunk *>PyMem_Malloc(max(chunks, 1) * sizeof(Chunk))
        self.table.bundles = <Py_ssize_t *>PyMem_Malloc((chunks + 1) * sizeof(Py_ssize_t))
        if not self.table.chunks or not self.table.bundles:
            raise MemoryError
        self.total = self.words = 0
        for number, wave in enumerate(waves):
            first = b
            cost = CHUNK
            for t in wave:
                self.total += self.table.tensors[t].size
                self.words += (self.table.tensors[t].size
                               * itemsize(self.table.tensors[t].dtype) // sizeof(float))
                for start in range(0, self.table.tensors[t].size, CHUNK):
                    if cost >= CHUNK:
                        self.table.bundles[b] = c
                        b += 1
                        cost = 0
                    self.table.chunks[c].tensor = t
                    self.table.chunks[c].start = start
                    self.table.chunks[c].stop = min(start + CHUNK, self.table.tensors[t].size)
                    cost += self.table.chunks[c].stop - start + TENSOR_COST
                    c += 1
            waves[number] = (first, b)
        self.table.bundles[b] = c
        self.n_chunks = c
        self.n_bundles = b
        return 0

    cdef Row *new_row(self) except NULL:
        """Room for one more row; its contents are the caller's to set."""
        cdef Row *rows
        if self.n_rows == self.room:
            rows = <Row *>PyMem_Realloc(self.table.rows, 2 * self.room * sizeof(Row))
            if not rows:
                raise MemoryError
            self.table.rows = rows
            self.room *= 2
        self.n_rows += 1
        return &self.table.rows[self.n_rows - 1]

    cdef int threads(self, Py_ssize_t bundles) noexcept nogil:
        # Doubles take twice the memory and more than twice the arithmetic.
        cdef Py_ssize_t worth = bundles * self.words // max(self.total, 1) // LEAST_SHARE
        # To ask how many there are takes longer than a small step.
        return <int>min(<Py_ssize_t>available_threads(), worth, bundles) if worth > 1 else 1

    cdef void update(self, Py_ssize_t first, Py_ssize_t last) noexcept:
        if last - first == 1:
            # Shorter than a release of the GIL is worth.
            KERNELS.update(&self.table, first)
        else:
            with nogil:
                pool_run(KERNELS.update, &self.table, first, last, self.threads(last - first))

    cdef double reduce(self, int reduction, double order) except? -1:
        """Combine all elements of stream 0 of all tensors: chunk by chunk, in their order."""
        cdef double total = 0
        cdef Py_ssize_t c
        cdef double *partials
        if self.n_chunks == 0:
            return 0
        partials = <double *>PyMem_Malloc(self.n_chunks * sizeof(double))
        if not partials:
            raise MemoryError
        self.table.reduction = reduction
        self.table.order = order
        self.table.partials = partials
        with nogil:
            pool_run(KERNELS.reduce, &self.table, 0, self.n_bundles, self.threads(self.n_bundles))
            total = partials[0]
            for c in range(1, self.n_chunks):
                total = combine(total, partials[c], reduction)
        PyMem_Free(partials)
        return total


cdef class Spans(Work):
    """Arrays to be reduced or changed together: what clipping and averaging work on.

    `arrays` are aligned, native float32 or float64 arrays, each dense; `others`, where a rule reads
    a second stream, are arrays of the same layouts.
    """

    cdef list arrays
    cdef list others

    def __init__(self, list arrays, list others=None):
        cdef Py_ssize_t k
        cdef cnp.ndarray a
        self.arrays = arrays
        self.others = others
        for k in range(self.n_tensors):
            if others is not None:
                if not same_layout(arrays[k], others[k]):
                    raise ValueError(f"arrays {k} differ in dtype, shape or layout")
                self.table.tensors[k].streams[1] = cnp.PyArray_DATA(<cnp.ndarray>others[k])
            a = arrays[k]
            self.table.tensors[k].streams[0] = cnp.PyArray_DATA(a)
            self.table.tensors[k].size = count_reals(a)
            self.table.tensors[k].dtype = dtype_code(a)
        self.cut([range(self.n_tensors)])

    def norm(self, double order) -> float:
        """The norm of all elements as one vector."""
        if order == 2:
            return sqrt(self.reduce(SUM_SQUARES, 0))
        if order == 1:
            return self.reduce(SUM_ABS, 0)
        if order == INFINITY:
            return self.reduce(MAX_ABS, 0)
        if order == -INFINITY:
            return self.reduce(MIN_ABS, 0)
        if order == 0:
            return self.reduce(COUNT_NONZERO, 0)
        return pow(self.reduce(SUM_POWER, order), 1 / order)

    def dot(self) -> float:
        """The inner product of the arrays with the others, all as one vector."""
        if self.others is None:
            raise ValueError("an inner product needs a second list of arrays")
        return self.reduce(DOT, 0)

    def apply(self, str rule, tuple scalars) -> None:
        """Run an element-wise rule over every array."""
        self.n_rows = 0
        fill_row(self.new_row(), (RULES[rule], *scalars))
        self.update(0, self.n_bundles)


def add_up(object owner, list new, Spans spans, dict outcome):
    """Copy the second of each pair into the first, add the others of `spans` to their arrays, and
    set attributes of the owner: all or, if an interrupt comes before, nothing."""
    for array, grad in new:
        array[...] = grad
    spans.apply("axpby", (1.0, 1.0))
    for name, value in outcome.items():
        setattr(owner, name, value)

# The tables of a run, and runs over lists of arrays.

# Chunks of small tensors share a bundle; each costs about as much as this many elements.
cdef Py_ssize_t TENSOR_COST = 64
# Bundles for which a run is cut smaller, so that threads get equal shares.
cdef Py_ssize_t MANY_BUNDLES = 64
# What a run is believed to take for each word of four bytes of a stream, times the square of the number of streams
# (the more streams, the more arithmetic), until it has been measured.
cdef double NANOSECONDS = 0.02


cdef class Work:
    """Owns the tables of a run over a fixed list of tensors: tensors, chunks, bundles, rows."""

    cdef Table table
    cdef Py_ssize_t n_tensors, n_chunks, n_bundles, n_rows, room
    cdef Py_ssize_t total       # elements
    cdef Py_ssize_t words       # of four bytes, in one stream
    cdef int streams            # of a rule
    cdef int updaters           # threads of the last run
    cdef Py_ssize_t sums        # that the table's partials have room for
    cdef Part *parts            # where each tensor lies in the one that it is a part of; NULL: all are whole

    def __cinit__(self, items, *args):
        cdef Py_ssize_t n_tensors = items if isinstance(items, int) else len(items)
        self.n_tensors = n_tensors
        self.table.tensors = <Tensor *>PyMem_Calloc(max(n_tensors, 1), sizeof(Tensor))
        self.room = 4
        self.streams = 2
        self.table.rows = <Row *>PyMem_Calloc(self.room, sizeof(Row))
        if not self.table.tensors or not self.table.rows:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.table.tensors)
        PyMem_Free(self.table.rows)
        PyMem_Free(self.table.chunks)
        PyMem_Free(self.table.bundles)
        PyMem_Free(self.table.units)
        PyMem_Free(self.table.storage)
        PyMem_Free(self.table.partials)
        PyMem_Free(self.parts)

    cdef inline Py_ssize_t whole_size(self, Py_ssize_t t) noexcept:
        """The elements of the tensor that this one is, or is a part of."""
        return self.table.tensors[t].size if self.parts == NULL else self.parts[t].whole

    cdef inline Py_ssize_t first_element(self, Py_ssize_t t) noexcept:
        """The number of the tensor's first element in the one that it is a part of."""
        return 0 if self.parts == NULL else self.parts[t].first

    cdef int cut(self, list waves) except -1:
        """Cut the tensors into chunks and bundles; return nothing but set the wave limits.

        `waves` lists the tensor numbers that may run side by side; each becomes a range of
        bundles, (first, last), in place.
        """
        cdef Py_ssize_t chunks = 0, t, start, cost, size, c = 0, b = 0
        self.total = self.words = 0
        for wave in waves:
            for t in wave:
                size = self.table.tensors[t].size
                self.total += size
                self.words += size * arithmetic_size(self.table.tensors[t].dtype) // sizeof(float)
                start = 0
                while start < size:
                    start = self._end_of_chunk(t, start)
                    chunks += 1
        cdef Chunk *room = <Chunk *>PyMem_Malloc(max(chunks, 1) * sizeof(Chunk))
        cdef Py_ssize_t *limits = <Py_ssize_t *>PyMem_Malloc((chunks + 1) * sizeof(Py_ssize_t))
        cdef Py_ssize_t full = CHUNK        # what fills a bundle
        if self.total >= CHUNK:             # which is worth threads
            full = min(max(self.total // MANY_BUNDLES, SHORT_CHUNK), CHUNK)
        if not room or not limits:
            PyMem_Free(room)
            PyMem_Free(limits)
            raise MemoryError
        PyMem_Free(self.table.chunks)
        PyMem_Free(self.table.bundles)
        self.table.chunks, self.table.bundles = room, limits
        for number, wave in enumerate(waves):
            first = b
            cost = full
            for t in wave:
                start = 0
                while start < self.table.tensors[t].size:
                    if cost >= full:
                        self.table.bundles[b] = c
                        b += 1
                        cost = 0
                    self.table.chunks[c].tensor = t
                    self.table.chunks[c].start = start
                    start = self._end_of_chunk(t, start)
                    self.table.chunks[c].stop = start
                    cost += start - self.table.chunks[c].start + TENSOR_COST
                    c += 1
            waves[number] = (first, b)
        self.table.bundles[b] = c
        self.n_chunks = c
        self.n_bundles = b
        return 0

    cdef Py_ssize_t _end_of_chunk(self, Py_ssize_t t, Py_ssize_t start) noexcept:
        """Where the chunk ends that begins there: it holds whole units, or a part of one."""
        return self._end_of_chunk_of(t, start, self.table.tensors[t].size)

    cdef Py_ssize_t _end_of_chunk_of(self, Py_ssize_t t, Py_ssize_t start, Py_ssize_t size) noexcept:
        # `size`: of the tensor, or of the one that it is a part of. Parts begin at boundaries of chunks of the latter.
        cdef Py_ssize_t unit = 1, end
        cdef Py_ssize_t length = chunk_elements(self.whole_size(t))
        if self.table.units != NULL:
            unit = self.table.units[t].size
        if unit <= length:
            return min(start + length // unit * unit, size)
        if unit <= CHUNK:
            return start + unit
        end = (start // unit + 1) * unit
        return min(start + length, end, size)

    # --- storage -----------------------------------------------------------------------------------

    cdef int take_type(self, Py_ssize_t t, cnp.ndarray a) except -1:
        """Let an array be the parameter of a tensor: note its type."""
        cdef int code = dtype_code(a)
        self.table.tensors[t].dtype = arithmetic_code(code)
        if code > FLOAT64:
            self.make_storage()
        if self.table.storage != NULL:
            self._plain_storage(t)
            self.table.storage[t].codes[0] = self.table.storage[t].codes[1] = self.table.storage[t].type = code
        return 0

    cdef void _plain_storage(self, Py_ssize_t t) noexcept:
        cdef int k
        for k in range(MAX_STREAMS):
            self.table.storage[t].codes[k] = self.table.tensors[t].dtype
        self.table.storage[t].type = self.table.tensors[t].dtype

    cdef int make_storage(self) except -1:
        """Have a table of how streams are stored: until told otherwise, in the type of their arithmetic."""
        cdef Py_ssize_t t
        if self.table.storage != NULL:
            return 0
        self.table.storage = <Storage *>PyMem_Calloc(max(self.n_tensors, 1), sizeof(Storage))
        if not self.table.storage:
            raise MemoryError
        for t in range(self.n_tensors):
            self._plain_storage(t)
        return 0

    cdef int store_as(self, Py_ssize_t t, Py_ssize_t k, int code, void *partner=NULL) except -1:
        """Note how a stream is stored."""
        if self.table.storage == NULL:
            if code == self.table.tensors[t].dtype:
                return 0
            self.make_storage()
        self.table.storage[t].codes[k] = code
        self.table.storage[t].partners[k] = partner
        return 0

    cdef inline int code_of(self, Py_ssize_t t, int k) noexcept:
        """How a stream is stored."""
        return self.table.tensors[t].dtype if self.table.storage == NULL else self.table.storage[t].codes[k]

    cdef inline Py_ssize_t bytes_of(self, Py_ssize_t t, int k) noexcept:
        """Of a stream in memory."""
        return self.table.tensors[t].size * stored_size(self.code_of(t, k))

    cdef double *make_partials(self, Py_ssize_t count) except NULL:
        """Memory for the sums of a pass."""
        cdef double *partials
        count = max(count, 1)
        if self.sums < count:
            partials = <double *>PyMem_Realloc(self.table.partials, count * sizeof(double))
            if not partials:
                raise MemoryError
            self.table.partials, self.sums = partials, count
        return self.table.partials

    @cython.final
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

    cdef Choice *choice(self, Pass phase, double nanoseconds) noexcept nogil:
        """What has been learned about the threads of such runs."""
        return run_shared_choice(phase, nanoseconds)

    cdef void share(self, Pass phase, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        """Run the bundles [first, last) on as many threads as it is worth."""
        cdef double streams = 1 if phase == REDUCE or phase == NORM else self.streams
        cdef double nanoseconds = (NANOSECONDS * streams * streams * self.words
                                   * (last - first) / max(self.n_bundles, 1))
        # To ask how many threads there are takes longer than a small step.
        cdef int most = available_threads() if run_takes_all or nanoseconds > CHOICE_LEAST else 1
        cdef const Kernels *kernels = kernels_for(self.total, self.n_tensors)
        if phase == APPLY or phase == UPDATE_AGAIN:
            # On the threads that have measured: they have the data in their caches.
            run_tasks(kernels.run, &self.table, first, last, self.updaters)
        else:
            self.updaters = run_chosen(self.choice(phase, nanoseconds), kernels.run, &self.table, first, last, most,
                                       nanoseconds)

    @cython.final
    cdef void run_pass(self, Pass phase, Py_ssize_t first, Py_ssize_t last) noexcept:
        """One pass over the bundles [first, last)."""
        self.table.phase = phase
        if last - first == 1:
            KERNELS.run(&self.table, first)
        elif self.words <= CHUNK:
            # Shorter than a release of the GIL is worth.
            self.share(phase, first, last)
        else:
            with nogil:
                self.share(phase, first, last)

    @cython.final
    cdef void update(self, Py_ssize_t first, Py_ssize_t last) noexcept:
        """Run the rules, all their passes."""
        cdef int phase
        self.run_pass(UPDATE, first, last)
        if self.table.units == NULL:
            return
        phase = KERNELS.finish(&self.table, first, last)
        while phase != UPDATE:
            self.run_pass(<Pass>phase, first, last)
            phase = KERNELS.finish(&self.table, first, last)

    cdef double reduce(self, int reduction, double order) except? -1:
        """Combine all elements of stream 0 of all tensors: chunk by chunk, in their order."""
        self.table.reduction = reduction
        self.table.order = order
        return self.combine_partials(REDUCE, reduction)

    cdef double combine_partials(self, Pass phase, int reduction) except? -1:
        """Combine the results of a pass, one number per chunk."""
        cdef double *partials = self.make_partials(self.n_chunks)
        cdef unsigned long long mode
        if self.n_chunks == 0:
            return 0
        mode = fp_plain()
        self.run_pass(phase, 0, self.n_bundles)
        fp_unplain(mode)
        return combined(partials, self.n_chunks, reduction)


cdef double combined(const double *partials, Py_ssize_t count, int reduction) noexcept:
    """The results of all chunks, in their order."""
    cdef double total = partials[0]
    cdef Py_ssize_t c
    cdef unsigned long long mode = fp_plain()
    for c in range(1, count):
        total = combine(total, partials[c], reduction)
    fp_unplain(mode)
    return total


# The rules that change the stream 0 by itself alone.
cdef frozenset ONE_STREAM = frozenset(["scale", "clamp"])


cdef class Arrays(Work):
    """Arrays to be reduced or changed together: what clipping and averaging work on.

    `arrays` are aligned, native arrays of a type in the table, or complex ones, each dense; `others`, where a
    rule reads a second stream, are arrays of the same layouts, whose type may be another of the same arithmetic.
    """

    cdef list arrays
    cdef list others

    def __init__(self, list arrays not None, list others=None):
        cdef Py_ssize_t k
        cdef cnp.ndarray a
        self.arrays = list(arrays)
        self.others = None if others is None else list(others)
        if len(self.arrays) != self.n_tensors or len(others or arrays) != self.n_tensors:
            raise ValueError(f"{len(arrays)} arrays and {len(others)} others")
        for k in range(self.n_tensors):
            a = self.arrays[k]
            check_dense(a)
            self.table.tensors[k].streams[0] = cnp.PyArray_DATA(a)
            self.table.tensors[k].size = count_reals(a)
            self.take_type(k, a)
            if others is not None:
                self._take_other(k, a, self.others[k])
            else:
                self.store_as(k, 1, self.table.tensors[k].dtype)    # there is nothing to decode
        self.cut([range(self.n_tensors)])

    cdef int _take_other(self, Py_ssize_t k, cnp.ndarray a, cnp.ndarray other) except -1:
        if (other is None or not same_places(a, other) or cnp.PyArray_ISCOMPLEX(a) != cnp.PyArray_ISCOMPLEX(other)
                or arithmetic_code(dtype_code(other)) != self.table.tensors[k].dtype):
            raise ValueError(f"arrays {k} differ in dtype, shape or layout")
        self.table.tensors[k].streams[1] = cnp.PyArray_DATA(other)
        self.store_as(k, 1, dtype_code(other))
        return 0

    def norm(self, double order) -> float:
        """The norm of all elements as one vector."""
        cdef unsigned long long mode = fp_plain()
        try:
            return self._norm(order)
        finally:
            fp_unplain(mode)

    cdef double _norm(self, double order) except? -1:
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

    cdef int prepare(self, str rule, tuple scalars) except -1:
        """Make ready to run an element-wise rule without state."""
        for array in self.arrays:
            if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
                raise ValueError("an array that is to be changed is read-only")
        if rule not in RULE_BY_NAME or (<Rule>RULE_BY_NAME[rule]).states:
            raise ValueError(f"{rule!r} is not a rule without state")
        if self.others is None and rule not in ONE_STREAM:
            raise ValueError(f"rule {rule!r} needs a second list of arrays")
        self.n_rows = 0
        fill_row(self.new_row(), rule_named(rule), scalars)
        return 0

    cdef bint still(self) noexcept:
        """Whether the arrays still are where they were."""
        cdef Py_ssize_t k
        for k in range(self.n_tensors):
            if not self._is_still(self.arrays[k], k, 0):
                return False
            if self.others is not None and not self._is_still(self.others[k], k, 1):
                return False
        return True

    cdef inline bint _is_still(self, cnp.ndarray a, Py_ssize_t k, int stream) noexcept:
        return (cnp.PyArray_DATA(a) == self.table.tensors[k].streams[stream]
                and cnp.PyArray_NBYTES(a) == self.bytes_of(k, stream))

    cdef void go(self) noexcept:
        """Run the rule that was prepared over every array."""
        self.update(0, self.n_bundles)

    def apply(self, str rule not None, tuple scalars not None) -> None:
        """Run an element-wise rule over every array."""
        self.prepare(rule, scalars)
        self.go()


def clip_coefficient(double max_norm, double norm) -> float:
    """The factor of clipping for gradients of this norm, as in clip_grad_norm_; it applies if below 1 or NaN."""
    cdef unsigned long long mode = fp_plain()
    cdef double coefficient = max_norm / (norm + 1e-6)
    fp_unplain(mode)
    return coefficient


def add_up(object owner, list new not None, Arrays spans not None, dict outcome not None,
           list holders not None):
    """Copy the second of each pair into the first, add the others of `spans` to their arrays, set
    attributes of the owner, and drop the gradients of `holders`: all or, if an interrupt comes
    before, nothing."""
    spans.prepare("axpby", (1.0, 1.0))
    for array, grad in new:
        cnp.PyArray_CopyInto(<cnp.ndarray?>array, <cnp.ndarray?>grad)
    spans.go()
    PyDict_Update(owner.__dict__, outcome)
    drop_gradients(holders)


cpdef int drop_gradients(list holders) except -1:
    """Drop the gradients of all parameters. An interrupt in a library's own code is raised when
    that is done."""
    interrupt = None
    for param in holders:
        while True:
            try:
                drop_gradient(param)
                break
            except Exception:
                raise
            except BaseException as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt
    return 0


cdef int drop_gradient(object param) except -1:
    if isinstance(param, ParameterBase):
        put_gradient(<ParameterBase>param, None)
    elif hasattr(param, "null_grad"):       # MyGrad, where .grad cannot be written
        param.null_grad()
    else:
        param.grad = None
    return 0

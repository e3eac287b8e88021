# Everything that holds Python objects: parameters, the buffers behind them, and the plan of a step.
#
# (a) A Plan is made once for an optimizer and kept. It remembers the address of every parameter and
#     state array; a step checks cheaply that nothing moved, takes the addresses of the gradients,
#     and makes one native call for all tensors of all groups.
# (b) A step has two halves. The first may raise and changes nothing: gradients are checked, the
#     hyper-parameters are computed, new state is allocated. The second cannot raise.
# (c) An optimizer is asked for a group's scalars only when an option of the group has changed; the
#     rule's clock turns them into those of a step, once per distinct step count of the group.
# (d) Gradients are kept alive while the native call runs without the GIL, and let go right after.
cimport numpy as cnp
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, fabs, isfinite, pow, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memset

import os

import numpy as np

from _reduce cimport (AXPBY_DOT, COUNT_NONZERO, DOT, GRADIENT_SQUARES, MAX_ABS, MIN_ABS, SUM_ABS, SUM_POWER,
                      SUM_SQUARES, combine)
from _table cimport (CHUNK, FLOAT32, FLOAT64, MAX_MEMORY, MAX_STREAMS, SQUARES, STATISTICS, UPDATE,
                     Chunk, Clock, Kernels, Matrices, Row, Table, Tensor)

cnp.import_array()

cdef extern from "build.h" nogil:
    int openmp_version()
    int openmp_max_threads()
    int openmp_processors()
    const char *compiler_name()

cdef extern from "pool.h" nogil:
    int pool_available()
    void pool_run(void (*task)(const void *, Py_ssize_t) noexcept nogil, const void *context,
                  Py_ssize_t first, Py_ssize_t last, int threads)

cdef extern from "dlpack_exchange.h" nogil:
    enum:
        DL_CPU
        DL_FLOAT
        DL_COMPLEX
        DL_MAJOR
    ctypedef struct BorrowedTensor:
        void *data
        int32_t device_type
        int32_t ndim
        uint8_t type_code
        uint8_t type_bits
        uint16_t type_lanes
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef int (*BorrowFunction)(void *, BorrowedTensor *) except -1 with gil
    ctypedef struct ExchangeTable:
        uint32_t major
        BorrowFunction borrow

cdef extern from "arrays.h" nogil:
    bint array_is_just_like(PyObject *view, PyObject *object)
    bint array_is_at(PyObject *view, const void *address)
    bint array_is_writable(PyObject *array)
    char *array_data(PyObject *array)

cdef enum Door:
    ARRAY = 0       # a plain ndarray: gradients come through step(grads=...)
    PARAMETER = 1   # ours
    TENSOR = 2      # a tensor of another library, read through the exchange table or as an array
    OBJECT = 3      # anything with .data and .grad arrays

cdef enum:
    OF_PARAMETER = 0
    OF_GRADIENT = 1

# Chunks of small tensors share a bundle; each costs about as much as this many elements.
cdef Py_ssize_t TENSOR_COST = 64

# -------------------------------------------------------------------------------------------------
# Kernels and threads
# -------------------------------------------------------------------------------------------------

cdef const Kernels *KERNELS = NULL
cdef list RULE_NAMES = []
cdef list RULE_STATES = []
cdef list RULE_SCALARS = []
cdef list RULE_MEMORY = []
RULES = {}


def bind(module):
    """Use the kernels of this module from now on."""
    global KERNELS
    if not RULES:
        for number, (name, (states, scalars, memory)) in enumerate(module.RULES.items()):
            RULES[name] = number
            RULE_NAMES.append(name)
            RULE_STATES.append(states)
            RULE_SCALARS.append(scalars)
            RULE_MEMORY.append(memory)
    KERNELS = <const Kernels *>PyCapsule_GetPointer(module.kernels(), "cyoptim.kernels")


def state_names() -> frozenset:
    """Names of the state arrays that have their parameter's shape."""
    return frozenset([name for states in RULE_STATES for name in states])


def compiler() -> str:
    """The compiler that built this module."""
    return compiler_name().decode()


cdef int THREAD_LIMIT = 0       # 0: as many as OpenMP and the quota give
cdef int QUOTA = 0              # processors this process may keep busy; 0: no quota
cdef bint FOLLOWS_AFFINITY = False


# Bundles that a thread must have to itself to be worth waking. In a loop of steps alone two would do;
# between matrix products, whose threads linger on the processors, eight are needed to gain anything.
cdef int LEAST_SHARE = 8


def set_least_share(int bundles):
    global LEAST_SHARE
    LEAST_SHARE = bundles


def set_limits(int limit, int quota, bint follows_affinity):
    global THREAD_LIMIT, QUOTA, FOLLOWS_AFFINITY
    THREAD_LIMIT = limit
    QUOTA = quota
    FOLLOWS_AFFINITY = follows_affinity


def thread_limit() -> int:
    return THREAD_LIMIT


cdef int FORKS = 0              # from the first process on to this one


def _forked():
    global FORKS
    FORKS += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """How many forks lie between this process and the one that imported the module."""
    return FORKS


def refuse(int since, where=" in another thread") -> None:
    """Raise because a step is running that began when there had been so many forks."""
    if since != FORKS:
        raise RuntimeError(
            "a step of this optimizer was running in another thread when this process was forked, "
            "so that it may be half done here: load parameters and state into a new optimizer"
        )
    raise RuntimeError(f"step() of this optimizer is already running{where}")


cdef int available_threads() noexcept nogil:
    cdef int n = openmp_max_threads() if pool_available() else 1, processors
    if 0 < QUOTA < n:
        n = QUOTA
    if FOLLOWS_AFFINITY and n > 1:      # which may have changed since OpenMP was started
        processors = openmp_processors()
        if 0 < processors < n:
            n = processors
    if 0 < THREAD_LIMIT < n:
        n = THREAD_LIMIT
    return n


def num_threads() -> int:
    """The most threads a step may use now."""
    return available_threads()


def openmp() -> int:
    """The version of OpenMP this was built with, as yyyymm; 0 without OpenMP."""
    return openmp_version()


# -------------------------------------------------------------------------------------------------
# Parameters and arrays
# -------------------------------------------------------------------------------------------------


cdef class ParameterBase:
    """The two slots of a Parameter, readable without an attribute look-up."""

    cdef cnp.ndarray _data
    cdef object _grad
    cdef object __weakref__

    def __init__(self, data, *, grad=None):
        self.data = data
        self.grad = grad

    @property
    def data(self) -> np.ndarray:
        """The array that optimizers change in place."""
        return self._data

    @data.setter
    def data(self, value):
        if isinstance(value, ParameterBase):
            value = (<ParameterBase>value)._data
        if not isinstance(value, np.ndarray):
            raise TypeError(f"Parameter holds a NumPy array, got {type(value).__name__}")
        self._data = value

    @property
    def grad(self):
        """The gradient, an array of the parameter's shape and dtype, a sparse gradient, or None."""
        return self._grad

    @grad.setter
    def grad(self, value):
        if value is not None and not isinstance(value, np.ndarray):
            if isinstance(value, np.generic):
                value = np.asarray(value)
            elif not is_sparse(value):
                raise TypeError(
                    "a gradient is a NumPy array, a pair (rows, values), a SciPy sparse array or "
                    f"None, got {type(value).__name__}"
                )
        self._grad = value


cdef class Watch:
    """Set by the state mappings when a user puts, replaces or removes an entry."""

    cdef public bint changed

    def __init__(self):
        self.changed = False


cdef enum Layout:
    OVERLAPPING = 0     # elements share memory: cannot be updated in place
    STRIDED = 1         # distinct elements with gaps, or in reverse
    DENSE = 2           # a permutation of C order, without gaps


cdef Layout layout_of(cnp.ndarray a):
    # Axes from the smallest stride up: without gaps each stride is the extent of the axes below.
    cdef Py_ssize_t ndim = cnp.PyArray_NDIM(a), k
    cdef Py_ssize_t extent = cnp.PyArray_ITEMSIZE(a), reach = extent, stride, dim
    cdef bint dense = True
    if cnp.PyArray_SIZE(a) <= 1:
        return DENSE
    axes = sorted([
        (abs(cnp.PyArray_STRIDE(a, k)), cnp.PyArray_STRIDE(a, k), cnp.PyArray_DIM(a, k))
        for k in range(ndim) if cnp.PyArray_DIM(a, k) > 1
    ])
    for size, stride, dim in axes:
        if size < reach:
            return OVERLAPPING
        dense = dense and stride == extent
        extent *= dim
        reach += size * (dim - 1)
    return DENSE if dense and cnp.PyArray_ISALIGNED(a) else STRIDED


def memory_bounds(cnp.ndarray a):
    """The first address of the array's elements and the one after the last."""
    cdef uintptr_t low = <uintptr_t>cnp.PyArray_DATA(a), high = low
    cdef Py_ssize_t k, span
    if cnp.PyArray_SIZE(a) == 0:
        return low, low
    for k in range(cnp.PyArray_NDIM(a)):
        span = cnp.PyArray_STRIDE(a, k) * (cnp.PyArray_DIM(a, k) - 1)
        if span < 0:
            low -= <uintptr_t>(-span)
        else:
            high += <uintptr_t>span
    return low, high + <uintptr_t>cnp.PyArray_ITEMSIZE(a)


def is_self_overlapping(cnp.ndarray a) -> bool:
    """Whether two elements of the array may be the same memory."""
    return layout_of(a) == OVERLAPPING


def is_dense(cnp.ndarray a) -> bool:
    """Whether the array's elements fill one aligned block of memory, in any order of the axes."""
    return layout_of(a) == DENSE


cdef inline bint same_layout(cnp.ndarray a, cnp.ndarray b) noexcept:
    # Same type, byte order, shape and strides, aligned: element k of one is element k of the other.
    cdef int ndim = cnp.PyArray_NDIM(a), k
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(b) or ndim != cnp.PyArray_NDIM(b):
        return False
    if not cnp.PyArray_ISBEHAVED_RO(b):
        return False
    for k in range(ndim):
        if cnp.PyArray_DIM(a, k) != cnp.PyArray_DIM(b, k):
            return False
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return True
    for k in range(ndim):
        if cnp.PyArray_DIM(a, k) > 1 and cnp.PyArray_STRIDE(a, k) != cnp.PyArray_STRIDE(b, k):
            return False
    return True


def same_layout_as(cnp.ndarray a, cnp.ndarray b) -> bool:
    """Whether element k in memory is the same element in both, and of the same type."""
    return same_layout(a, b)


cdef inline int dtype_code(cnp.ndarray a) noexcept:
    cdef int kind = cnp.PyArray_TYPE(a)
    return FLOAT32 if kind == cnp.NPY_FLOAT or kind == cnp.NPY_CFLOAT else FLOAT64


cdef inline Py_ssize_t itemsize(int dtype) noexcept nogil:
    return sizeof(float) if dtype == FLOAT32 else sizeof(double)


cdef inline Py_ssize_t count_reals(cnp.ndarray a) noexcept:
    # A complex number is a pair of reals to every rule.
    return cnp.PyArray_SIZE(a) * (2 if cnp.PyArray_ISCOMPLEX(a) else 1)


# -------------------------------------------------------------------------------------------------
# The tables of a run
# -------------------------------------------------------------------------------------------------


cdef int fill_row(Row *row, tuple hyper) except -1:
    """Set a row from (rule, scalar, ...)."""
    cdef Py_ssize_t k, rule = hyper[0]
    if len(hyper) - 1 != RULE_SCALARS[rule]:
        raise TypeError(
            f"rule {RULE_NAMES[rule]} takes {RULE_SCALARS[rule]} scalars, got {len(hyper) - 1}"
        )
    row.rule = <int>rule
    for k in range(1, len(hyper)):
        row.scalars[k - 1] = hyper[k]
    return 0


cdef class Work:
    """Owns the tables of a run over a fixed list of tensors: tensors, chunks, bundles, rows."""

    cdef Table table
    cdef Py_ssize_t n_tensors, n_chunks, n_bundles, n_rows, room
    cdef Py_ssize_t total       # elements

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
        self.total = 0
        for number, wave in enumerate(waves):
            first = b
            cost = CHUNK
            for t in wave:
                self.total += self.table.tensors[t].size
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
        cdef Py_ssize_t worth = bundles // LEAST_SHARE
        # To ask how many there are takes longer than a small step.
        return <int>min(<Py_ssize_t>available_threads(), worth) if worth > 1 else 1

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


cdef class Factored:
    """A batch of matrices whose gradient is scaled by row and column factors, as in Adafactor.

    Parameters
    ----------
    param, grad : ndarray
        In C order and of the same shape and real dtype; the last two axes make a matrix, one axis
        a matrix of one row.
    """

    cdef Matrices table
    cdef cnp.ndarray param, grad
    cdef Py_ssize_t count
    cdef list kept

    def __init__(self, cnp.ndarray param, cnp.ndarray grad):
        cdef Matrices *table = &self.table
        if not (cnp.PyArray_IS_C_CONTIGUOUS(param) and same_layout(param, grad)
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

    cdef int run(self, int phase) except -1:
        cdef Py_ssize_t bundles = (self.table.blocks + self.table.bundle - 1) // self.table.bundle
        cdef Py_ssize_t worth = cnp.PyArray_SIZE(self.param) // CHUNK // LEAST_SHARE
        cdef int threads = <int>max(1, min(worth, available_threads()))
        self.table.phase = phase
        with nogil:
            pool_run(KERNELS.factored, &self.table, 0, bundles, threads)
        return 0

    def mean_squares(self) -> tuple:
        """The means of the squared gradient along each row, and along each column."""
        cdef Matrices *table = &self.table
        row_sums = np.zeros((self.count, table.across, table.rows))
        column_sums = np.zeros((self.count, table.down, table.columns))
        table.row_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>row_sums)
        table.column_sums = <double *>cnp.PyArray_DATA(<cnp.ndarray>column_sums)
        self.run(STATISTICS)
        return (_in_order(row_sums) / <double>table.columns,
                _in_order(column_sums) / <double>table.rows)

    def scale(self, cnp.ndarray row, cnp.ndarray column, double floor) -> float:
        """Set the factors, and return the norm of ``u = grad / sqrt(max(row * column, floor))``.

        `row` and `column` are in C order and of the parameter's dtype, one element for each row
        and each column of all matrices.
        """
        cdef Matrices *table = &self.table
        cdef Py_ssize_t b
        cdef double total = 0
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

    def update(self, double shrink, double size) -> None:
        """``param = shrink * param - size * u``, with the factors of the last :meth:`scale`."""
        if self.kept is None:
            raise ValueError("no factors have been set")
        self.table.shrink, self.table.size = shrink, size
        self.run(UPDATE)


cdef object _in_order(object sums):
    """Added up along the blocks, one after the other."""
    total = sums[:, 0].copy()
    for block in range(1, sums.shape[1]):
        total += sums[:, block]
    return total


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


cdef class TwoLoop(Work):
    """The two-loop recursion of L-BFGS (Nocedal 1980) over one vector, which is changed in place.

    Each pass adds a vector of the history and takes the product that the next pass begins with:
    the vector itself is read once a pass instead of twice.
    """

    cdef cnp.ndarray vector

    def __init__(self, list vectors):
        self.vector = vectors[0]
        self.table.tensors[0].streams[0] = cnp.PyArray_DATA(self.vector)
        self.table.tensors[0].size = cnp.PyArray_SIZE(self.vector)
        self.table.tensors[0].dtype = dtype_code(self.vector)
        self.cut([range(1)])

    cdef int _bind(self, int stream, cnp.ndarray other) except -1:
        if not same_layout(self.vector, other):
            raise ValueError(
                f"a vector of the history has dtype {other.dtype} and shape "
                f"{(<object>other).shape}, expected {self.vector.dtype} and "
                f"{(<object>self.vector).shape}"
            )
        self.table.tensors[0].streams[stream] = cnp.PyArray_DATA(other)
        return 0

    cdef double _add(self, double scale, double factor, cnp.ndarray other,
                     cnp.ndarray next) except? -1:
        """vector = scale * vector + factor * other; its product with `next`."""
        self._bind(1, other)
        self._bind(2, next)
        self.table.factors[0] = scale
        self.table.factors[1] = factor
        return self.reduce(AXPBY_DOT, 0)

    def run(self, cnp.ndarray grad, list dirs, list stps, list ro, double scale) -> tuple:
        """Turn the vector, a copy of the gradient, into the direction; the weights of the first
        loop, and the product of gradient and direction."""
        cdef Py_ssize_t m = len(dirs), i
        cdef double sign = -1, product, beta
        cdef list weights = [0.0] * m
        if m == 0 or len(stps) != m or len(ro) != m:
            raise ValueError(f"a history of {m} changes, {len(stps)} steps and {len(ro)} products")
        self._bind(1, stps[m - 1])
        product = -self.reduce(DOT, 0)
        for i in range(m - 1, -1, -1):
            weights[i] = ro[i] * product
            product = self._add(sign, -<double>weights[i], dirs[i], stps[i - 1] if i else dirs[0])
            sign = 1
        product *= scale
        for i in range(m):
            beta = ro[i] * product
            product = self._add(scale, weights[i] - beta, stps[i], dirs[i + 1] if i + 1 < m else grad)
            scale = 1
        return weights, product


# -------------------------------------------------------------------------------------------------
# The plan of a step
# -------------------------------------------------------------------------------------------------

cdef enum:
    PROPAGATE = 0
    RAISE = 1
    SKIP = 2


cdef class Extras:
    """What a step does beside its update, and afterwards what it has found.

    Parameters
    ----------
    max_norm : float
        The largest norm of all gradients; infinity if they are not clipped.
    scale : float
        What the gradients are divided by before anything else.
    zero : bool
        Whether gradients are left filled with zeros.
    policy : int
        What becomes of a step whose gradients are not finite: 0 it is made, 1 it raises, 2 it is
        skipped.
    measure : bool
        Whether the norm is wanted.

    Attributes
    ----------
    total_norm : float or None
        Of the gradients after they were divided; None if it was not needed.
    coefficient : float
        What clipping has multiplied them by.
    skipped : bool
        Whether nothing was updated.
    nonfinite : list of int
        Numbers of the parameters whose gradients are not finite.
    done : bool
        Whether the step has come to its end, be it skipped.
    """

    cdef double max_norm, scale
    cdef bint zero, measure
    cdef int policy
    cdef readonly object total_norm
    cdef readonly double coefficient
    cdef readonly bint skipped, done
    cdef readonly list nonfinite

    def __init__(self, double max_norm, double scale, bint zero, int policy):
        self.max_norm, self.scale, self.zero, self.policy = max_norm, scale, zero, policy
        self.measure = max_norm != INFINITY or policy != PROPAGATE
        self.coefficient = 1
        self.nonfinite = []

    @property
    def factor(self) -> float:
        """What each gradient is multiplied by."""
        return self.coefficient / self.scale

    cdef int clip(self, double norm) except -1:
        # As clip_grad_norm_ does: a norm that is NaN scales, too.
        cdef double coefficient = self.max_norm / (norm + 1e-6)
        self.total_norm = norm
        if self.max_norm != INFINITY and not coefficient >= 1:
            self.coefficient = coefficient
        return 0


cdef int compare_starts(const void *a, const void *b) noexcept nogil:
    cdef uintptr_t x = (<const uintptr_t *>a)[0], y = (<const uintptr_t *>b)[0]
    return (x > y) - (x < y)


cdef bint all_finite(const void *data, Py_ssize_t n, int dtype) noexcept nogil:
    cdef Py_ssize_t i
    if dtype == FLOAT32:
        for i in range(n):
            if not isfinite((<const float *>data)[i]):
                return False
    else:
        for i in range(n):
            if not isfinite((<const double *>data)[i]):
                return False
    return True


# What the plan remembers of one parameter: what every step looks at, within a line of cache.
cdef struct Slot:
    void *address
    int64_t *step           # the step count in its state; NULL: none yet
    uintptr_t gap_low       # no parameter lies between these two addresses:
    uintptr_t gap_high      # a gradient in here overlaps none
    int64_t age             # takes the place of the step count where the rule keeps none
    int32_t group
    int32_t first           # the slot in which the same parameter occurs first
    int32_t rule            # its state arrays are bound for this rule; -1: not bound
    uint8_t door
    uint8_t direct          # updated in its own memory; otherwise through a dense copy
    uint8_t sparse          # the last gradient was sparse

# The rule's memory in its state; NULL: none.
cdef struct Memory:
    float *numbers[MAX_MEMORY]


cdef class Plan(Work):
    """The parameters of an optimizer, ready to be stepped.

    Parameters
    ----------
    doors : list of (int, ndarray)
        For each parameter its door and the array that views its memory.
    labels : list of str
        How errors name each parameter.
    groups : list of dict
        The optimizer's ``param_groups``.
    counts_steps : bool
        Whether the state holds the step count under ``"step"``.
    watch : Watch
        Tells when the optimizer's state has to be looked up again.
    only_sparse : bool
        Whether dense gradients are refused.
    """

    cdef Slot *slots
    cdef Memory *memories
    cdef list groups            # the optimizer's own dicts
    cdef list members           # each group's own list of parameters
    cdef list objects           # parameters as the user gave them
    cdef list views             # their memory as arrays
    cdef list labels
    cdef list waves             # ranges of bundles that run one after the other
    cdef PyObject **held        # gradients and copies in use by the running step
    cdef Py_ssize_t n_held
    cdef list updated           # tensors of other libraries that this step changes
    cdef list sparse            # Runs: the sparse gradients of the running step
    cdef bint only_sparse       # other gradients are refused
    cdef bint whole             # sparse gradients are made dense by whoever gathers them
    cdef bint zeroing           # gradients are filled with zeros by the running step
    cdef list originals         # gradients that the running step reads in a copy
    cdef uintptr_t *ranges      # of the gradients: start, end, start, ...
    cdef list copies            # (slot, array) of the parameters that are updated through a copy
    cdef list states            # per slot: the state arrays whose addresses are bound
    cdef list known_options     # per group: the option values its template was made of, or None
    cdef Row *templates         # per group: the scalars before the clock
    cdef Watch watch
    cdef uintptr_t *walls       # merged address intervals of all parameters: low, high, low, ...
    cdef Py_ssize_t n_walls
    cdef bint counts_steps, busy
    cdef int forks              # when the running step began
    cdef bint repeats           # a parameter occurs more than once in its group
    cdef bint in_place          # no parameter needs a copy, or is another library's tensor
    cdef bint remembers         # some rule has a memory
    cdef bint aged              # every slot has the age that it keeps
    cdef list borrow_types      # of parameters and of gradients: torch's differ
    cdef BorrowFunction borrows[2]

    def __cinit__(self, list items, *args):
        self.slots = <Slot *>PyMem_Calloc(max(len(items), 1), sizeof(Slot))
        self.memories = <Memory *>PyMem_Calloc(max(len(items), 1), sizeof(Memory))
        self.walls = <uintptr_t *>PyMem_Malloc(2 * max(len(items), 1) * sizeof(uintptr_t))
        self.held = <PyObject **>PyMem_Malloc(max(len(items), 1) * sizeof(PyObject *))
        if not self.slots or not self.memories or not self.walls or not self.held:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.memories)
        PyMem_Free(self.ranges)
        PyMem_Free(self.walls)
        PyMem_Free(self.held)
        PyMem_Free(self.templates)

    def __init__(self, list doors, list labels, list groups, bint counts_steps, Watch watch,
                 bint only_sparse=False):
        cdef Py_ssize_t i = 0, g
        cdef Slot *slot
        cdef cnp.ndarray view
        cdef dict seen = {}
        self.groups = list(groups)
        self.members = [group["params"] for group in groups]
        self.labels = labels
        self.counts_steps = counts_steps
        self.watch = watch
        self.in_place = True
        self.objects = []
        self.views = [array for _, array in doors]
        self.states = [None] * self.n_tensors
        self.updated, self.copies, self.sparse, self.originals = [], [], [], []
        self.only_sparse = only_sparse
        self.borrow_types = [None, None]
        self.known_options = [None] * len(groups)
        self.templates = <Row *>PyMem_Calloc(max(len(groups), 1), sizeof(Row))
        if not self.templates:
            raise MemoryError
        for g in range(len(groups)):
            for param in self.members[g]:
                slot = &self.slots[i]
                view = self.views[i]
                self.objects.append(param)
                slot.door = doors[i][0]
                slot.group = g
                slot.first = seen.setdefault(id(param), i)
                slot.rule = -1
                slot.direct = layout_of(view) == DENSE
                self.in_place = self.in_place and slot.direct and slot.door != TENSOR
                slot.address = cnp.PyArray_DATA(view)
                self.table.tensors[i].streams[0] = slot.address
                self.table.tensors[i].size = count_reals(view)
                self.table.tensors[i].dtype = dtype_code(view)
                i += 1
        self._cut_waves()
        self._build_walls()

    cdef int _cut_waves(self) except -1:
        # A parameter that occurs twice in a group is updated twice, one after the other.
        cdef Py_ssize_t i, k
        cdef dict seen = {}
        self.waves = [[]]
        for i in range(self.n_tensors):
            k = seen.get(self.slots[i].first, 0)
            seen[self.slots[i].first] = k + 1
            if k == len(self.waves):
                self.waves.append([])
            self.waves[k].append(i)
        self.repeats = len(self.waves) > 1
        return self.cut(self.waves)

    cdef int _build_walls(self) except -1:
        cdef uintptr_t low, high
        cdef Py_ssize_t n = 0
        for low, high in sorted([memory_bounds(view) for view in self.views]):
            if low == high:
                continue
            if n and low < self.walls[2 * n - 1]:
                self.walls[2 * n - 1] = max(self.walls[2 * n - 1], high)
            else:
                self.walls[2 * n] = low
                self.walls[2 * n + 1] = high
                n += 1
        self.n_walls = n
        return 0

    cdef bint _clear_of_parameters(self, Slot *slot, uintptr_t low, uintptr_t high) noexcept:
        # Whether the gradient shares no memory with any parameter. The gap found is remembered:
        # the allocator tends to put the next gradient in the same place.
        cdef Py_ssize_t below = 0, above = self.n_walls, middle
        if slot.gap_low <= low and high <= slot.gap_high:
            return True
        while below < above:            # the first wall that ends above `low`
            middle = (below + above) // 2
            if self.walls[2 * middle + 1] <= low:
                below = middle + 1
            else:
                above = middle
        if below < self.n_walls and self.walls[2 * below] < high:
            return False
        slot.gap_low = self.walls[2 * below - 1] if below > 0 else 0
        slot.gap_high = self.walls[2 * below] if below < self.n_walls else <uintptr_t>-1
        return True

    # --- whether the plan still fits -------------------------------------------------------------

    cdef bint _same_groups(self, list groups):
        """Whether these are the plan's groups and lists, of as many parameters."""
        cdef Py_ssize_t g, count = 0
        cdef list params
        if PyList_GET_SIZE(groups) != PyList_GET_SIZE(self.groups):
            return False
        for g in range(PyList_GET_SIZE(groups)):
            if <void *>PyList_GET_ITEM(groups, g) != <void *>PyList_GET_ITEM(self.groups, g):
                return False
            params = (<dict>groups[g])["params"]
            if params is not self.members[g]:
                return False
            count += PyList_GET_SIZE(params)
        return count == self.n_tensors

    cdef inline bint _moved(self, Py_ssize_t i, PyObject *param) except -1:
        cdef PyObject *view = PyList_GET_ITEM(self.views, i)
        cdef int door = self.slots[i].door
        if door == PARAMETER:
            if <PyObject *>(<ParameterBase>param)._data != view:
                return True
        elif door != ARRAY:
            return self._moved_elsewhere(i)
        # Making the plan anew raises the error that names a read-only parameter.
        return not array_is_at(view, self.slots[i].address)

    cdef bint _moved_elsewhere(self, Py_ssize_t i) except -1:
        cdef Slot *slot = &self.slots[i]
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef BorrowedTensor tensor
        if slot.door == TENSOR:
            if not self._borrow(<object>PyList_GET_ITEM(self.objects, i), OF_PARAMETER, &tensor):
                return <uintptr_t>slot.address != <uintptr_t>self.objects[i].data_ptr()
            if not self._fits(view, &tensor):
                return True
            # Without elements the address means nothing: torch's is NULL, NumPy's is not.
            return (cnp.PyArray_SIZE(view) != 0
                    and <char *>tensor.data + tensor.byte_offset != <char *>slot.address)
        return (self.objects[i].data is not view or not cnp.PyArray_ISWRITEABLE(view)
                or cnp.PyArray_DATA(view) != slot.address)

    # --- tensors of other libraries --------------------------------------------------------------

    cdef bint _borrow(self, object tensor, int role, BorrowedTensor *out) except -1:
        """Read a tensor, a parameter or a gradient, through its library's exchange table; False if
        there is none."""
        if type(tensor) is not <object>PyList_GET_ITEM(self.borrow_types, role):
            self._find_table(type(tensor), role)
        if self.borrows[role] == NULL:
            return False
        try:
            self.borrows[role](<void *>tensor, out)
        except Exception:
            # A tensor without plain memory, such as a sparse one: whoever looks at it in detail
            # next raises the error that says so.
            return False
        return True

    cdef int _find_table(self, object kind, int role) except -1:
        cdef const ExchangeTable *exchange
        self.borrow_types[role] = kind
        self.borrows[role] = NULL
        capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
        if capsule is not None:
            exchange = <const ExchangeTable *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
            if exchange.major == DL_MAJOR:
                self.borrows[role] = exchange.borrow
        return 0

    cdef bint _fits(self, cnp.ndarray view, BorrowedTensor *tensor) noexcept:
        """Whether the tensor has the view's dtype, shape and strides, in this memory."""
        cdef int ndim = cnp.PyArray_NDIM(view), k
        cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(view), stride = 1
        if (tensor.device_type != DL_CPU
                or tensor.type_code != (DL_COMPLEX if cnp.PyArray_ISCOMPLEX(view) else DL_FLOAT)
                or tensor.type_lanes != 1 or tensor.type_bits != 8 * itemsize
                or tensor.ndim != ndim):
            return False
        for k in range(ndim - 1, -1, -1):
            if tensor.shape[k] != cnp.PyArray_DIM(view, k):
                return False
        if cnp.PyArray_SIZE(view) == 0:
            return True         # whatever the strides
        for k in range(ndim - 1, -1, -1):
            if tensor.strides != NULL:
                stride = tensor.strides[k]
            if tensor.shape[k] > 1 and stride * itemsize != cnp.PyArray_STRIDE(view, k):
                return False
            stride *= tensor.shape[k]
        return True

    # --- gradients -------------------------------------------------------------------------------

    cdef int _take_gradient(self, Py_ssize_t i, object grad, object optimizer) except -1:
        """Check a gradient and note its address. Copies it where it cannot be read in place."""
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef object original = grad
        cdef Slot *slot = &self.slots[i]
        cdef Tensor *tensor = &self.table.tensors[i]
        cdef BorrowedTensor borrowed
        cdef uintptr_t low
        if (cnp.PyArray_CheckExact(grad) and slot.direct
                and same_layout(view, <cnp.ndarray>grad)):
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
        elif (slot.door == TENSOR and slot.direct and not cnp.PyArray_Check(grad)
                # To find out by the table that a tensor is sparse takes torch 0.8 ms.
                and not (slot.sparse and is_sparse(grad))
                and self._borrow(grad, OF_GRADIENT, &borrowed) and self._fits(view, &borrowed)
                and not _is_lazy(view, grad)):
            tensor.streams[1] = <char *>borrowed.data + borrowed.byte_offset
        elif not cnp.PyArray_Check(grad) and is_sparse(grad):
            slot.sparse = True
            if self._take_sparse(i, grad, optimizer):
                return 0
            grad = self._densify(i, grad)
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
        else:
            grad = self._gradient_array(i, grad)
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
        if self.only_sparse:
            optimizer._refuse_dense(self.labels[i])
        low = <uintptr_t>tensor.streams[1]
        if (not self._clear_of_parameters(slot, low, low + cnp.PyArray_NBYTES(view))
                and (tensor.streams[1] != slot.address or self.repeats)):
            # The gradient is (part of) a parameter that this same run changes: read it first.
            grad = self._dense_copy(view, self._as_array(i, grad))
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
        if self.zeroing:
            if cnp.PyArray_Check(original) and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>original):
                raise ValueError(
                    f"gradient of {self.labels[i]} is read-only: it cannot be filled with zeros"
                )
            if grad is not original:
                self.originals.append(original)
        self._hold(<PyObject *>grad)
        tensor.row = 0
        return 0

    cdef bint _take_sparse(self, Py_ssize_t i, object grad, object optimizer) except -1:
        """Take a sparse gradient as it is; False if it is needed as an array."""
        from cyoptim._sparse import spans
        cdef cnp.ndarray view = self.views[i], values
        cdef uintptr_t low
        if (not optimizer._takes_spans(self.groups[self.slots[i].group], self.labels[i])
                or self.whole):
            return False
        laid_out = view if self.slots[i].direct else np.empty_like(view, subok=False)
        starts, lengths, values = spans(grad, laid_out, f"gradient of {self.labels[i]}")
        low = <uintptr_t>cnp.PyArray_DATA(values)
        if not self._clear_of_parameters(&self.slots[i], low, low + cnp.PyArray_NBYTES(values)):
            values = values.copy()
        if self.zeroing:
            self.originals.append(grad)
        self.sparse.append(Runs(len(starts), starts, lengths, values, i))
        self.table.tensors[i].row = 0
        return True

    cdef object _densify(self, Py_ssize_t i, object grad):
        from cyoptim._sparse import densify
        dense = densify(grad, self.views[i], f"gradient of {self.labels[i]}")
        return self._dense_copy(self.views[i], dense)

    cdef object _gradient_array(self, Py_ssize_t i, object grad):
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef cnp.ndarray array = self._as_array(i, grad)
        if self.slots[i].direct and same_layout(view, array):
            return array
        if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(view):
            raise TypeError(
                f"gradient of {self.labels[i]} has dtype {array.dtype}, expected {view.dtype}"
            )
        if not cnp.PyArray_SAMESHAPE(array, view):
            raise ValueError(
                f"gradient of {self.labels[i]} has shape {(<object>array).shape}, "
                f"expected {(<object>view).shape}"
            )
        return self._dense_copy(view, array)

    cdef object _as_array(self, Py_ssize_t i, object grad):
        if cnp.PyArray_Check(grad):
            return grad
        if isinstance(grad, np.generic) and self.views[i].ndim == 0:
            return np.asarray(grad)
        if self.slots[i].door == TENSOR:
            from cyoptim._doors import foreign_array
            return foreign_array(grad, f"gradient of {self.labels[i]}")
        raise TypeError(
            f"gradient of {self.labels[i]} is a {type(grad).__name__}, expected a NumPy array"
        )

    cdef object _dense_copy(self, cnp.ndarray view, object source):
        # In the layout that the parameter's state has.
        copy = np.empty_like(view, subok=False)
        copy[...] = source
        return copy

    cdef bint _collect(self, list grads, object optimizer) except -1:
        """Take every gradient, from `grads` (one per parameter, or None) or from the parameters;
        False if the plan no longer fits the parameters."""
        cdef Py_ssize_t g, k, i = 0
        cdef list params
        cdef PyObject *param
        if not self._same_groups(optimizer.param_groups):
            return False
        # One pass, for with many small parameters each pass costs as much as the update.
        for g in range(PyList_GET_SIZE(self.members)):
            params = <list>PyList_GET_ITEM(self.members, g)
            k = 0
            while k < PyList_GET_SIZE(params):  # a gradient may be the result of other code
                param = PyList_GET_ITEM(params, k)
                if (i == self.n_tensors or param != PyList_GET_ITEM(self.objects, i)
                        or self._moved(i, param)):
                    return False
                self.table.tensors[i].row = -1
                if grads is not None:
                    self._take(i, PyList_GET_ITEM(grads, i), optimizer)
                elif self.slots[i].door == PARAMETER:
                    self._take(i, <PyObject *>(<ParameterBase>param)._grad, optimizer)
                else:
                    grad = self._own_gradient(i)
                    self._take(i, <PyObject *>grad, optimizer)
                i += 1
                k += 1
        return i == self.n_tensors

    cdef object _own_gradient(self, Py_ssize_t i):
        if self.slots[i].door == ARRAY:
            raise ValueError(
                f"{self.labels[i]} is a plain array and has no gradient of its own: "
                "call step(grads=...), let the closure return (loss, grads), or wrap it in "
                "cyoptim.Parameter"
            )
        return self.objects[i].grad

    cdef inline int _take(self, Py_ssize_t i, PyObject *grad, object optimizer) except -1:
        if grad != <PyObject *>None and not self._take_at_once(i, grad):
            self._take_gradient(i, <object>grad, optimizer)
        return 0

    cdef inline bint _take_at_once(self, Py_ssize_t i, PyObject *grad) noexcept:
        """Take a gradient that needs no closer look: an array like its parameter's, where the last
        one was clear of all parameters. False if it is not of this kind."""
        cdef Slot *slot = &self.slots[i]
        cdef Tensor *tensor = &self.table.tensors[i]
        cdef uintptr_t low
        if (not slot.direct or self.only_sparse
                or not array_is_just_like(PyList_GET_ITEM(self.views, i), grad)
                or (self.zeroing and not array_is_writable(grad))):
            return False
        low = <uintptr_t>array_data(grad)
        if low < slot.gap_low or low + tensor.size * itemsize(tensor.dtype) > slot.gap_high:
            return False
        tensor.streams[1] = <void *>low
        tensor.row = 0
        self._hold(grad)
        return True

    cdef inline void _hold(self, PyObject *grad) noexcept:
        Py_INCREF(<object>grad)
        self.held[self.n_held] = grad
        self.n_held += 1

    # --- hyper-parameters and state --------------------------------------------------------------

    cdef inline int64_t _next_step(self, Py_ssize_t i) noexcept:
        cdef Slot *slot = &self.slots[self.slots[i].first]
        cdef int64_t step = slot.step[0] if slot.step else slot.age
        if self.repeats:
            step += self._earlier_occurrences(i)
        if self.counts_steps:
            return step + 1
        return 1 if step == 0 else 2

    cdef int64_t _earlier_occurrences(self, Py_ssize_t i) noexcept:
        cdef Py_ssize_t j
        cdef int64_t count = 0
        for j in range(self.slots[i].first, i):
            if self.slots[j].first == self.slots[i].first and self.table.tensors[j].row >= 0:
                count += 1
        return count

    cdef int _read_options(self, object optimizer, Py_ssize_t group) except -1:
        """Bring the group's template row up to date with its options."""
        cdef dict options = self.groups[group]
        cdef list known = self.known_options[group]
        if known is not None and _same_options(options, known):
            return 0
        self.known_options[group] = None
        try:
            fill_row(&self.templates[group], optimizer._hyper(options))
        except (TypeError, ValueError, KeyError) as error:
            raise type(error)(f"options of param group {group}: {error}") from error
        self.known_options[group] = _constant_options(options)
        return 0

    cdef void _recall(self, Py_ssize_t i, float *memory) noexcept:
        """What the rule remembers of this slot: from its state, or from the slot's earlier
        occurrence in the same step."""
        cdef Slot *slot = &self.slots[i]
        cdef float **number = self.memories[i].numbers
        cdef Py_ssize_t j, earlier = -1
        cdef int k
        for j in range(slot.first, i):
            if self.slots[j].first == slot.first and self.table.tensors[j].row >= 0:
                earlier = j
        for k in range(MAX_MEMORY):
            if earlier >= 0:
                memory[k] = self.table.rows[self.table.tensors[earlier].row].memory[k]
            else:
                memory[k] = number[k][0] if number[k] else 0

    cdef int _find_row(self, Py_ssize_t group, int64_t step, const float *memory) except -1:
        """The row of this group at this step count and with this memory."""
        cdef Py_ssize_t r
        cdef Row *row
        cdef Clock clock
        cdef int k
        for r in range(self.n_rows - 1, -1, -1):
            row = &self.table.rows[r]
            if row.group == group and row.step == step and _same_memory(row, memory):
                return <int>r
        row = self.new_row()
        row[0] = self.templates[group]
        row.group = group
        row.step = step
        for k in range(MAX_MEMORY):
            row.before[k] = row.memory[k] = memory[k]
        clock = KERNELS.clocks[row.rule]
        if clock != NULL:
            clock(row.scalars, step, row.memory)
        return <int>self.n_rows - 1

    cdef list _assign_rows(self, object optimizer):
        """Give every tensor with a gradient its row; return the slots whose state is not bound, or
        None."""
        cdef Py_ssize_t i
        cdef int32_t group = -1
        cdef int64_t step, last = -1
        cdef int row = -1, rule = -1
        cdef float memory[MAX_MEMORY]
        cdef bint remembers = self.remembers, settled = self.aged and not self.repeats
        cdef Tensor *tensor = self.table.tensors
        cdef const Slot *slot = self.slots
        cdef list unbound = None
        memset(memory, 0, sizeof(memory))
        self.n_rows = 0
        for i in range(self.n_tensors):
            if tensor[i].row < 0:
                continue
            step = 2 if settled else self._next_step(i)
            if slot[i].group != group:
                group, last = slot[i].group, -1
                self._read_options(optimizer, group)
            if remembers:
                self._recall(i, memory)
            if step != last or (remembers and not _same_memory(&self.table.rows[row], memory)):
                last = step
                row = self._find_row(group, step, memory)
                rule = self.table.rows[row].rule
            tensor[i].row = row
            if slot[i].rule != rule:
                if unbound is None:
                    unbound = []
                unbound.append(i)
        return unbound

    cdef int _prepare(self, object optimizer) except -1:
        if self.watch.changed:
            self._forget_state(optimizer)
        cdef list made = []
        unbound = self._assign_rows(optimizer)
        if unbound:
            try:
                self._bind_states(optimizer, unbound, made)
                # A momentum buffer may turn out to be new or not, which is another row.
                self._assign_rows(optimizer)
            except BaseException:
                self._unmake(optimizer, made)
                raise
        return 0

    cdef int _unmake(self, object optimizer, list made) except -1:
        """Take new state out again: a momentum buffer that is there is not new to the next step."""
        self.watch.changed = True
        for i, new, known in made:
            state = optimizer.state.get(self.objects[i])
            if state is None:
                continue
            for name in new:
                if name not in known:
                    state.pop(name, None)
            if not state:
                del optimizer.state[self.objects[i]]
        return 0

    cdef int _bind_states(self, object optimizer, list slots, list made) except -1:
        """Bind, and where missing make, the state of these slots. Nothing is put into the
        optimizer's state before all of it could be allocated; `made` lists what is."""
        cdef Py_ssize_t i
        for i in slots:
            if self.slots[i].first == i:
                known = list(optimizer.state.get(self.objects[i], ()))
                made.append((i, self._prepare_state(optimizer, i), known))
        for i, new, _ in made:
            if new:
                optimizer.state._fill(self.objects[i], new)
        for i in slots:
            self._take_state(optimizer.state.arrays(self.objects[i]), i)
        return 0

    cdef dict _prepare_state(self, object optimizer, Py_ssize_t i):
        """The entries that the state of this slot lacks, or has in a form the kernel cannot use."""
        cdef Slot *slot = &self.slots[i]
        cdef dict new = {}
        rule = self.table.rows[self.table.tensors[i].row].rule
        names = RULE_STATES[rule]
        state = optimizer.state.arrays(self.objects[i])
        group = self.groups[slot.group]
        fresh = False
        if self.counts_steps and not _is_counter(state.get("step")):
            new["step"] = make_counter(state.get("step"), self.labels[i])
        for name in RULE_MEMORY[rule]:
            value = state.get(name)
            if value is None:
                value = optimizer._initial_value(group, name)
            if not _is_number(value):
                new[name] = make_number(value, f"state {name!r} of {self.labels[i]}")
        for name in names:
            value = state.get(name)
            if value is None:
                fresh = True
                new[name] = _filled(self.views[i], optimizer._initial_value(group, name))
            elif not self._is_state(i, value):
                new[name] = self._state_array(i, name, value)
        if names and not self.counts_steps:
            slot.age = 0 if fresh else 1
            self.aged = False
        return new

    cdef bint _is_state(self, Py_ssize_t i, object value):
        # An array that the kernel can use as it is: laid out as np.empty_like(view) would be.
        cdef cnp.ndarray view = self.views[i]
        if not self.slots[i].direct:
            view = np.empty_like(view, subok=False)
        return (cnp.PyArray_Check(value) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>value)
                and same_layout(view, <cnp.ndarray>value))

    cdef object _state_array(self, Py_ssize_t i, str name, object value):
        view = self.views[i]
        if not cnp.PyArray_Check(value):
            from cyoptim._doors import foreign_array
            value = foreign_array(value, f"state {name!r} of {self.labels[i]}")
        if value.shape != view.shape or value.dtype.kind != view.dtype.kind:
            raise ValueError(
                f"state {name!r} of {self.labels[i]} has shape {value.shape} and dtype "
                f"{value.dtype}, expected {view.shape} and {view.dtype}"
            )
        return self._dense_copy(view, value)

    cdef int _take_state(self, object state, Py_ssize_t i) except -1:
        cdef int rule = self.table.rows[self.table.tensors[i].row].rule
        cdef Py_ssize_t k = 2, m
        cdef list kept = []
        if self.counts_steps:
            counter = state["step"]
            kept.append(counter)
            self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
        self.remembers = self.remembers or RULE_MEMORY[rule]
        for m in range(len(RULE_MEMORY[rule])):
            array = state[RULE_MEMORY[rule][m]]
            kept.append(array)
            self.memories[i].numbers[m] = <float *>cnp.PyArray_DATA(<cnp.ndarray>array)
        for name in RULE_STATES[rule]:
            array = state[name]
            kept.append(array)
            self.table.tensors[i].streams[k] = cnp.PyArray_DATA(<cnp.ndarray>array)
            k += 1
        self.states[i] = kept
        self.slots[i].rule = rule
        return 0

    cdef int _forget_state(self, object optimizer) except -1:
        """Look the state up again: entries were put in, replaced or removed."""
        cdef Py_ssize_t i
        cdef int k
        self.aged = False
        for i in range(self.n_tensors):
            self.slots[i].rule = -1
            self.slots[i].step = NULL
            self.slots[i].age = 0
            for k in range(MAX_MEMORY):
                self.memories[i].numbers[k] = NULL
            if self.counts_steps and self.slots[i].first == i:
                counter = optimizer.state.arrays(self.objects[i]).get("step")
                if counter is not None:
                    self._adopt_counter(optimizer, i, counter)
        self.watch.changed = False
        return 0

    cdef int _adopt_counter(self, object optimizer, Py_ssize_t i, object counter) except -1:
        if not _is_counter(counter):
            counter = make_counter(counter, self.labels[i])
            optimizer.state._fill(self.objects[i], {"step": counter})
        self.states[i] = [counter]
        self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
        return 0

    # --- the step --------------------------------------------------------------------------------

    cdef inline int _begin(self) except -1:
        if self.busy:
            refuse(self.forks)
        self.busy = True
        self.forks = FORKS
        return 0

    def step(self, optimizer, list grads, Extras extras=None) -> bool:
        """Step every parameter that has a gradient; False if the plan no longer fits."""
        self._begin()
        try:
            self.zeroing = extras is not None and extras.zero
            if not self._collect(grads, optimizer):
                return False
            if extras is None:
                self._open_copies()
                self._announce()
                self._prepare(optimizer)
                self._run()
                self._count()
            else:
                self._step_with(optimizer, extras)
        finally:
            self._release()
            if PyList_GET_SIZE(self.copies):
                self.copies.clear()
            if PyList_GET_SIZE(self.sparse):
                self.sparse.clear()
            if PyList_GET_SIZE(self.updated):
                self.updated.clear()
            if PyList_GET_SIZE(self.originals):
                self.originals.clear()
            # Last: letting go of a gradient may run other code, which must not step meanwhile.
            self.busy = False
        return True

    # --- what a step does beside its update --------------------------------------------------------

    cdef int _step_with(self, object optimizer, Extras extras) except -1:
        cdef Py_ssize_t r
        cdef bint together = False
        if self._measure(extras):
            self._open_copies()
            self._announce()
            self._prepare(optimizer)
            # Each rule begins by multiplying the gradient by its first scalar, which is a sign.
            for r in range(self.n_rows):
                self.table.rows[r].scalars[0] *= extras.coefficient / extras.scale
            together = self.zeroing and not self._gradients_overlap()
            self.table.zero = together
            self._run()
            self.table.zero = False
            self._count()
        extras.done = True
        if self.zeroing:
            self._zero_gradients(together)
        return 0

    cdef bint _measure(self, Extras extras) except -1:
        """Find the norm, if it is asked for; False if the step is to be skipped."""
        cdef double total
        cdef Runs runs
        if not extras.measure:
            return True
        for runs in self.sparse:        # hidden from the run over whole tensors
            self.table.tensors[runs.slot].row = -1
        total = self.reduce(GRADIENT_SQUARES, 0)
        for runs in self.sparse:
            self.table.tensors[runs.slot].row = 0
            total += Spans([runs.values]).reduce(SUM_SQUARES, 0)
        extras.clip(sqrt(total) / fabs(extras.scale))
        if isfinite(total):
            return True
        self._find_nonfinite(extras)
        if extras.policy == RAISE and extras.nonfinite:
            names = ", ".join([self.labels[i] for i in extras.nonfinite[:5]])
            more = ", ..." if len(extras.nonfinite) > 5 else ""
            raise FloatingPointError(f"gradients are not finite: of {names}{more}")
        extras.skipped = extras.policy == SKIP and len(extras.nonfinite) > 0
        return not extras.skipped

    cdef int _find_nonfinite(self, Extras extras) except -1:
        cdef Py_ssize_t i
        cdef const Tensor *tensor
        cdef dict values = {(<Runs>runs).slot: (<Runs>runs).values for runs in self.sparse}
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row < 0:
                continue
            if i in values:
                finite = np.isfinite(values[i]).all()
            else:
                finite = all_finite(tensor.streams[1], tensor.size, tensor.dtype)
            if not finite:
                extras.nonfinite.append(i)
        return 0

    cdef bint _gradients_overlap(self) except -1:
        """Whether two gradients share memory, so that none may be zeroed before all were read."""
        cdef Py_ssize_t i, n = 0
        cdef const Tensor *tensor
        if self.ranges == NULL:
            self.ranges = <uintptr_t *>PyMem_Malloc(max(self.n_tensors, 1) * 2 * sizeof(uintptr_t))
            if not self.ranges:
                raise MemoryError
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row >= 0 and tensor.size:
                self.ranges[2 * n] = <uintptr_t>tensor.streams[1]
                self.ranges[2 * n + 1] = (self.ranges[2 * n]
                                          + tensor.size * itemsize(tensor.dtype))
                n += 1
        qsort(self.ranges, n, 2 * sizeof(uintptr_t), compare_starts)
        for i in range(n - 1):
            if self.ranges[2 * i + 1] > self.ranges[2 * i + 2]:
                return True
        return False

    cdef int _zero_gradients(self, bint done) except -1:
        """Fill with zeros what the run has not: copies' originals, and all if it has done none."""
        cdef Py_ssize_t i, k
        cdef const Tensor *tensor
        cdef list sparse = [(<Runs>runs).slot for runs in self.sparse]
        from cyoptim._sparse import zero_gradient
        for original in self.originals:
            zero_gradient(original)
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if not done and tensor.row >= 0 and not (sparse and i in sparse):
                memset(tensor.streams[1], 0, tensor.size * itemsize(tensor.dtype))
        tensors = [<object>self.held[k] for k in range(self.n_held)
                   if not cnp.PyArray_Check(<object>self.held[k])]
        if tensors:
            from cyoptim._doors import announce_update
            announce_update(tensors)
        return 0

    cdef list _held_arrays(self):
        """The gradients taken, each with its parameter's number."""
        cdef Py_ssize_t i, k = 0
        cdef list found = []
        for i in range(self.n_tensors):
            if self.table.tensors[i].row >= 0:
                found.append((i, self._as_array(i, <object>self.held[k])))
                k += 1
        return found

    def visit(self, optimizer, list grads, update, Extras extras=None) -> bool:
        """Call ``update`` with a list of (number, array, gradient), an entry for each parameter that
        has a gradient, after all gradients have been checked; False if the plan no longer fits."""
        cdef Py_ssize_t i
        self._begin()
        try:
            self.zeroing = extras is not None and extras.zero
            if not self._collect(grads, optimizer):
                return False
            if extras is None or self._measure(extras):
                found = [(i, self.views[i], grad) for i, grad in self._held_arrays()]
                self.updated.extend(
                    [self.objects[i] for i, _, _ in found if self.slots[i].door == TENSOR])
                try:
                    update(found)
                finally:
                    self._announce()
            if extras is not None:
                extras.done = True
            if self.zeroing:
                self._zero_gradients(False)
        finally:
            self._release()
            self.updated.clear()
            self.originals.clear()
            self.busy = False
        return True

    def gather(self, optimizer, list grads) -> list | None:
        """Every parameter's checked gradient as an array, None where there is none; None in place
        of the list if the plan no longer fits. The arrays may be the caller's own."""
        self._begin()
        try:
            self.zeroing, self.whole = False, True
            if not self._collect(grads, optimizer):
                return None
            found = [None] * self.n_tensors
            for i, grad in self._held_arrays():
                found[i] = grad
        finally:
            self._release()
            self.whole = False
            self.busy = False
        return found

    def arrays(self) -> list:
        """The memory of every parameter."""
        return list(self.views)

    cdef void _release(self) noexcept:
        while self.n_held > 0:
            self.n_held -= 1
            Py_DECREF(<object>self.held[self.n_held])

    def initialize(self, optimizer) -> None:
        """Make the state of every parameter now instead of at its first gradient."""
        cdef Py_ssize_t i
        for i in range(self.n_tensors):
            self.table.tensors[i].row = 0
        self._prepare(optimizer)

    cdef int _open_copies(self) except -1:
        # Parameters with gaps between their elements are updated in a dense copy.
        cdef Py_ssize_t i
        cdef Slot *slot
        if self.in_place and not self.repeats:
            return 0
        for i in range(self.n_tensors):
            slot = &self.slots[i]
            if self.table.tensors[i].row < 0:
                continue
            if slot.door == TENSOR:
                self.updated.append(self.objects[i])
            if slot.first != i:
                self.table.tensors[i].streams[0] = self.table.tensors[slot.first].streams[0]
            elif not slot.direct:
                copy = self._dense_copy(self.views[i], self.views[i])
                self.copies.append((i, copy))
                self.table.tensors[i].streams[0] = cnp.PyArray_DATA(<cnp.ndarray>copy)
        return 0

    cdef int _run(self) except -1:
        cdef Py_ssize_t first, last
        if PyList_GET_SIZE(self.sparse):
            self._run_sparse()
        if not self.repeats:
            self.update(0, self.n_bundles)
        else:
            for first, last in self.waves:
                self.update(first, last)
        if PyList_GET_SIZE(self.sparse):
            for runs in self.sparse:
                self.table.tensors[(<Runs>runs).slot].row = (<Runs>runs).row
        if PyList_GET_SIZE(self.copies):
            for i, copy in self.copies:
                self.views[i][...] = copy
        return 0

    cdef void _run_sparse(self) noexcept:
        # Their tensors are hidden from the run over whole tensors.
        cdef Runs runs
        cdef Tensor *tensor
        for runs in self.sparse:
            tensor = &self.table.tensors[runs.slot]
            runs.row = tensor.row
            runs.run(tensor, &self.table.rows[tensor.row])
            tensor.row = -1

    cdef void _count(self) noexcept:
        cdef Py_ssize_t i
        if self.aged:
            return
        self.aged = not self.counts_steps
        for i in range(self.n_tensors):
            if self.table.tensors[i].row < 0:
                self.aged = False
            elif self.counts_steps:
                self.slots[i].step[0] += 1
                if self.remembers:
                    self._remember(i)
            else:
                self.slots[self.slots[i].first].age = 1

    cdef void _remember(self, Py_ssize_t i) noexcept:
        cdef const Row *row = &self.table.rows[self.table.tensors[i].row]
        cdef float **number = self.memories[i].numbers
        cdef int k
        for k in range(MAX_MEMORY):
            if number[k]:
                number[k][0] = row.memory[k]

    cdef int _announce(self) except -1:
        # Before anything changes: this is Python code, where an interrupt may be raised.
        if PyList_GET_SIZE(self.updated) == 0:
            return 0
        from cyoptim._doors import announce_update
        announce_update(self.updated)
        return 0


cdef bint is_sparse(object grad) except -1:
    from cyoptim._sparse import is_sparse
    return is_sparse(grad)


cdef bint _is_lazy(cnp.ndarray view, object tensor) except -1:
    # torch keeps a conjugate as a flag, and a sign as another, on memory that holds other values;
    # the exchange table does not tell. A real tensor has the sign flag only as the imaginary part
    # of a conjugate, with gaps that no dense parameter has unless it is a single element.
    if cnp.PyArray_ISCOMPLEX(view):
        return tensor.is_conj() or tensor.is_neg()
    return cnp.PyArray_SIZE(view) == 1 and tensor.is_neg()


cdef inline bint _same_memory(const Row *row, const float *memory) noexcept:
    return memcmp(row.before, memory, MAX_MEMORY * sizeof(float)) == 0


cdef bint _is_constant(object value):
    # Values of these types cannot change in place; an array or a tensor can.
    if isinstance(value, tuple):
        return all([_is_constant(item) for item in value])
    return value is None or type(value) in (float, int, bool, str) or isinstance(value, np.generic)


cdef list _constant_options(dict options):
    """The group's option values, to be compared by identity; None if any may change in place."""
    values = [value for key, value in options.items() if key != "params" and key != "param_names"]
    return values if all([_is_constant(value) for value in values]) else None


cdef bint _same_options(dict options, list known):
    cdef Py_ssize_t position = 0, k = 0, n = PyList_GET_SIZE(known)
    cdef PyObject *key
    cdef PyObject *value
    while PyDict_Next(options, &position, &key, &value):
        if <object>key == "params" or <object>key == "param_names":
            continue
        if k == n or <void *>value != <void *>PyList_GET_ITEM(known, k):
            return False
        k += 1
    return k == n


cdef bint _is_counter(object value):
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_INT64
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def make_counter(value, label):
    """A step count as it is kept in the state: an int64 array without axes."""
    number = 0 if value is None else float(value)
    if not (isfinite(number) and number >= 0 and number == int(number)):
        raise ValueError(f"state 'step' of {label} is {value}, expected a whole number >= 0")
    return np.array(int(number), dtype=np.int64)


cdef bint _is_number(object value):
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_FLOAT
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def make_number(value, label):
    """A number of a rule's memory as it is kept in the state: float32, as in torch."""
    try:
        return np.array(float(value), dtype=np.float32)
    except (TypeError, ValueError):
        raise TypeError(f"{label} is {value!r}, expected a number") from None


def memory_names() -> frozenset:
    """Names of the numbers that rules remember in the state."""
    return frozenset([name for names in RULE_MEMORY for name in names])


def _filled(view, value):
    array = np.zeros_like(view, subok=False)
    if value != 0:
        array.fill(complex(value, value) if cnp.PyArray_ISCOMPLEX(view) else value)
    return array

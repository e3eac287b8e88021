# One rule at a time for other Cython modules: raw pointers in, no arrays, no GIL. What they see is
# python/cyoptim/kernel.pxd.
#
# (a) An update is a table of one tensor in one chunk, handed to the same kernels that a step runs, so it
#     gives the same bits.
# (b) What needs no Python object is in a struct behind a pointer, so that it may grow.
"""Optimizers for other Cython modules; see docs/cython.md."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memset

from _reduce cimport SUM_SQUARES
from _table cimport (CHUNK, FLOAT32, FLOAT64, Chunk, Clock, Kernels, Row, Table, Tensor)

import importlib

import numpy as np

from cyoptim import _dispatch
from cyoptim.optimizer import Optimizer
from cyoptim.parameter import Parameter

cdef struct Own:
    Row options             # as they were read
    Row step                # the scalars of the step that has begun, and what the rule remembers
    int streams             # arrays of an update: parameter, gradient, state

_module = importlib.import_module(f"cyoptim._kernels_{_dispatch.chosen}")
cdef list RULES = list(_module.RULES.values())
cdef const Kernels *KERNELS = <const Kernels *>PyCapsule_GetPointer(
    _module.kernels(), "cyoptim.kernels")


cdef class Kernel:
    """An optimizer's rule with its options, to be run on raw pointers.

    Parameters
    ----------
    optimizer : type
        One of the element-wise optimizers: ``cyoptim.Adam``, ``cyoptim.SGD``, ...
    *args, **options
        Its options, as its constructor takes and checks them.

    Attributes
    ----------
    optimizer : Optimizer
        Holds the options, for a scheduler to change; it steps nothing.
    state_names : tuple of str
        The state arrays that an update takes after parameter and gradient, in this order.
    initial_values : tuple of float
        What each of them is filled with before the first step.
    state : dict
        ``"step"``, how many steps have begun, and what else the rule counts; can be set, to resume.

    Raises
    ------
    TypeError
        If the optimizer is not one, or not element-wise.
    ValueError
        If an option is out of range.

    Examples
    --------
    >>> import cyoptim
    >>> from cyoptim.kernel import Kernel
    >>> Kernel(cyoptim.Adam, lr=0.01).state_names
    ('exp_avg', 'exp_avg_sq')
    """

    def __cinit__(self, *args, **options):
        self.grad_scale = 1
        self._own = PyMem_Calloc(1, sizeof(Own))
        if not self._own:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._own)

    def __init__(self, optimizer, /, *args, **options):
        if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
            raise TypeError(f"optimizer must be a subclass of cyoptim.Optimizer, got {optimizer!r}")
        if optimizer._updates_itself:
            raise TypeError(f"{optimizer.__name__} has no kernel: it is not element-wise")
        self.optimizer = optimizer([Parameter(np.zeros(0))], *args, **options)
        self.read_options()
        group = self.optimizer.param_groups[0]
        for k, name in enumerate(memory_names(self)):
            own(self).step.memory[k] = self.optimizer._initial_value(group, name)

    def read_options(self):
        """Take over the options that have been changed in ``optimizer.param_groups[0]``, by a
        scheduler for instance. They count from the next step that begins.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range, or asks for other state arrays; those in use stay.
        """
        cdef Row row
        group = self.optimizer.param_groups[0]
        self.optimizer._check_options(group)
        rule, *scalars = self.optimizer._hyper(group)
        names = RULES[rule][0]
        if self.state_names is not None and self.state_names != names:
            raise ValueError(
                f"the options ask for the state {list(names)}, but this kernel was made with "
                f"{list(self.state_names)}: make another"
            )
        row = own(self).options
        row.rule = rule
        for k, value in enumerate(scalars):
            row.scalars[k] = value
        self.initial_values = tuple([self.optimizer._initial_value(group, n) for n in names])
        self.state_names = names
        own(self).options = row
        own(self).streams = 2 + len(names)

    @property
    def state(self):
        memory = {n: own(self).step.memory[k] for k, n in enumerate(memory_names(self))}
        return {"step": self.steps, **memory}

    @state.setter
    def state(self, values):
        names = memory_names(self)
        if not isinstance(values, dict) or set(values) != {"step", *names}:
            raise ValueError(f"state must be a dict of {', '.join(('step', *names))}, got {values!r}")
        step = values["step"]
        if not isinstance(step, (int, float, np.number)) or step != int(step) or step < 0:
            raise ValueError(f"step must be a whole number, at least 0, got {step!r}")
        memory = [float(values[name]) for name in names]
        self.steps = int(step)
        for k, value in enumerate(memory):
            own(self).step.memory[k] = value

    cdef void begin_step(self) noexcept nogil:
        cdef Row *row = &own(self).step
        cdef Clock clock
        row.rule = own(self).options.rule
        row.scalars = own(self).options.scalars
        self.steps += 1
        clock = KERNELS.clocks[row.rule]
        if clock != NULL:
            clock(row.scalars, self.steps, row.memory)
        row.scalars[0] *= self.grad_scale   # the sign of the gradient

    cdef void update_float32(self, float **arrays, Py_ssize_t size) noexcept nogil:
        update(own(self), <void **>arrays, FLOAT32, size)

    cdef void update_float64(self, double **arrays, Py_ssize_t size) noexcept nogil:
        update(own(self), <void **>arrays, FLOAT64, size)


cdef inline Own *own(Kernel kernel) noexcept nogil:
    return <Own *>kernel._own


cdef tuple memory_names(Kernel kernel):
    return RULES[own(kernel).options.rule][2]


cdef struct Span:           # a table of one tensor in one chunk
    Table table
    Tensor tensor
    Chunk chunk
    Py_ssize_t bundles[2]


cdef inline void lay(Span *span, int dtype, Py_ssize_t size) noexcept nogil:
    memset(span, 0, sizeof(Span))
    span.tensor.dtype = dtype
    span.tensor.size = size
    span.chunk.stop = size
    span.bundles[1] = 1
    span.table.tensors = &span.tensor
    span.table.chunks = &span.chunk
    span.table.bundles = span.bundles


cdef inline void update(Own *own, void **arrays, int dtype, Py_ssize_t size) noexcept nogil:
    cdef Span span
    cdef int k
    lay(&span, dtype, size)
    for k in range(own.streams):
        span.tensor.streams[k] = arrays[k]
    span.table.rows = &own.step
    KERNELS.update(&span.table, 0)


cdef inline double sum_squares(const void *array, int dtype, Py_ssize_t size,
                               double before) noexcept nogil:
    # Chunk by chunk, as the norm of a step.
    cdef Span span
    cdef double partial
    cdef Py_ssize_t start = 0
    lay(&span, dtype, size)
    span.tensor.streams[0] = <void *>array
    span.table.reduction = SUM_SQUARES
    span.table.partials = &partial
    while start < size:
        span.chunk.start = start
        start = min(start + CHUNK, size)
        span.chunk.stop = start
        KERNELS.reduce(&span.table, 0)
        before += partial
    return before


cdef double sum_squares_float32(const float *array, Py_ssize_t size, double before) noexcept nogil:
    return sum_squares(array, FLOAT32, size, before)


cdef double sum_squares_float64(const double *array, Py_ssize_t size, double before) noexcept nogil:
    return sum_squares(array, FLOAT64, size, before)

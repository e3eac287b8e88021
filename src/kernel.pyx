# One rule at a time for other Cython modules: raw pointers in, no arrays, no GIL. What they see is
# python/cyoptim/kernel.pxd.
#
# (a) An update is a table of one tensor in one chunk, handed to the same kernels that a step runs, so it
#     gives the same bits.
# (b) What needs no Python object is in a struct behind a pointer, so that it may grow.
# (c) Scalars are computed in the mode in which a program begins, whatever the caller's: fp_mode.h. What
#     is computed between fp_plain() and fp_restore() is stored in memory before the latter, as the
#     compiler may move across them what is not.
# (d) What a subclass's methods return is checked before it is stored: nothing is written past a row, and
#     a kernel that was never initialized updates nothing.
"""Optimizers for other Cython modules; see docs/cython.md."""

from cpython.buffer cimport (PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release,
                             PyObject_GetBuffer)
from cpython.exc cimport PyErr_SetString
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uintptr_t
from libc.string cimport memset

from _reduce cimport SUM_SQUARES
from _codecs cimport FLOAT32, FLOAT64
from _table cimport (MAX_CARRIED, MAX_SCALARS, MAX_STREAMS, REDUCE, UPDATE, Chunk, Clock,
                     Head, Kernels, Row, Table, Tensor, chunk_elements)

import importlib
import sys

import numpy as np

from cyoptim import _dispatch
from cyoptim._engine import rule_named
from cyoptim._engine import rule_of as engine_rule_of
from cyoptim.optimizer import Optimizer
from cyoptim.parameter import Parameter

cdef extern from "fp_mode.h" nogil:
    unsigned long long fp_plain()
    void fp_restore(unsigned long long mode)

cdef struct Own:
    Row options             # as they were read
    Row step                # the scalars of the step that has begun, and what the rule remembers
    int streams             # arrays of an update: parameter, gradient, state; 0 before there is a rule
    bint begun              # whether `step` is that of a step; before, an update changes nothing

_module = importlib.import_module(f"cyoptim._kernels_{_dispatch.chosen}")
cdef list TABLE = [rule_named(name) for name in _module.RULES]
cdef const Kernels *KERNELS = <const Kernels *>PyCapsule_GetPointer(
    _module.kernels(), "cyoptim.kernels")
cdef str NATIVE = "<" if sys.byteorder == "little" else ">"    # the mark of this machine's byte order


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
        The initial value of each; NaN for a copy of the parameter.
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
            raise TypeError(
                f"optimizer must be a subclass of cyoptim.Optimizer, got {optimizer!r}: write "
                "Kernel(cyoptim.Adam, lr=0.1)"
            )
        if not optimizer._is_native() or optimizer._prepares_update:
            refuse_kind(optimizer)
        owner = optimizer([Parameter(np.zeros(0))], *args, **options)
        set_carried(self, read(self, owner))
        self.optimizer = owner

    def __repr__(self):
        options = [f"{name}={value!r}" for name, value in shown_options(self).items()]
        return f"Kernel({', '.join([type(self.optimizer).__name__, *options])})"

    def _repr_html_(self):
        from cyoptim._shown import table
        state = ", ".join(self.state_names)
        return table(f"Kernel of {type(self.optimizer).__name__}",
                     {"state arrays": state, "step": self.steps, **shown_options(self)})

    @property
    def address(self):
        """The kernel for the functions of :func:`c_functions`; valid as long as this object lives."""
        return <uintptr_t><PyObject *>self

    def begin(self):
        """Begin a step: the next updates are of this step. Once a step, before its updates."""
        self.begin_step()

    def update(self, param, grad, /, *state):
        """Update a parameter in the step that has begun.

        Parameters
        ----------
        param, grad, *state : buffers
            The parameter, its gradient, and a state array for each of `state_names`: memoryviews (typed ones of
            Cython, too), ``array.array``, ctypes or NumPy arrays, of float32 or float64, all of one
            shape and contiguous. The gradient may be read-only.

        Raises
        ------
        TypeError, ValueError
            If one of them does not fit, is read-only, or shares memory with another. Then nothing
            changes.
        RuntimeError
            If no step has begun.

        Examples
        --------
        >>> from array import array
        >>> import cyoptim
        >>> from cyoptim.kernel import Kernel
        >>> kernel, w = Kernel(cyoptim.SGD, lr=0.5), array("d", [1.0, 2.0])
        >>> kernel.begin()
        >>> kernel.update(w, array("d", [2.0, 2.0]))
        >>> w
        array('d', [0.0, 1.0])
        """
        update_buffers(self, (param, grad, *state))

    def new_state(self, param):
        """The state arrays of a parameter before its first step, in the order of `state_names`."""
        start = np.asarray(memoryview(param))
        pairs = start.dtype.kind == "c"     # whose two numbers are elements of their own
        return [start.copy() if np.isnan(value) else np.full_like(start, complex(value, value) if pairs else value)
                for value in self.initial_values]

    def read_options(self):
        """Take over the options that have been changed in ``optimizer.param_groups[0]``, by a
        scheduler for instance. They count from the next step that begins.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range, or asks for other state arrays; those in use stay.
        """
        read(self, self.optimizer)

    @property
    def state(self):
        carried = {n: own(self).step.carried[k] for k, n in enumerate(carried_names(self))}
        return {"step": self.steps, **carried}

    @state.setter
    def state(self, values):
        names = carried_names(self)
        if not isinstance(values, dict) or set(values) != {"step", *names}:
            raise ValueError(f"state must be a dict of {', '.join(('step', *names))}, got {values!r}")
        cdef int64_t step = whole_number(values["step"])
        rule = TABLE[own(self).options.rule]
        cdef double[:] carried = np.array([stored(rule, name, number(name, values[name])) for name in names])
        self.steps = step
        set_carried(self, carried)

    cdef void begin_step(self) noexcept nogil:
        cdef Row *row = &own(self).step
        cdef Clock clock
        cdef unsigned long long mode = fp_plain()
        own(self).begun = True
        row.rule = own(self).options.rule
        row.scalars = own(self).options.scalars
        if self.steps < INT64_MAX:
            self.steps += 1
        clock = KERNELS.clocks[row.rule]
        if clock != NULL:
            clock(row.scalars, self.steps, row.carried)
        (<Head *>row.scalars).sign *= self.grad_scale
        fp_restore(mode)

    cdef void update_float32(self, float **arrays, Py_ssize_t size) noexcept nogil:
        run_update(own(self), <void **>arrays, FLOAT32, size)

    cdef void update_float64(self, double **arrays, Py_ssize_t size) noexcept nogil:
        run_update(own(self), <void **>arrays, FLOAT64, size)


cdef inline Own *own(Kernel kernel) noexcept nogil:
    return <Own *>kernel._own


cdef dict shown_options(Kernel kernel):
    group = kernel.optimizer.param_groups[0]
    return {name: group[name] for name in kernel.optimizer.defaults if name in group}


cdef tuple carried_names(Kernel kernel):
    return TABLE[own(kernel).options.rule].carried


cdef object read(Kernel kernel, object optimizer):
    """Take over the optimizer's options, all or none; return the initial values of the carried numbers."""
    cdef Row row
    cdef unsigned long long mode = fp_plain()
    try:
        group = optimizer.param_groups[0]
        optimizer._check_options(group)
        rule = rule_of(optimizer, group)
        row = own(kernel).options
        fill_row(&row, rule, group)
        if kernel.state_names is not None:
            check_same(kernel, rule.states, rule.carried)
        names = rule.states
        first = [number(name, rule.start_of(name, group)) for name in names]
        first += [stored(rule, name, number(name, rule.start_of(name, group))) for name in rule.carried]
    finally:
        fp_restore(mode)
    kernel.initial_values = tuple(first[:len(names)])
    kernel.state_names = names
    own(kernel).options = row
    own(kernel).streams = 2 + len(names)
    return np.array(first[len(names):])


cdef int refuse_kind(object optimizer) except -1:
    raise TypeError(f"{optimizer.__name__} has no kernel: it is not element-wise")


cdef bint asks_norm(object rule, dict group) except -1:
    """Whether the rule, with these options, asks for the norm of all gradients."""
    if "total_norm" not in rule.scalars:
        return False
    return rule.values(group)[rule.scalars.index("max_grad_norm")] != INFINITY


cdef object rule_of(object optimizer, dict group):
    rule = engine_rule_of(optimizer, group)
    if rule is None or rule.scope or asks_norm(rule, group):
        refuse_kind(type(optimizer))
    if rule not in TABLE:       # by identity: numbers of others are not in the kernels' table
        raise ValueError(f"{rule!r} is not in the table of rules")
    return rule


cdef int fill_row(Row *row, object rule, dict group) except -1:
    cdef Py_ssize_t k
    cdef list scalars = rule.values(group)
    row.rule = rule.number
    for k in range(min(len(scalars), <Py_ssize_t>MAX_SCALARS)):
        row.scalars[k] = scalars[k]
    return 0


cdef int check_same(Kernel kernel, tuple names, tuple carried) except -1:
    if kernel.state_names != names:
        raise ValueError(
            f"the options ask for the state {list(names)}, but this kernel was made with "
            f"{list(kernel.state_names)}: make another"
        )
    if carried_names(kernel) != carried:
        raise ValueError(
            f"the options ask for the numbers {list(carried)}, but this kernel was made with "
            f"{list(carried_names(kernel))}: make another"
        )
    return 0


cdef double stored(object rule, str name, double value) except? -1:
    """A carried number as the state of an optimizer keeps it."""
    cdef unsigned long long mode = fp_plain()
    if rule.dtype_of(name, None) == np.float32:
        value = <float>value
    fp_restore(mode)
    return value


cdef void set_carried(Kernel kernel, const double[:] carried) noexcept:
    cdef unsigned long long mode = fp_plain()
    cdef Py_ssize_t k
    for k in range(min(carried.shape[0], <Py_ssize_t>MAX_CARRIED)):
        own(kernel).step.carried[k] = carried[k]
    fp_restore(mode)


cdef double number(str name, object value) except? -1:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None


cdef int64_t whole_number(object step) except? -1:
    """A step count; a float if it is whole, as torch's are."""
    if isinstance(step, (float, np.floating)) and step == step and abs(step) < 2.0**63:
        whole = int(step) if step == int(step) else None
    else:
        whole = int(step) if isinstance(step, (int, np.integer)) else None
    # One less than the largest, so that a step can begin.
    if whole is None or not 0 <= whole < INT64_MAX:
        raise ValueError(f"step must be a whole number from 0 to {INT64_MAX - 1}, got {step!r}")
    return whole


cdef struct Call:           # a table of one tensor in one chunk
    Table table
    Tensor tensor
    Chunk chunk
    Py_ssize_t bundles[2]


cdef inline void lay(Call *call, int dtype, Py_ssize_t size) noexcept nogil:
    memset(call, 0, sizeof(Call))
    call.tensor.dtype = dtype
    call.tensor.size = size
    call.chunk.stop = size
    call.bundles[1] = 1
    call.table.tensors = &call.tensor
    call.table.chunks = &call.chunk
    call.table.bundles = call.bundles


cdef inline void run_update(Own *own, void **arrays, int dtype, Py_ssize_t size) noexcept nogil:
    cdef Call call
    cdef int k
    if own.streams == 0:
        return
    lay(&call, dtype, size)
    for k in range(own.streams):
        call.tensor.streams[k] = arrays[k]
    call.table.rows = &own.step
    call.table.phase = UPDATE
    KERNELS.run(&call.table, 0)


cdef inline double sum_squares(const void *array, int dtype, Py_ssize_t size,
                               double before) noexcept nogil:
    # Chunk by chunk, as the norm of a step. Both numbers are where a kernel may see them: see (c).
    cdef Call call
    cdef double partial[2]
    cdef Py_ssize_t start = 0
    cdef unsigned long long mode = fp_plain()
    lay(&call, dtype, size)
    call.tensor.streams[0] = <void *>array
    call.table.phase = REDUCE
    call.table.reduction = SUM_SQUARES
    call.table.partials = partial
    partial[1] = before
    while start < size:
        call.chunk.start = start
        start = min(start + chunk_elements(size), size)
        call.chunk.stop = start
        KERNELS.run(&call.table, 0)
        partial[1] = partial[1] + partial[0]
    fp_restore(mode)
    return partial[1]


cdef double sum_squares_float32(const float *array, Py_ssize_t size, double before) noexcept nogil:
    return sum_squares(array, FLOAT32, size, before)


cdef double sum_squares_float64(const double *array, Py_ssize_t size, double before) noexcept nogil:
    return sum_squares(array, FLOAT64, size, before)


include "kernel/buffers.pxi"
include "kernel/interface.pxi"

# Parameters, and properties of arrays.

cdef extern from "arrays.h" nogil:
    bint array_is_just_like(PyObject *view, PyObject *object)
    ctypedef struct ArrayTrace:
        const void *address
        const void *dtype
        Py_ssize_t size
    void array_trace(PyObject *array, ArrayTrace *trace)
    bint array_is_as_it_was(PyObject *array, const ArrayTrace *trace)
    int array_layout(PyObject *array)
    cnp.npy_intp array_size(PyObject *array)
    bint array_is_writable(PyObject *array)
    char *array_data(PyObject *array)

cdef class ParameterBase:
    """ParameterBase(data, *, grad=None, dtype=None)
--

The two slots of a Parameter, readable without an attribute look-up."""

    cdef cnp.ndarray _data
    cdef object _grad
    cdef object __weakref__

    def __init__(self, data, *others, grad=None, dtype=None, **unknown):
        if others or unknown:
            from cyoptim._arrays.doors import refuse_arguments
            refuse_arguments(others, unknown)
        if dtype is not None:
            from cyoptim._arrays.rounding import converted
            check_kind(data, "Parameter")
            data = converted(data, dtype)
        self.data = data
        self.grad = grad

    @property
    def data(self) -> np.ndarray:
        """The array that optimizers change in place."""
        return held_data(self)

    @data.setter
    def data(self, value):
        cdef ObjectGuard guard
        cdef object before          # its end may run other code
        if isinstance(value, ParameterBase):
            value = held_data(<ParameterBase>value)
        if not cnp.PyArray_CheckExact(value):
            check_kind(value, "Parameter")
        object_lock(&guard, self)
        before, self._data = self._data, value
        object_unlock(&guard)

    @property
    def grad(self):
        """The gradient, an array of the parameter's shape, a sparse gradient, or None."""
        return held_gradient(self)

    @grad.setter
    def grad(self, value):
        if value is not None and not cnp.PyArray_CheckExact(value):
            value = checked_gradient(value)
        put_gradient(self, value)

    def __setattr__(self, name, value):
        try:
            PyObject_GenericSetAttr(self, name, value)
        except AttributeError as error:
            refuse_attribute(self, name, error)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # The array's own, which it takes back itself.
        PyObject_GetBuffer(held_data(self), buffer, flags)


# Any thread may replace data and gradient at any moment.

cdef object held_data(ParameterBase param):
    cdef ObjectGuard guard
    cdef object data
    object_lock(&guard, param)
    data = param._data
    object_unlock(&guard)
    return data


cdef inline const void *data_address(ParameterBase param) noexcept:
    """The address of the array, to be compared."""
    cdef ObjectGuard guard
    cdef const void *data
    object_lock(&guard, param)
    data = <void *>param._data
    object_unlock(&guard)
    return data


cdef object held_gradient(ParameterBase param):
    cdef ObjectGuard guard
    cdef object grad
    object_lock(&guard, param)
    grad = param._grad
    object_unlock(&guard)
    return grad


cdef int put_gradient(ParameterBase param, object grad) except -1:
    cdef ObjectGuard guard
    cdef object before              # its end may run other code
    object_lock(&guard, param)
    before, param._grad = param._grad, grad
    object_unlock(&guard)
    return 0


cdef int check_kind(object value, str what) except -1:
    """Refuse objects that are not arrays, and masked arrays."""
    from cyoptim._arrays.doors import as_written, check_unmasked
    if not cnp.PyArray_Check(value):
        raise TypeError(
            f"{what} holds a NumPy array, got {type(value).__name__}: {as_written(value)}"
        )
    check_unmasked(value, what)
    return 0


cdef object checked_gradient(object value):
    """The value to store as a gradient."""
    if cnp.PyArray_Check(value):
        check_kind(value, "the gradient of a Parameter")
    elif isinstance(value, np.generic):
        value = np.asarray(value)
    elif not is_sparse(value):
        from cyoptim._arrays.doors import array_of, as_written
        array = array_of(value)     # of another library, such as JAX, without a copy
        if not cnp.PyArray_Check(array):
            raise TypeError(
                "a gradient is an array, a pair (rows, values), a SciPy sparse array or "
                f"None, got {type(value).__name__}: {as_written(value)}"
            )
        value = array
    return value


cdef int refuse_attribute(object param, object name, object error) except -1:
    """Tell the name that was meant, if it is near; an option is one of a group."""
    from cyoptim._arrays.doors import attribute_hint
    hint = attribute_hint(name)
    if hint and not hasattr(type(param), name):
        raise AttributeError(f"a {type(param).__name__} has no attribute {name!r}{hint}") from None
    raise error


cdef inline object as_base(cnp.ndarray array):
    """The array without the arithmetic of a subclass, such as a matrix's."""
    return array if cnp.PyArray_CheckExact(array) else np.asarray(array)


cdef class Watch:
    """Counts the calls in which a user puts, replaces or removes entries of the state mappings."""

    cdef SharedNumber changes

    def report(self) -> None:
        """Count one more."""
        shared_next(&self.changes)


cdef enum Layout:
    OVERLAPPING = 0     # elements share memory: cannot be updated in place
    STRIDED = 1         # distinct elements with gaps, or in reverse
    DENSE = 2           # a permutation of C order, without gaps


cdef Layout layout_of(cnp.ndarray a):
    # Axes from the smallest stride up: without gaps each stride is the extent of the axes below.
    cdef Py_ssize_t ndim = cnp.PyArray_NDIM(a), k
    cdef Py_ssize_t extent = cnp.PyArray_ITEMSIZE(a), reach = extent, stride, dim
    cdef bint dense = True
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_ISALIGNED(a):
        return DENSE
    if cnp.PyArray_SIZE(a) <= 1:
        return DENSE if cnp.PyArray_SIZE(a) == 0 or cnp.PyArray_ISALIGNED(a) else STRIDED
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


def memory_bounds(cnp.ndarray a not None):
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


def is_self_overlapping(cnp.ndarray a not None) -> bool:
    """Whether two elements of the array may be the same memory."""
    return layout_of(a) == OVERLAPPING


def is_dense(cnp.ndarray a not None) -> bool:
    """Whether the array's elements fill one aligned block of memory, in any order of the axes."""
    return layout_of(a) == DENSE


def in_order(value) -> np.ndarray:
    """The array if its elements fill one aligned block of memory in C order, or else a copy for which this is true."""
    cdef cnp.ndarray array = value if cnp.PyArray_CheckExact(value) else np.asarray(value)
    if cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISALIGNED(array):
        return array
    return array.copy(order="C")


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


def same_layout_as(cnp.ndarray a not None, cnp.ndarray b not None) -> bool:
    """Whether element k in memory is the same element in both, and of the same type."""
    return same_layout(a, b)


cdef inline bint has_kernels(cnp.ndarray a) except -1:
    """Whether the array is aligned and of a dtype that kernels work on, in this machine's order."""
    return cnp.PyArray_ISBEHAVED_RO(a) and (stored_as(a) != NULL or is_dtype(a.dtype))


cdef bint same_places(cnp.ndarray a, cnp.ndarray b) noexcept:
    """As same_layout, of arrays whose elements may be of any type and size."""
    cdef int ndim = cnp.PyArray_NDIM(a), k
    if ndim != cnp.PyArray_NDIM(b) or not cnp.PyArray_ISBEHAVED_RO(b):
        return False
    for k in range(ndim):
        if cnp.PyArray_DIM(a, k) != cnp.PyArray_DIM(b, k):
            return False
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return True
    for k in range(ndim):
        if cnp.PyArray_DIM(a, k) > 1 and (cnp.PyArray_STRIDE(a, k) * cnp.PyArray_ITEMSIZE(b)
                                         != cnp.PyArray_STRIDE(b, k) * cnp.PyArray_ITEMSIZE(a)):
            return False
    return True


cdef inline int check_dense(cnp.ndarray a) except -1:
    """Refuse an array whose elements a kernel cannot read one after the other."""
    if a is None or not has_kernels(a) or not (
            cnp.PyArray_IS_C_CONTIGUOUS(a) or layout_of(a) == DENSE):
        refuse_array(a)
    return 0


cdef int refuse_array(a) except -1:
    if a is None:
        raise TypeError("expected an array, got None")
    raise ValueError(
        f"expected an aligned array of {supported_dtypes()}, without gaps, got "
        f"dtype {a.dtype.str}, shape {a.shape} and strides {a.strides}"
    )


cdef inline Py_ssize_t count_reals(cnp.ndarray a) noexcept:
    # A complex number is a pair of reals to every rule.
    return cnp.PyArray_SIZE(a) * (2 if cnp.PyArray_ISCOMPLEX(a) else 1)


# Of the doors, which import this module; to import them at each call would take as long as the call.
cdef object ARRAY_OF = None


cdef object array_of(object grad):
    """A gradient of another library as an array that views its memory; all else as it is."""
    global ARRAY_OF
    if ARRAY_OF is None:
        from cyoptim._arrays import doors
        ARRAY_OF = doors.array_of
    return ARRAY_OF(grad)


cdef bint is_sparse(object grad) except -1:
    from cyoptim._arrays.sparse import is_sparse
    return is_sparse(grad)


cdef bint is_tensor(object value) except -1:
    from cyoptim._arrays.doors import is_tensor
    return is_tensor(value)


cdef bint is_distributed(object value) except -1:
    from cyoptim._arrays.doors import is_distributed
    return is_distributed(value)

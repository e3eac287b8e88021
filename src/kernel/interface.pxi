# The functions of include/cyoptim.h, for C, C++ and numba.
#
# A CyoptimKernel is the Kernel object itself. Functions without the GIL count no references: who calls them
# keeps the object alive.

cdef extern from "cyoptim.h" nogil:
    enum:
        CYOPTIM_API_VERSION
    ctypedef struct CyoptimKernel
    ctypedef struct CyoptimAPI:
        int32_t version
        CyoptimKernel *(*kernel)(PyObject *) noexcept
        int32_t (*array_count)(const CyoptimKernel *) noexcept
        int64_t (*steps)(const CyoptimKernel *) noexcept
        void (*set_grad_scale)(CyoptimKernel *, double) noexcept
        void (*begin_step)(CyoptimKernel *) noexcept
        void (*update_float32)(const CyoptimKernel *, float **, Py_ssize_t) noexcept
        void (*update_float64)(const CyoptimKernel *, double **, Py_ssize_t) noexcept
        double (*sum_squares_float32)(const float *, Py_ssize_t, double) noexcept
        double (*sum_squares_float64)(const double *, Py_ssize_t, double) noexcept


cdef CyoptimKernel *c_kernel(PyObject *object) noexcept:
    if isinstance(<object>object, Kernel):
        return <CyoptimKernel *>object
    PyErr_SetString(TypeError, b"expected a cyoptim.kernel.Kernel")
    return NULL


cdef int32_t c_array_count(const CyoptimKernel *kernel) noexcept nogil:
    return own(<Kernel><void *>kernel).streams


cdef int64_t c_steps(const CyoptimKernel *kernel) noexcept nogil:
    return (<Kernel><void *>kernel).steps


cdef void c_set_grad_scale(CyoptimKernel *kernel, double scale) noexcept nogil:
    (<Kernel><void *>kernel).grad_scale = scale


cdef void c_begin_step(CyoptimKernel *kernel) noexcept nogil:
    (<Kernel><void *>kernel).begin_step()


cdef void c_update_float32(const CyoptimKernel *kernel, float **arrays, Py_ssize_t size) noexcept nogil:
    run_update(own(<Kernel><void *>kernel), <void **>arrays, FLOAT32, size)


cdef void c_update_float64(const CyoptimKernel *kernel, double **arrays, Py_ssize_t size) noexcept nogil:
    run_update(own(<Kernel><void *>kernel), <void **>arrays, FLOAT64, size)


cdef CyoptimAPI API
API.version = CYOPTIM_API_VERSION
API.kernel = c_kernel
API.array_count = c_array_count
API.steps = c_steps
API.set_grad_scale = c_set_grad_scale
API.begin_step = c_begin_step
API.update_float32 = c_update_float32
API.update_float64 = c_update_float64
API.sum_squares_float32 = sum_squares_float32
API.sum_squares_float64 = sum_squares_float64

_C_API = PyCapsule_New(&API, b"cyoptim.kernel._C_API", NULL)

# For c_functions(): the address of each, and its arguments as the names of types of ctypes.
_ADDRESSES = {
    "array_count": (<uintptr_t>API.array_count, "c_int32", ["c_ssize_t"]),
    "steps": (<uintptr_t>API.steps, "c_int64", ["c_ssize_t"]),
    "set_grad_scale": (<uintptr_t>API.set_grad_scale, None, ["c_ssize_t", "c_double"]),
    "begin_step": (<uintptr_t>API.begin_step, None, ["c_ssize_t"]),
    "update_float32": (<uintptr_t>API.update_float32, None, ["c_ssize_t"] * 3),
    "update_float64": (<uintptr_t>API.update_float64, None, ["c_ssize_t"] * 3),
    "sum_squares_float32":
        (<uintptr_t>API.sum_squares_float32, "c_double", ["c_ssize_t", "c_ssize_t", "c_double"]),
    "sum_squares_float64":
        (<uintptr_t>API.sum_squares_float64, "c_double", ["c_ssize_t", "c_ssize_t", "c_double"]),
}


def c_functions():
    """The functions of ``cyoptim.h`` as ctypes functions, for numba and ctypes.

    Pointers are whole numbers: a kernel's ``address``, an array's ``ctypes.data``.

    Returns
    -------
    types.SimpleNamespace
        ``array_count``, ``steps``, ``set_grad_scale``, ``begin_step``, ``update_float32``,
        ``update_float64``, ``sum_squares_float32`` and ``sum_squares_float64``.

    Examples
    --------
    >>> import cyoptim
    >>> from cyoptim.kernel import Kernel, c_functions
    >>> kernel = Kernel(cyoptim.Adam)
    >>> c_functions().array_count(kernel.address)
    4
    """
    import ctypes
    from types import SimpleNamespace

    found = SimpleNamespace()
    for name, (address, result, arguments) in _ADDRESSES.items():
        kinds = [getattr(ctypes, kind) for kind in arguments]
        kind = ctypes.CFUNCTYPE(None if result is None else getattr(ctypes, result), *kinds)
        setattr(found, name, kind(address))
    return found

# Tensors of other libraries, read without any Python code of theirs.

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

cdef enum:
    OF_PARAMETER = 0
    OF_GRADIENT = 1


cdef class Exchange:
    """The exchange tables (DLPack's C interface) of the libraries that tensors come from."""

    cdef list types             # of parameters and of gradients: torch's differ
    cdef BorrowFunction borrows[2]

    def __cinit__(self):
        self.types = [None, None]

    cdef bint borrow(self, object tensor, int role, BorrowedTensor *out) except -1:
        """Read a tensor, a parameter or a gradient, through its library's exchange table; False if
        there is none."""
        if type(tensor) is not <object>PyList_GET_ITEM(self.types, role):
            self._find(type(tensor), role)
        if self.borrows[role] == NULL:
            return False
        try:
            self.borrows[role](<void *>tensor, out)
        except Exception:
            # A tensor without plain memory, such as a sparse one: whoever looks at it in detail
            # next raises the error that says so.
            return False
        return True

    cdef int _find(self, object kind, int role) except -1:
        cdef const ExchangeTable *exchange
        self.types[role] = kind
        self.borrows[role] = NULL
        capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
        if capsule is not None:
            exchange = <const ExchangeTable *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
            if exchange.major == DL_MAJOR:
                self.borrows[role] = exchange.borrow
        return 0


cdef bint fits(cnp.ndarray view, BorrowedTensor *tensor) noexcept:
    """Whether the tensor has the view's dtype, shape and strides, in this memory."""
    cdef int ndim = cnp.PyArray_NDIM(view), k
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(view), stride = 1
    cdef const Stored *stored = stored_as(view)
    if (stored == NULL or tensor.device_type != DL_CPU
            or tensor.type_code != (DL_COMPLEX if cnp.PyArray_ISCOMPLEX(view) else stored.kind)
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


cdef bint is_lazy(cnp.ndarray view, object tensor, bint direct) except -1:
    """Whether a tensor that fits has other values than its memory, which the exchange table does not tell.

    torch keeps a conjugate as a flag, and a sign as another. A real tensor has the sign flag only as
    the imaginary part of a conjugate: it is a single element, or has gaps, so that its parameter is not
    updated directly.
    """
    if cnp.PyArray_ISCOMPLEX(view):
        return tensor.is_conj() or tensor.is_neg()
    return (not direct or array_size(<PyObject *>view) == 1) and tensor.is_neg()

# Tensors of other libraries, read without a copy or an array.

cdef extern from "dlpack_exchange.h" nogil:
    enum:
        DL_CPU
        DL_FLOAT
        DL_BFLOAT
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
    ctypedef int (*BorrowFunction)(void *, BorrowedTensor *) noexcept with gil
    ctypedef struct ExchangeTable:
        uint32_t major
        BorrowFunction borrow

cdef enum:
    OF_PARAMETER = 0
    OF_GRADIENT = 1

cdef enum:
    MAX_DIMS = 64               # NumPy's


cdef class Exchange:
    """Reads tensors: through the exchange table (DLPack's C interface) of their library, or attribute by
    attribute if they are of a torch that has none. Attributes of a subclass may be users' code, and are
    not read."""

    cdef list types             # of parameters and of gradients: torch's differ
    cdef BorrowFunction borrows[2]
    cdef bint by_attributes[2]
    cdef dict formats           # for these: DLPack's code and bits of each dtype
    cdef int64_t extents[2 * MAX_DIMS]      # shape and strides, as attributes told them

    def __cinit__(self):
        self.types = [None, None]

    @cython.final
    cdef bint borrow(self, object tensor, int role, BorrowedTensor *out) except -1:
        """Read a tensor, a parameter or a gradient; False if it cannot be read. The result is valid
        until the next is read."""
        if type(tensor) is not <object>PyList_GET_ITEM(self.types, role):
            self._find(tensor, role)
        # A tensor without plain memory, such as a sparse one, cannot be read: whoever looks at it in
        # detail next raises the error that says so.
        if self.borrows[role] != NULL:
            if self.borrows[role](<void *>tensor, out) == 0:
                return True
            PyErr_Clear()
        elif self.by_attributes[role]:
            try:
                return self._read(tensor, out)
            except Exception:
                pass
        return False

    @cython.final
    cdef bint reads(self, object value) except -1:
        """Whether the value is a torch tensor."""
        return type(value) is self.types[OF_GRADIENT] or is_tensor(value)

    cdef int _find(self, object tensor, int role) except -1:
        cdef const ExchangeTable *exchange
        self.types[role] = type(tensor)
        self.borrows[role], self.by_attributes[role] = NULL, False
        if is_distributed(tensor):      # the table would tell of the whole, without memory
            return 0
        capsule = getattr(type(tensor), "__dlpack_c_exchange_api__", None)
        if capsule is not None:
            exchange = <const ExchangeTable *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
            if exchange.major == DL_MAJOR:
                self.borrows[role] = exchange.borrow
        if self.borrows[role] == NULL and is_tensor(tensor):
            self._find_attributes(tensor, role)
        return 0

    cdef int _find_attributes(self, object tensor, int role) except -1:
        import torch
        self.by_attributes[role] = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if self.formats is None:
            self.formats = formats_in(torch)
        return 0

    cdef bint _read(self, object tensor, BorrowedTensor *out) except -1:
        cdef int k
        shape, strides, format = tensor.shape, tensor.stride(), self.formats.get(tensor.dtype)
        if format is None or not tensor.is_cpu or len(shape) > MAX_DIMS:
            return False
        out.device_type, out.type_lanes, out.byte_offset = DL_CPU, 1, 0
        out.type_code, out.type_bits = format
        out.ndim, out.shape, out.strides = len(shape), self.extents, self.extents + MAX_DIMS
        for k in range(out.ndim):
            out.shape[k], out.strides[k] = shape[k], strides[k]
        out.data = <void *><uintptr_t>tensor.data_ptr()
        return out.data != NULL or 0 in shape


cdef dict formats_in(object library):
    """DLPack's code and bits of the dtypes that a library has by NumPy's names."""
    cdef dict formats = {}
    for row in DTYPES.values():
        formats[getattr(library, row.name)] = STORED[<int>row._row].kind, 8 * row.size
        if row.complex is not None:
            formats[getattr(library, row.complex.name)] = DL_COMPLEX, 8 * row.complex.itemsize
    return formats


cdef bint fits(cnp.ndarray view, BorrowedTensor *tensor) noexcept:
    """Whether the tensor has the view's dtype, shape and strides, in this memory."""
    cdef int ndim = cnp.PyArray_NDIM(view), k
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(view), stride = 1
    cdef bint alike = True
    cdef const Stored *stored = stored_as(view)
    if (stored == NULL or tensor.device_type != DL_CPU
            or tensor.type_code != (DL_COMPLEX if cnp.PyArray_ISCOMPLEX(view) else stored.kind)
            or tensor.type_lanes != 1 or tensor.type_bits != 8 * itemsize
            or tensor.ndim != ndim):
        return False
    for k in range(ndim - 1, -1, -1):
        if tensor.shape[k] != cnp.PyArray_DIM(view, k):
            return False
        if tensor.strides != NULL:
            stride = tensor.strides[k]
        if tensor.shape[k] > 1 and stride * itemsize != cnp.PyArray_STRIDE(view, k):
            alike = False
        stride *= tensor.shape[k]
    return alike or cnp.PyArray_SIZE(view) == 0     # without elements strides mean nothing


cdef inline bint is_lazy(cnp.ndarray view, object tensor, bint direct) except -1:
    """Whether a tensor that fits has other values than its memory, which the exchange table does not tell.

    torch keeps a conjugate as a flag, and a sign as another. A real tensor has the sign flag only as
    the imaginary part of a conjugate: it is a single element, or has gaps, so that its parameter is not
    updated directly.
    """
    if cnp.PyArray_ISCOMPLEX(view):
        return tensor.is_conj() or tensor.is_neg()
    return (not direct or array_size(<PyObject *>view) == 1) and tensor.is_neg()


def ordinary_arrays(list values not None) -> list:
    """The memory of many arrays and tensors, as arrays: of each value that is a plain array, or a torch tensor of floats
    that can be read at once. None for every other, which has to be looked at in detail."""
    cdef Exchange exchange = Exchange()
    cdef BorrowedTensor tensor
    cdef list arrays = []
    for value in values:
        found = None
        if cnp.PyArray_CheckExact(value):
            if cnp.PyArray_ISBEHAVED_RO(value) and stored_as(value) != NULL:
                found = value
        elif value is not None and exchange.reads(value) and exchange.borrow(value, OF_GRADIENT, &tensor):
            found = array_over(&tensor, value)
        arrays.append(found)
    return arrays


cdef object array_over(BorrowedTensor *tensor, object owner):
    """An array over the memory of a dense CPU tensor of floats; None for another tensor."""
    cdef cnp.npy_intp dims[MAX_DIMS]
    cdef const Stored *stored = NULL
    cdef Py_ssize_t stride = 1
    cdef int k
    for k in range(N_DTYPES):
        if STORED[k].kind == tensor.type_code and 8 * STORED[k].size == tensor.type_bits:
            stored = &STORED[k]
    if (stored == NULL or stored.number < 0 or tensor.device_type != DL_CPU or tensor.type_lanes != 1
            or tensor.data == NULL or tensor.ndim > MAX_DIMS):
        return None
    for k in range(tensor.ndim - 1, -1, -1):
        if tensor.strides != NULL and tensor.shape[k] > 1 and tensor.strides[k] != stride:
            return None
        dims[k] = tensor.shape[k]
        stride *= tensor.shape[k]
    if owner.is_neg():          # see is_lazy()
        return None
    array = cnp.PyArray_SimpleNewFromData(tensor.ndim, dims, stored.number, <char *>tensor.data + tensor.byte_offset)
    cnp.set_array_base(array, owner)
    return array if cnp.PyArray_ISBEHAVED_RO(array) else None


def are_apart(list arrays not None) -> bool:
    """Whether each of these arrays is dense, and begins at another address."""
    cdef set places = set()
    for array in arrays:
        if layout_of(<cnp.ndarray?>array) != DENSE:
            return False
        places.add(<uintptr_t>cnp.PyArray_DATA(array))
    return len(places) == len(arrays)

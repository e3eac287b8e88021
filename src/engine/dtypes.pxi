# Types of elements, one row each; all other code asks here.

DTYPES = {}             # by name, to be read from Python

cdef struct Stored:
    int code            # in the tables of a run
    int number          # NumPy's numbers of the type,
    int complex_number  # and of the complex one whose parts are of it; -1: none
    int kind            # DLPack's type code
    Py_ssize_t size     # bytes

cdef enum:
    N_DTYPES = 2

cdef Stored STORED[N_DTYPES]


class Dtype:
    """A type of elements.

    Attributes
    ----------
    name : str
        NumPy's name and torch's.
    code : int
        Its number in the tables of a run.
    size : int
        Bytes of an element.
    safetensors : str
        Its name in the safetensors format.
    numpy, complex : numpy.dtype
        The type, and the complex one whose parts are of it.
    arithmetic : str
        The type in which rules compute.
    tolerance : float
        How far a trajectory of 60 steps may be from the same in exact arithmetic, in parts of the larger
        of 1 and the parameter.
    """

    def __init__(self, name, code, size, safetensors, arithmetic, tolerance, complex):
        self.name, self.code, self.size, self.safetensors = name, code, size, safetensors
        self.arithmetic, self.tolerance = arithmetic, tolerance
        self.numpy, self.complex = np.dtype(name), np.dtype(complex)

    def __repr__(self):
        return f"<dtype {self.name}>"


cdef int add_dtype(str name, int code, str safetensors, int kind, str arithmetic, double tolerance,
                   str complex) except -1:
    dtype = Dtype(name, code, stored_size(code), safetensors, arithmetic, tolerance, complex)
    DTYPES[name] = dtype
    STORED[code].code, STORED[code].size, STORED[code].kind = code, stored_size(code), kind
    STORED[code].number, STORED[code].complex_number = dtype.numpy.num, dtype.complex.num
    return 0


# name, number, safetensors' name, DLPack's code, type of the arithmetic, tolerance, complex type
#
# The same operations in another order, 60 times in float64, differ by some 1e-14. In float32 each step rounds
# to 6e-8 of values of size 1; 60 steps of that, and the steps' own rounding errors that momentum carries on, stay
# below 3e-5.
add_dtype("float32", FLOAT32, "F32", DL_FLOAT, "float32", 3e-5, "complex64")
add_dtype("float64", FLOAT64, "F64", DL_FLOAT, "float64", 1e-10, "complex128")


cdef inline const Stored *stored_as(cnp.ndarray a) noexcept:
    """The row of an array's type; NULL if it is not in the table."""
    cdef int number = cnp.PyArray_TYPE(a), k
    for k in range(N_DTYPES):
        if number == STORED[k].number or number == STORED[k].complex_number:
            return &STORED[k]
    return NULL


cdef inline int dtype_code(cnp.ndarray a) except -1:
    """The number of an array's type."""
    cdef const Stored *stored = stored_as(a)
    if stored == NULL:
        raise TypeError(f"expected an array of {' or '.join(DTYPES)}, or complex of these, got {a.dtype}")
    return stored.code


cdef inline Py_ssize_t itemsize(int code) noexcept nogil:
    return stored_size(code)

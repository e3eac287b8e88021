# Types of elements, one row each; all other code asks here.

DTYPES = {}             # by name, to be read from Python

cdef struct Stored:
    int code            # in the tables of a run
    int arithmetic      # the code of the type in which rules compute
    int number          # NumPy's number of the type; -1: not known yet,
    int complex_number  # and of the complex one whose parts are of it; -1: none
    int kind            # DLPack's type code
    Py_ssize_t size     # bytes

cdef enum:
    MOST_DTYPES = 8
    UNKNOWN = -1

cdef Stored STORED[MOST_DTYPES]
cdef int N_DTYPES = 0


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
        The type, and the complex one whose parts are of it, or None. A type that NumPy lacks is that of the
        package ml_dtypes, or if that is not installed, one of unsigned integers of its size.
    is_numpys : bool
        Whether NumPy has it.
    arithmetic : str
        The type in which rules compute.
    tolerance : float
        How far a trajectory of 60 steps may be from the same in exact arithmetic, in parts of the larger
        of 1 and the parameter.
    """

    def __init__(self, name, row, safetensors, arithmetic, tolerance, is_numpys, complex):
        self.name, self.safetensors, self.is_numpys = name, safetensors, is_numpys
        self.code, self.size = STORED[row].code, STORED[row].size
        self.arithmetic, self.tolerance = arithmetic, tolerance
        self.complex = None if complex is None else np.dtype(complex)
        self._row, self._numpy = row, np.dtype(name) if is_numpys else None

    @property
    def numpy(self):
        if self._numpy is None:
            self._numpy = dtype_beyond_numpy(self.name)
            STORED[<int>self._row].number = self._numpy.num
        return self._numpy

    def __repr__(self):
        return f"<dtype {self.name}>"


cdef dict BEYOND_NUMPY = {"bfloat16": 2, "float8_e4m3fn": 1}     # types that NumPy lacks: bytes of an element
cdef dict FOUND_BEYOND_NUMPY = {}


def dtype_beyond_numpy(str name not None) -> np.dtype:
    """A type that NumPy lacks: of the package that has it, or unsigned integers that carry its name along."""
    if name not in FOUND_BEYOND_NUMPY:
        try:
            import ml_dtypes
            dtype = np.dtype(getattr(ml_dtypes, name))
        except (ImportError, AttributeError):       # it is not there, or too old
            dtype = np.dtype(f"u{BEYOND_NUMPY[name]}", metadata={"cyoptim": name})
        FOUND_BEYOND_NUMPY[name] = dtype
    return FOUND_BEYOND_NUMPY[name]


cdef dict NAMES_OF_NUMBERS = {}     # dtype.name takes NumPy a microsecond

cdef enum:
    FIRST_OF_OTHERS = 256           # NumPy's number of the first type that another package adds


def name_of_dtype(dtype not None) -> str:
    """The name of a type, also of one that NumPy lacks."""
    metadata = dtype.metadata
    if metadata is not None:
        return metadata.get("cyoptim", dtype.name)
    name = NAMES_OF_NUMBERS.get(dtype.num)
    if name is None:
        name = dtype.name
        if dtype.num >= FIRST_OF_OTHERS or dtype.kind in "biufc":   # else it may have any size
            NAMES_OF_NUMBERS[dtype.num] = name
    return name


cdef int add_dtype(str name, int code, str safetensors, int kind, str arithmetic, double tolerance,
                   bint is_numpys, str parts_of) except -1:
    global N_DTYPES
    cdef Stored *row = &STORED[N_DTYPES]
    row.code, row.size, row.kind = code, stored_size(code), kind
    row.number = np.dtype(name).num if is_numpys else UNKNOWN
    row.complex_number = UNKNOWN if parts_of is None else np.dtype(parts_of).num
    dtype = DTYPES[name] = Dtype(name, N_DTYPES, safetensors, arithmetic, tolerance, is_numpys, parts_of)
    row.arithmetic = DTYPES[arithmetic].code
    N_DTYPES += 1
    return 0


# name, number, safetensors' name, DLPack's code, type of the arithmetic, tolerance, whether NumPy has it, complex type
#
# The same operations in another order, 60 times in float64, differ by some 1e-14. In float32 each step rounds
# to 6e-8 of values of size 1; 60 steps of that, and the steps' own rounding errors that momentum carries on, stay
# below 3e-5. What is stored in fewer bits is rounded at each step by up to 2**-9 (bfloat16) or 2**-12 (float16) of itself.
add_dtype("float32", FLOAT32, "F32", DL_FLOAT, "float32", 3e-5, True, "complex64")
add_dtype("float64", FLOAT64, "F64", DL_FLOAT, "float64", 1e-10, True, "complex128")
add_dtype("bfloat16", BFLOAT16, "BF16", DL_BFLOAT, "float32", 60 * 2.0**-9, False, None)
add_dtype("float16", FLOAT16, "F16", DL_FLOAT, "float32", 60 * 2.0**-12, True, None)


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
        stored = stored_beyond_numpy(a)
    return stored.code


cdef inline int computed_code(cnp.ndarray a) except -1:
    """The number of an array's type, in which rules compute."""
    cdef int code = dtype_code(a)
    if code > FLOAT64:
        raise TypeError(f"expected an array of float32 or float64, or complex of these, got {a.dtype}")
    return code


cdef const Stored *stored_beyond_numpy(cnp.ndarray a) except NULL:
    """The row of a type of which no array has been seen yet."""
    dtype = a.dtype
    row = DTYPES.get(name_of_dtype(dtype))
    if row is None or row.is_numpys or row.numpy != dtype:
        raise TypeError(f"expected an array of {supported_dtypes()}, got {dtype}")
    return &STORED[<int>row._row]


def is_dtype(dtype not None) -> bool:
    """Whether arrays of this dtype, native or not, can be parameters."""
    row = DTYPES.get(name_of_dtype(dtype))
    return dtype.num in NUMPYS or (row is not None and row.numpy == dtype)


cdef frozenset NUMPYS = frozenset([dtype.num for row in DTYPES.values() if row.is_numpys
                                   for dtype in (row.numpy, row.complex) if dtype is not None])


def supported_dtypes() -> str:
    """For messages: the types that arrays of parameters may have."""
    *names, last = DTYPES
    return f"{', '.join(names)} or {last}, or complex of the first two"


cdef inline int arithmetic_code(int code) noexcept:
    """The number of the type in which rules compute with elements of a type."""
    return code if code <= FLOAT64 else FLOAT32


cpdef object arithmetic_dtype(cnp.ndarray a):
    """The dtype in which rules compute with an array's elements."""
    return FLOAT32_DTYPE if is_sixteen(a) else a.dtype


cdef inline bint is_sixteen(cnp.ndarray a) except -1:
    """Whether an array's elements have 16 bits."""
    cdef const Stored *stored = stored_as(a)
    if stored == NULL and is_dtype(a.dtype):    # which looks for the type, of which no array had been seen yet
        stored = stored_as(a)
    return stored != NULL and stored.code > FLOAT64


cdef object FLOAT32_DTYPE = np.dtype(np.float32)


cdef inline Py_ssize_t itemsize(int code) noexcept nogil:
    return stored_size(code)

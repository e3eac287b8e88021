# Where new state is put.

cdef enum:
    ROOM_MOST = 65536       # bytes of an array that is worth a place beside others
    ROOM_NUMBER = 8         # bytes for a number without axes


cdef class Room:
    """Memory for the state of a list of parameters.

    Every array begins a line of cache, so that no vector of the kernels lies in two: up to a tenth
    of the time of a step whose arrays are in the cache. And under each name the arrays of small
    parameters lie in one block, in order: where arrays are apart, the processor's prefetching
    begins anew with each, up to a fifth of the time for a thousand arrays of a thousand elements.

    Parameters
    ----------
    views : list of ndarray
        The parameters' memory, each of which may ask for one array of each name.
    """

    cdef Py_ssize_t size    # of a block
    cdef Py_ssize_t count   # of parameters
    cdef dict free          # per name: what is left of its block

    def __init__(self, list views not None):
        self.free = {}
        self.count = len(views)
        self.size = sum([room_size(view) for view in views if cnp.PyArray_NBYTES(view) <= ROOM_MOST])

    def number(self, str name, value, dtype) -> np.ndarray:
        """An array without axes that holds this number, of up to eight bytes."""
        places = self.free.get((name, dtype))
        if places is None or not len(places):
            places = zeroed_lines(ROOM_NUMBER * max(self.count, 1))
        self.free[name, dtype] = places[ROOM_NUMBER:]
        number = np.ndarray((), dtype, buffer=places)
        number[...] = value
        return number

    def zeros(self, str name, cnp.ndarray view not None, dtype=None, str order="K") -> np.ndarray:
        """An array of zeros of the parameter's shape and dtype, or another, in its layout if that is dense, or in
        C order."""
        cdef Py_ssize_t size = room_size(view)
        if (dtype is not None and dtype != view.dtype) or (order == "C" and not cnp.PyArray_IS_C_CONTIGUOUS(view)):
            return np.zeros_like(view, dtype=dtype, order=order, subok=False)
        if layout_of(view) != DENSE or size == 0:
            return np.zeros_like(view, subok=False)
        lines = self.free.get(name)
        if size > ROOM_MOST:
            lines = zeroed_lines(size)
        else:
            if lines is None or lines.nbytes < size:
                lines = zeroed_lines(max(size, self.size))
            self.free[name] = lines[size:]
        shape, strides = (<object>view).shape, (<object>view).strides
        return np.ndarray(shape, view.dtype, buffer=lines, strides=strides)

    def filled(self, str name, view, array, dtype=None, str order="K") -> np.ndarray:
        """An array like that of zeros(), with the elements of another."""
        own = self.zeros(name, view, dtype, order)
        own[...] = array
        return own

    def read(self, value):
        """A loaded value that may be looked at."""
        return value


cdef Py_ssize_t room_size(cnp.ndarray view) noexcept:
    return (cnp.PyArray_NBYTES(view) + LINE - 1) // LINE * LINE


cdef object zeroed_lines(Py_ssize_t size):
    block = np.zeros(size + LINE, np.uint8)
    cdef Py_ssize_t start = LINE - <uintptr_t>cnp.PyArray_DATA(<cnp.ndarray>block) % LINE
    return block[start:start + size]


cdef int fill(cnp.ndarray zeros, object value) except -1:
    """Fill an array of zeros; the parts of a complex number are state of their own."""
    if value != 0:
        zeros.fill(complex(value, value) if cnp.PyArray_ISCOMPLEX(zeros) else value)
    return 0

# How elements are stored: a codec turns pieces of a stream into the type of the arithmetic, and back.
#
# The arithmetic is in float32 or float64; a stream of that type is read and written where it is. A stream of
# another type passes through a piece in the cache, so that no rule knows of it.
#
# To add a type: its number, its size and its two loops here, its line in engine/dtypes.pxi.
from cython cimport floating

# The types of elements. The arithmetic is in one of the first two; a stream may be stored in any.
cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1


cdef inline Py_ssize_t stored_size(int code) noexcept nogil:
    """Bytes of an element."""
    return sizeof(float) if code == FLOAT32 else sizeof(double)


cdef inline void decode(const void *stored, int code, floating *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if code == FLOAT32:
        for i in range(n):
            out[i] = <floating>(<const float *>stored)[i]
    else:
        for i in range(n):
            out[i] = <floating>(<const double *>stored)[i]


cdef inline void encode(const floating *values, void *stored, int code, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if code == FLOAT32:
        for i in range(n):
            (<float *>stored)[i] = <float>values[i]
    else:
        for i in range(n):
            (<double *>stored)[i] = <double>values[i]

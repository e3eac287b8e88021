# A multiple of one vector added to a multiple of another: stream 0 is the sum and its first term,
# stream 1 the second.
#
# scalars: factor of stream 0, factor of stream 1
from cython cimport floating


cdef inline void axpby(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *x = s[0]
    cdef floating *y = s[1]
    cdef floating a = <floating>h[0], b = <floating>h[1]
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = a * x[i] + b * y[i]

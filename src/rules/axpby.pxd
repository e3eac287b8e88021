# A multiple of one vector added to a multiple of another: stream 0 is the sum and its first term,
# stream 1 the second.
from cython cimport floating


cdef struct Axpby:
    double a, b                             # factors of streams 0 and 1


cdef inline void axpby(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Axpby *h = <const Axpby *>scalars
    cdef floating *x = s[0]
    cdef floating *y = s[1]
    cdef floating a = <floating>h.a, b = <floating>h.b
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = a * x[i] + b * y[i]

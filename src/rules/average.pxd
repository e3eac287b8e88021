# Running average (Polyak & Juditsky 1992; Izmailov et al. 2018): stream 0 is the average, stream 1
# what is averaged.
from cython cimport floating


cdef struct Average:
    double weight                           # of the new value


cdef inline void average(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef floating *mean = s[0]
    cdef floating *x = s[1]
    cdef floating weight = <floating>(<const Average *>scalars).weight
    cdef Py_ssize_t i
    for i in range(n):
        mean[i] = mean[i] + weight * (x[i] - mean[i])


# As the average of weight 1, which would round.
cdef inline void copy(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef floating *mean = s[0]
    cdef floating *x = s[1]
    cdef Py_ssize_t i
    for i in range(n):
        mean[i] = x[i]

# Running average (Polyak & Juditsky 1992; Izmailov et al. 2018): stream 0 is the average, stream 1
# what is averaged.
#
# scalars: weight of the new value
from cython cimport floating


cdef inline void average(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *mean = s[0]
    cdef floating *x = s[1]
    cdef floating weight = <floating>h[0]
    cdef Py_ssize_t i
    for i in range(n):
        mean[i] = mean[i] + weight * (x[i] - mean[i])

# Lion (Chen et al. 2023, algorithm 2): along the sign of an interpolation of momentum and gradient.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport direction


cdef struct Lion:
    double sign, shrink, beta1, beta2, lr
    double gain1, gain2                     # by the clock


cdef inline void lion_clock(double *scalars, int64_t step, float *memory) noexcept nogil:
    cdef Lion *h = <Lion *>scalars
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2


cdef inline void lion(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Lion *h = <const Lion *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink, lr = <floating>h.lr
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating d
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        p[i] = shrink * p[i] - lr * direction(beta1 * m[i] + gain1 * d)
        m[i] = beta2 * m[i] + gain2 * d

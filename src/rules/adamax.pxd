# Adamax: Adam with the infinity norm (Kingma & Ba 2015, algorithm 2).
#
# eps is added to |d| before the maximum, as in torch, and is never zero: a gradient of zero, at first,
# is no step.
from cython cimport floating
from libc.math cimport pow
from libc.stdint cimport int64_t
from rules._math cimport descent, greater, least_square, magnitude


cdef struct Adamax:
    double sign, l2, beta1, beta2, eps, lr
    double size, gain1                      # by the clock


cdef inline void adamax_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adamax *h = <Adamax *>scalars
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.gain1 = 1 - h.beta1


cdef inline void adamax(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Adamax *h = <const Adamax *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *u = s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_square(<floating>h.eps, 1)
    cdef floating size = <floating>h.size, gain1 = <floating>h.gain1
    cdef bint decay = l2 != 0
    cdef floating d, first, largest
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        first = beta1 * m[i] + gain1 * d
        m[i] = first
        largest = greater(beta2 * u[i], magnitude(d) + eps)
        u[i] = largest
        p[i] = p[i] - size * (first / largest)

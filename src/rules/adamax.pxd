# Adamax: Adam with the infinity norm (Kingma & Ba 2015, algorithm 2).
#
# scalars: sign (-1 to maximize), l2, beta1, beta2, eps, lr
# by the clock: step size = lr / (1 - beta1^t), 1 - beta1
#
# eps is added to |d| before the maximum, as in torch, and is never zero: a gradient of zero, at first,
# is no step. `decay`: see sgd.pxd.
from cython cimport floating
from libc.math cimport pow
from libc.stdint cimport int64_t
from rules._math cimport greater, least_square, magnitude


cdef inline void adamax_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[5] = h[5] / (1 - pow(h[2], <double>step))
    h[6] = 1 - h[2]


cdef inline void adamax(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *u = s[3]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1]
    cdef floating beta1 = <floating>h[2], beta2 = <floating>h[3]
    cdef floating eps = least_square(<floating>h[4], 1)
    cdef floating size = <floating>h[5], gain1 = <floating>h[6]
    cdef bint decay = l2 != 0
    cdef floating d, first, largest
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        first = beta1 * m[i] + gain1 * d
        m[i] = first
        largest = greater(beta2 * u[i], magnitude(d) + eps)
        u[i] = largest
        p[i] = p[i] - size * (first / largest)

# RAdam: Adam with a rectified variance (Liu et al. 2020, algorithm 2).
#
# scalars: sign (-1 to maximize), l2, shrink = 1 - lr * decoupled decay, beta1, beta2, eps, lr
# by the clock: step size with bias correction and rectification, whether the variance is tractable,
#          1 - beta1, 1 - beta2, 1 / sqrt(1 - beta2)
#
# `decay`: see sgd.pxd; `adaptive` likewise does not change inside the loop.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root, spread_of


cdef inline void radam_clock(double *h, int64_t step, float *memory) noexcept nogil:
    cdef double t = <double>step, power = pow(h[4], t)
    cdef double rho_inf = 2 / (1 - h[4]) - 1
    cdef double rho = rho_inf - 2 * t * power / (1 - power)
    h[6] = h[6] / (1 - pow(h[3], t))
    h[7] = rho > 5
    if rho > 5:
        h[6] = h[6] * sqrt(1 - power) * sqrt(
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    h[8] = 1 - h[3]
    h[9] = 1 - h[4]
    h[10] = spread_of(h[9])


cdef inline void radam(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], shrink = <floating>h[2]
    cdef floating beta1 = <floating>h[3], beta2 = <floating>h[4]
    cdef floating eps = least_eps(<floating>h[5], h[10])
    cdef floating size = <floating>h[6], gain1 = <floating>h[8], gain2 = <floating>h[9]
    cdef bint decay = l2 != 0
    cdef bint adaptive = h[7] != 0
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        if adaptive:
            first = first / (root(second) + eps)
        p[i] = shrink * p[i] - size * first

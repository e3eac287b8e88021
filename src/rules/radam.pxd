# RAdam: Adam with a rectified variance (Liu et al. 2020, algorithm 2).
#
# `adaptive`, whether the variance is tractable, does not change inside the loop; the compiler makes two
# loops of it.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, least_eps, root, spread_of


cdef struct Radam:
    double sign, l2, shrink, beta1, beta2, eps, lr
    double size, adaptive, gain1, gain2, spread     # by the clock


cdef inline void radam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Radam *h = <Radam *>scalars
    cdef double t = <double>step, power = pow(h.beta2, t)
    cdef double rho_inf = 2 / (1 - h.beta2) - 1
    cdef double rho = rho_inf - 2 * t * power / (1 - power)
    h.size = h.lr / (1 - pow(h.beta1, t))
    h.adaptive = rho > 5
    if rho > 5:
        h.size = h.size * sqrt(1 - power) * sqrt(
            (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void radam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Radam *h = <const Radam *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef bint decay = l2 != 0
    cdef bint adaptive = h.adaptive != 0
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        if adaptive:
            first = first / (root(second) + eps)
        p[i] = shrink * p[i] - size * first

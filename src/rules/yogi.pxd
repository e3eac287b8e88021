# Yogi (Zaheer et al. 2018, algorithm 2): Adam whose average of squares moves towards a new square by a share of
# that square, however far away it is.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, direction, least_eps, root, spread_of


cdef struct Yogi:
    double sign, l2, beta1, beta2, eps, lr
    double size, unbias, gain1, gain2, spread       # by the clock


cdef inline void yogi_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Yogi *h = <Yogi *>scalars
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void yogi(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Yogi *h = <const Yogi *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2
    cdef floating beta1 = <floating>h.beta1
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size, unbias = <floating>h.unbias
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef bint decay = l2 != 0
    cdef floating d, first, second, square
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        first = beta1 * m[i] + gain1 * d
        square = d * d
        second = v[i] - gain2 * square * direction(v[i] - square)
        m[i] = first
        v[i] = second
        p[i] = p[i] - size * (first / (root(second) * unbias + eps))

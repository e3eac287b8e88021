# Grams (Cao et al. 2024, algorithm 2): steps as long as Adam's, along the sign of the gradient.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport direction, least_eps, magnitude, root, spread_of


cdef struct Grams:
    double sign, shrink, beta1, beta2, eps, lr, correct_bias
    double size, gain1, gain2, spread       # by the clock


cdef inline void grams_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Grams *h = <Grams *>scalars
    h.size = h.lr
    if h.correct_bias:
        h.size = h.lr * sqrt(1 - pow(h.beta2, <double>step)) / (1 - pow(h.beta1, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void grams(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Grams *h = <const Grams *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        p[i] = shrink * p[i] - size * (direction(d) * (magnitude(first) / (root(second) + eps)))

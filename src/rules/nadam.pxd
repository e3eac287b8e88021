# NAdam: Adam with Nesterov's momentum (Dozat 2016), with its schedule of the momentum.
#
# carried: mu_product, the product of all mu so far
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, least_eps, root, spread_of


cdef struct Nadam:
    double sign, l2, shrink, beta1, beta2, eps, lr, momentum_decay
    double of_gradient, of_average, unbias, gain1, gain2, spread    # by the clock


cdef inline void nadam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Nadam *h = <Nadam *>scalars
    cdef double beta1 = h.beta1, lr = h.lr, decay = h.momentum_decay
    cdef double mu = beta1 * (1 - 0.5 * pow(0.96, step * decay))
    cdef double mu_next = beta1 * (1 - 0.5 * pow(0.96, (step + 1) * decay))
    carried[0] = <float>carried[0] * <float>mu       # in float32, as torch
    h.of_gradient = lr * (1 - mu) / (1 - carried[0])
    h.of_average = lr * mu_next / (1 - carried[0] * mu_next)
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void nadam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Nadam *h = <const Nadam *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating of_gradient = <floating>h.of_gradient, of_average = <floating>h.of_average
    cdef floating unbias = <floating>h.unbias
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef bint decay = l2 != 0
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        p[i] = shrink * p[i] - (of_gradient * d + of_average * first) / (root(second) * unbias + eps)

# LaProp (Ziyin et al. 2020, algorithm 1): momentum of what RMSprop makes of the gradient. The rate is within the
# momentum, and so is in its bias correction; the decay follows the step.
#
# carried: the averages of the rates, and of 1, from which both corrections follow
from cython cimport floating
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root, spread_of


cdef struct LaProp:
    double sign, beta1, beta2, eps, lr, weight_decay
    double size, unbias, gain1, gain2, keep, spread     # by the clock


cdef inline void laprop_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef LaProp *h = <LaProp *>scalars
    carried[0] = carried[0] * h.beta1 + (1 - h.beta1) * h.lr
    carried[1] = carried[1] * h.beta2 + (1 - h.beta2)
    h.size = h.lr / carried[0] if carried[0] != 0 else 0
    h.unbias = 1 / sqrt(carried[1])
    h.gain1 = h.lr * (1 - h.beta1)
    h.gain2 = 1 - h.beta2
    h.keep = 1 - h.lr * h.weight_decay
    h.spread = spread_of(h.gain2)


cdef inline void laprop(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const LaProp *h = <const LaProp *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, keep = <floating>h.keep
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size, unbias = <floating>h.unbias
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        second = beta2 * v[i] + gain2 * d * d
        first = beta1 * m[i] + gain1 * (d / (root(second) * unbias + eps))
        v[i] = second
        m[i] = first
        p[i] = keep * (p[i] - size * first)

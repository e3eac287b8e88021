# Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov & Hutter 2019).
#
# The complements are taken in double: 1 - beta in float32 would lose digits that the bias
# correction amplifies.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, greater, least_eps, root, spread_of


cdef struct Adam:
    double sign, l2, shrink, beta1, beta2, eps, lr
    double size, unbias, gain1, gain2, spread       # by the clock


cdef inline void adam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adam *h = <Adam *>scalars
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void _adam(floating **s, const double *scalars, Py_ssize_t n,
                       bint amsgrad) noexcept nogil:
    cdef const Adam *h = <const Adam *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *top = s[4]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size, unbias = <floating>h.unbias
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
        if amsgrad:
            second = greater(second, top[i])
            top[i] = second
        p[i] = shrink * p[i] - size * (first / (root(second) * unbias + eps))


cdef inline void adam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _adam(s, scalars, n, False)


cdef inline void adam_amsgrad(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _adam(s, scalars, n, True)

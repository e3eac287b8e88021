# Adam (Kingma & Ba 2015, algorithm 1), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov & Hutter 2019).
#
# scalars: sign (-1 to maximize), l2, shrink = 1 - lr * decoupled decay, beta1, beta2, eps, lr
# by the clock: step size = lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - beta1, 1 - beta2,
#          1 / sqrt(1 - beta2)
#
# The complements are taken in double: 1 - beta in float32 would lose digits that the bias
# correction amplifies. `decay`: see sgd.pxd.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport greater, least_eps, root, spread_of


cdef inline void adam_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[6] = h[6] / (1 - pow(h[3], <double>step))
    h[7] = 1 / sqrt(1 - pow(h[4], <double>step))
    h[8] = 1 - h[3]
    h[9] = 1 - h[4]
    h[10] = spread_of(h[9])


cdef inline void _adam(floating **s, const double *h, Py_ssize_t n, bint amsgrad) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *top = s[4]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], shrink = <floating>h[2]
    cdef floating beta1 = <floating>h[3], beta2 = <floating>h[4]
    cdef floating eps = least_eps(<floating>h[5], h[10])
    cdef floating size = <floating>h[6], unbias = <floating>h[7]
    cdef floating gain1 = <floating>h[8], gain2 = <floating>h[9]
    cdef bint decay = l2 != 0
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
        if amsgrad:
            second = greater(second, top[i])
            top[i] = second
        p[i] = shrink * p[i] - size * (first / (root(second) * unbias + eps))


cdef inline void adam(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _adam(s, h, n, False)


cdef inline void adam_amsgrad(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _adam(s, h, n, True)

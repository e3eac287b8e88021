# RMSprop (Hinton 2012, lecture 6e); the centered form after Graves (2013, equations 38 to 45).
#
# scalars: sign (-1 to maximize), l2, lr, alpha, 1 - alpha, eps, momentum
# by the clock: 1 / sqrt(1 - alpha)
#
# `margin` is what flushing can take from the mean of squares, of which it may leave less than the
# square of the mean; nothing in a mean of squares of ordinary size. `decay`: see sgd.pxd.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport least_eps, least_square, root, spread_of


cdef inline void rmsprop_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[7] = spread_of(h[4])


cdef inline void _rmsprop(floating **s, const double *h, Py_ssize_t n, bint momentum,
                          bint centered) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *square = s[2]
    cdef floating *b = s[3]
    cdef floating *mean = s[4] if momentum else s[3]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], lr = <floating>h[2]
    cdef floating alpha = <floating>h[3], gain = <floating>h[4], mu = <floating>h[6]
    cdef floating eps = least_eps(<floating>h[5], h[7])
    cdef floating margin = 2 * least_square(<floating>0, h[7])
    cdef bint decay = l2 != 0
    cdef floating d, second, first
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        second = alpha * square[i] + gain * d * d
        square[i] = second
        if centered:
            first = alpha * mean[i] + gain * d
            mean[i] = first
            second = second + (margin - first * first)
        d = d / (root(second) + eps)
        if momentum:
            d = mu * b[i] + d
            b[i] = d
        p[i] = p[i] - lr * d


cdef inline void rmsprop(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, h, n, False, False)


cdef inline void rmsprop_momentum(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, h, n, True, False)


cdef inline void rmsprop_centered(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, h, n, False, True)


cdef inline void rmsprop_centered_momentum(floating **s, const double *h,
                                           Py_ssize_t n) noexcept nogil:
    _rmsprop(s, h, n, True, True)

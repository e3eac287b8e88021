# RMSprop (Hinton 2012, lecture 6e); the centered form after Graves (2013, equations 38 to 45).
#
# `margin` is what flushing can take from the mean of squares, of which it may leave less than the
# square of the mean; nothing in a mean of squares of ordinary size.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport descent, least_eps, least_square, root, spread_of


cdef struct Rmsprop:
    double sign, l2, lr, alpha, eps, momentum
    double gain, spread                     # by the clock


cdef inline void rmsprop_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Rmsprop *h = <Rmsprop *>scalars
    h.gain = 1 - h.alpha
    h.spread = spread_of(h.gain)


cdef inline void _rmsprop(floating **s, const double *scalars, Py_ssize_t n, bint momentum,
                          bint centered) noexcept nogil:
    cdef const Rmsprop *h = <const Rmsprop *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *square = s[2]
    cdef floating *b = s[3]
    cdef floating *mean = s[4] if momentum else s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef floating alpha = <floating>h.alpha, gain = <floating>h.gain, mu = <floating>h.momentum
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating margin = 2 * least_square(<floating>0, h.spread)
    cdef bint decay = l2 != 0
    cdef floating d, second, first
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
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


cdef inline void rmsprop(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, scalars, n, False, False)


cdef inline void rmsprop_momentum(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, scalars, n, True, False)


cdef inline void rmsprop_centered(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _rmsprop(s, scalars, n, False, True)


cdef inline void rmsprop_centered_momentum(floating **s, const double *scalars,
                                           Py_ssize_t n) noexcept nogil:
    _rmsprop(s, scalars, n, True, True)

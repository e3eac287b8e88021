# Adadelta (Zeiler 2012, algorithm 1).
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport descent, least_square, root, spread_of


cdef struct Adadelta:
    double sign, l2, lr, rho, eps
    double gain, spread                     # by the clock


cdef inline void adadelta_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adadelta *h = <Adadelta *>scalars
    h.gain = 1 - h.rho
    h.spread = spread_of(h.gain)


cdef inline void adadelta(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Adadelta *h = <const Adadelta *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *square = s[2]
    cdef floating *moved = s[3]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef floating rho = <floating>h.rho, gain = <floating>h.gain
    cdef floating eps = least_square(<floating>h.eps, h.spread)
    cdef bint decay = l2 != 0
    cdef floating d, second
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        second = rho * square[i] + gain * d * d
        square[i] = second
        d = root(moved[i] + eps) / root(second + eps) * d
        moved[i] = rho * moved[i] + gain * d * d
        p[i] = p[i] - lr * d

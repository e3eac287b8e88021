# Adadelta (Zeiler 2012, algorithm 1).
#
# scalars: sign (-1 to maximize), l2, lr, rho, 1 - rho, eps
# by the clock: 1 / sqrt(1 - rho)
#
# `decay`: see sgd.pxd.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport least_square, root, spread_of


cdef inline void adadelta_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[6] = spread_of(h[4])


cdef inline void adadelta(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *square = s[2]
    cdef floating *moved = s[3]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], lr = <floating>h[2]
    cdef floating rho = <floating>h[3], gain = <floating>h[4]
    cdef floating eps = least_square(<floating>h[5], h[6])
    cdef bint decay = l2 != 0
    cdef floating d, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        second = rho * square[i] + gain * d * d
        square[i] = second
        d = root(moved[i] + eps) / root(second + eps) * d
        moved[i] = rho * moved[i] + gain * d * d
        p[i] = p[i] - lr * d

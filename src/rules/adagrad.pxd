# Adagrad (Duchi, Hazan & Singer 2011), diagonal form.
#
# The sum gains d^2 itself.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport descent, least_eps, root


cdef struct Adagrad:
    double sign, l2, lr, eps, lr_decay
    double rate                             # by the clock


cdef inline void adagrad_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adagrad *h = <Adagrad *>scalars
    h.rate = h.lr / (1 + (step - 1) * h.lr_decay)


cdef inline void adagrad(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Adagrad *h = <const Adagrad *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *total = s[2]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2
    cdef floating rate = <floating>h.rate, eps = least_eps(<floating>h.eps, 1)
    cdef bint decay = l2 != 0
    cdef floating d, t
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        t = total[i] + d * d
        total[i] = t
        p[i] = p[i] - rate * (d / (root(t) + eps))

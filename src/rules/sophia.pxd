# Sophia (Liu et al. 2023, algorithm 3): the momentum over an estimate of the Hessian's diagonal, element by
# element no longer than 1. The estimate, an average of squares, gets on by a rule of its own, now and then.
from cython cimport floating
from rules._math cimport bounded


cdef struct Sophia:
    double sign, shrink, beta1, lr, rho, bs


cdef inline void sophia(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Sophia *h = <const Sophia *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *hessian = s[3]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink, lr = <floating>h.lr
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>(1 - h.beta1)
    cdef floating factor = <floating>(h.rho * h.bs), eps = <floating>1e-15
    cdef floating first, x
    cdef Py_ssize_t i
    for i in range(n):
        first = beta1 * m[i] + gain1 * (sign * g[i])
        x = shrink * p[i] - lr * bounded(first / (factor * hessian[i] + eps), <floating>1)
        m[i] = first
        p[i] = x


cdef struct Squares:
    double beta


# An average of squares: s[0] = h, s[1] = g.
cdef inline void squares(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Squares *h = <const Squares *>scalars
    cdef floating *average = s[0]
    cdef floating *g = s[1]
    cdef floating beta = <floating>h.beta, gain = <floating>(1 - h.beta)
    cdef Py_ssize_t i
    for i in range(n):
        average[i] = beta * average[i] + gain * g[i] * g[i]

# Stochastic gradient descent; momentum after Polyak (1964), Nesterov's form after Sutskever et al. (2013).
#
# A buffer starts as the first gradient itself, undampened: step 1 has gain 1.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport descent


cdef struct Sgd:
    double sign, l2, lr


cdef struct Momentum:
    double sign, l2, lr, momentum, dampening
    double gain                             # by the clock


cdef inline void sgd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Sgd *h = <const Sgd *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef bint decay = l2 != 0
    cdef floating d
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        p[i] = p[i] - lr * d


cdef inline void momentum_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Momentum *h = <Momentum *>scalars
    h.gain = 1 if step == 1 else 1 - h.dampening


cdef inline void _roll(floating **s, const double *scalars, Py_ssize_t n,
                       bint nesterov) noexcept nogil:
    cdef const Momentum *h = <const Momentum *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *b = s[2]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef floating momentum = <floating>h.momentum, gain = <floating>h.gain
    cdef bint decay = l2 != 0
    cdef floating d, v
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        v = momentum * b[i] + gain * d
        b[i] = v
        if nesterov:
            v = d + momentum * v
        p[i] = p[i] - lr * v


cdef inline void sgd_momentum(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _roll(s, scalars, n, False)


cdef inline void sgd_nesterov(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _roll(s, scalars, n, True)

# Stochastic gradient descent; momentum after Polyak (1964), Nesterov's form after Sutskever et al. (2013).
#
# scalars: sign (-1 to maximize), l2, lr [, momentum, gain = 1 - dampening]
# A buffer starts as the first gradient itself, undampened: step 1 has gain 1.
#
# `decay` guards l2 * p because 0 * inf is NaN: a parameter that is infinite must not spoil its
# state when there is no weight decay. The condition does not change inside the loop; the compiler
# makes two loops of it.
from cython cimport floating
from libc.stdint cimport int64_t


cdef inline void sgd(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], lr = <floating>h[2]
    cdef bint decay = l2 != 0
    cdef floating d
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        p[i] = p[i] - lr * d


cdef inline void momentum_clock(double *h, int64_t step, float *memory) noexcept nogil:
    if step == 1:
        h[4] = 1


cdef inline void _roll(floating **s, const double *h, Py_ssize_t n, bint nesterov) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *b = s[2]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], lr = <floating>h[2]
    cdef floating momentum = <floating>h[3], gain = <floating>h[4]
    cdef bint decay = l2 != 0
    cdef floating d, v
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        v = momentum * b[i] + gain * d
        b[i] = v
        if nesterov:
            v = d + momentum * v
        p[i] = p[i] - lr * v


cdef inline void sgd_momentum(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _roll(s, h, n, False)


cdef inline void sgd_nesterov(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    _roll(s, h, n, True)

# LARS (You et al. 2017): gradient descent with momentum, each gradient scaled to the length of its parameter.
#
# Two passes. The first adds up the squares of parameter and gradient, the second makes the step. A buffer starts
# as the first scaled gradient itself, undampened: step 1 has gain 1.
from cython cimport floating
from libc.math cimport fabs, sqrt
from libc.stdint cimport int64_t
from _reduce cimport add_squares
from _table cimport LANES
from rules._math cimport descent


cdef struct Lars:
    double sign, l2, lr, momentum, dampening, eps, trust_coeff
    double trust_clip, always_adapt             # switches
    double gain                                 # by the clock
    double ratio                                # by the finish


cdef inline void lars_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Lars *h = <Lars *>scalars
    h.gain = 1 if step == 1 else 1 - h.dampening


cdef inline void lars_measure(floating **s, const double *scalars, double *lanes,
                              Py_ssize_t n) noexcept nogil:
    add_squares(s[0], lanes, n)
    add_squares(s[1], lanes + LANES, n)


cdef inline void lars_finish(double *scalars, const double *sums, double *numbers,
                             Py_ssize_t size) noexcept nogil:
    cdef Lars *h = <Lars *>scalars
    cdef double p = sqrt(sums[0]), g = fabs(h.sign) * sqrt(sums[1])
    h.ratio = 1
    if h.l2 == 0 and not h.always_adapt:
        return
    if p > 0 and g > 0:
        h.ratio = h.trust_coeff * p / (g + p * h.l2 + h.eps)
    if h.trust_clip:            # no quotient where it is at least 1: lr may be 0
        h.ratio = 1 if h.ratio >= h.lr else h.ratio / h.lr


cdef inline void lars(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Lars *h = <const Lars *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef floating ratio = <floating>h.ratio
    cdef bint decay = l2 != 0
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - lr * (ratio * descent(g[i], p[i], sign, l2, decay))


cdef inline void _roll_scaled(floating **s, const double *scalars, Py_ssize_t n,
                              bint nesterov) noexcept nogil:
    cdef const Lars *h = <const Lars *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *b = s[2]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2, lr = <floating>h.lr
    cdef floating momentum = <floating>h.momentum, gain = <floating>h.gain
    cdef floating ratio = <floating>h.ratio
    cdef bint decay = l2 != 0
    cdef floating d, v
    cdef Py_ssize_t i
    for i in range(n):
        d = ratio * descent(g[i], p[i], sign, l2, decay)
        v = momentum * b[i] + gain * d
        b[i] = v
        if nesterov:
            v = d + momentum * v
        p[i] = p[i] - lr * v


cdef inline void lars_momentum(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _roll_scaled(s, scalars, n, False)


cdef inline void lars_nesterov(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _roll_scaled(s, scalars, n, True)

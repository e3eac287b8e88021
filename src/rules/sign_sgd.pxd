# SignSGD, and with momentum Signum (Bernstein et al. 2018, algorithm 1).
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport descent, direction


cdef struct SignSgd:
    double sign, lr, weight_decay, weight_decouple
    double penalty, keep                    # by the clock


cdef struct Signum:
    double sign, lr, momentum, weight_decay, weight_decouple
    double penalty, keep                    # by the clock


cdef inline void sign_sgd_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef SignSgd *h = <SignSgd *>scalars
    h.penalty = 0 if h.weight_decouple else h.weight_decay
    h.keep = 1 - h.lr * h.weight_decay if h.weight_decouple else 1


cdef inline void signum_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Signum *h = <Signum *>scalars
    h.penalty = 0 if h.weight_decouple else h.weight_decay
    h.keep = 1 - h.lr * h.weight_decay if h.weight_decouple else 1


cdef inline void sign_sgd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const SignSgd *h = <const SignSgd *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating sign = <floating>h.sign, lr = <floating>h.lr
    cdef floating penalty = <floating>h.penalty, keep = <floating>h.keep
    cdef bint decay = penalty != 0
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = keep * p[i] - lr * direction(descent(g[i], p[i], sign, penalty, decay))


cdef inline void signum(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Signum *h = <const Signum *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *b = s[2]
    cdef floating sign = <floating>h.sign, lr = <floating>h.lr
    cdef floating momentum = <floating>h.momentum, gain = <floating>(1 - h.momentum)
    cdef floating penalty = <floating>h.penalty, keep = <floating>h.keep
    cdef bint decay = penalty != 0
    cdef floating average
    cdef Py_ssize_t i
    for i in range(n):
        average = momentum * b[i] + gain * descent(g[i], p[i], sign, penalty, decay)
        b[i] = average
        p[i] = keep * p[i] - lr * direction(average)

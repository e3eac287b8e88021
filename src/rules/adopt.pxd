# ADOPT (Taniguchi et al. 2024, algorithm 2): the gradient is divided by the average of squares before it, and
# averaged afterwards. The first step begins that average, and nothing else.
from cython cimport floating
from libc.math cimport INFINITY, pow
from libc.stdint cimport int64_t
from rules._math cimport bounded, descent, greater, least_eps, root, spread_of


cdef struct Adopt:
    double sign, beta1, beta2, eps, lr, weight_decay
    double decouple                         # a switch
    double clip_lambda                      # the power of the step count that bounds; infinite: no bound
    double gain1, gain2, penalty, keep, bound, spread, begins       # by the clock


cdef inline void adopt_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adopt *h = <Adopt *>scalars
    h.begins = step == 1
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.penalty = 0 if h.decouple else h.weight_decay
    h.keep = 1 - h.lr * h.weight_decay if h.decouple and step > 1 else 1
    h.bound = INFINITY if h.clip_lambda == INFINITY else pow(<double>(step - 1), h.clip_lambda)
    h.spread = spread_of(h.gain2)


cdef inline void adopt(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Adopt *h = <const Adopt *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, penalty = <floating>h.penalty, keep = <floating>h.keep
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>h.gain2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating bound = <floating>h.bound, lr = <floating>h.lr
    cdef bint decay = penalty != 0
    cdef floating d, x, first, second
    cdef Py_ssize_t i
    if h.begins:
        for i in range(n):
            d = descent(g[i], p[i], sign, penalty, decay)
            v[i] = v[i] + d * d
        return
    for i in range(n):
        d = descent(g[i], p[i], sign, penalty, decay)
        first = beta1 * m[i] + gain1 * bounded(d / greater(root(v[i]), eps), bound)
        second = beta2 * v[i] + gain2 * d * d
        x = keep * p[i] - lr * first
        m[i] = first
        v[i] = second
        p[i] = x

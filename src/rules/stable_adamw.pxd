# StableAdamW (Wortsman et al. 2023, algorithm 2): AdamW whose rate falls where gradients outgrow their average.
#
# Two passes. The first moves the averages, by factors that correct their bias, and adds up the squares of the
# gradient over their average; the second makes the step, at the reduced rate, which the weight decay has, too.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport unbounded
from _reduce cimport add_values
from _table cimport BLOCK
from rules._math cimport greater, least_eps, least_square, root, spread_of


cdef struct StableAdamW:
    double sign, weight_decay, beta1, beta2, eps, lr
    double decouple_lr, max_lr
    double kept1, kept2, gain1, gain2, spread   # by the clock
    double size, keep                           # by the finish


cdef inline double _corrected(double beta, int64_t step) noexcept nogil:
    # beta (1 - beta^(t - 1)) / (1 - beta^t)
    return (pow(beta, <double>step) - beta) / (pow(beta, <double>step) - 1)


cdef inline void stable_adamw_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef StableAdamW *h = <StableAdamW *>scalars
    h.kept1 = _corrected(h.beta1, step)
    h.kept2 = _corrected(h.beta2, step)
    h.gain1 = 1 - h.kept1
    h.gain2 = 1 - h.kept2
    h.spread = spread_of(1 - h.beta2)


cdef inline void stable_adamw_finish(double *scalars, const double *sums, double *numbers,
                                     Py_ssize_t size) noexcept nogil:
    cdef StableAdamW *h = <StableAdamW *>scalars
    cdef double growth = sqrt(sums[0] / size) if size else 1
    # NaN does not reduce the rate: it stays in its element.
    h.size = h.lr / growth if growth > 1 else h.lr
    h.keep = 1 - h.weight_decay * (h.size / h.max_lr if h.decouple_lr else h.size)


cdef inline void stable_adamw_measure(floating **s, const double *scalars, double *lanes,
                                      Py_ssize_t n) noexcept nogil:
    cdef const StableAdamW *h = <const StableAdamW *>scalars
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating q[BLOCK]
    cdef floating sign = <floating>h.sign
    cdef floating kept1 = <floating>h.kept1, kept2 = <floating>h.kept2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating floor = least_square(<floating>(h.eps * h.eps), h.spread)
    cdef floating d, second
    cdef Py_ssize_t start = 0, count, i
    while start < n:
        count = unbounded(min(<Py_ssize_t>BLOCK, n - start))
        for i in range(count):
            d = sign * g[i]
            m[i] = kept1 * m[i] + gain1 * d
            second = kept2 * v[i] + gain2 * d * d
            v[i] = second
            q[i] = d * d / greater(second, floor)
        add_values(q, lanes, count)
        g, m, v = g + count, m + count, v + count
        start += count


cdef inline void stable_adamw(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const StableAdamW *h = <const StableAdamW *>scalars
    cdef floating *p = s[0]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating size = <floating>h.size, keep = <floating>h.keep
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = keep * p[i] - size * (m[i] / (root(v[i]) + eps))

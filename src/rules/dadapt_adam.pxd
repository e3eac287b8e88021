# D-Adaptation of Adam (Defazio and Mishchenko 2023): Adam whose gradients are weighted by d, an estimate of the distance
# to the solution.
#
# d is a number of all parameters. The first pass moves the averages and takes two sums; the finish makes the new d of
# them, which counts from the next step on; the second pass makes the step.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport unbounded
from _reduce cimport add_magnitudes, add_multiples
from _table cimport LANES, PIECE, WORK
from rules._math cimport descent, least_eps, root, spread_of


cdef struct DAdaptAdam:
    double sign, lr, beta1, beta2, eps, weight_decay
    double decouple, use_bias_correction                # switches
    double growth_rate, layer_scale
    double d, numerator_weighted, k                     # before the step
    double size, beta3, moves                           # by the clock; the last by the finish, too


cdef inline void dadapt_adam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef DAdaptAdam *h = <DAdaptAdam *>scalars
    cdef double count = h.k + 1
    h.beta3 = sqrt(h.beta2)
    h.moves = h.lr != 0
    h.size = h.d * h.lr
    if h.use_bias_correction:
        h.size = h.size * sqrt(1 - pow(h.beta2, count)) / (1 - pow(h.beta1, count))


# Also that of Lion, but for the numbers' scalars.
cdef inline bint estimate_distance(const double *sums, double beta3, double growth_rate,
                                   double *numbers) noexcept nogil:
    """Advance d, the weighted numerator and the count; False, and no number changes, without any gradient but zeros."""
    cdef double numerator = beta3 * numbers[1] + (1 - beta3) * sums[0], estimate, d = numbers[0]
    if sums[1] == 0:
        return False
    estimate = numerator / ((1 - beta3) * sums[1])
    if d * growth_rate < estimate:
        estimate = d * growth_rate
    if estimate > d:            # which NaN is not
        numbers[0] = estimate
    numbers[1] = numerator
    numbers[2] = numbers[2] + 1
    return True


cdef inline void dadapt_adam_finish(double *scalars, const double *sums, double *numbers,
                                    Py_ssize_t size) noexcept nogil:
    cdef DAdaptAdam *h = <DAdaptAdam *>scalars
    cdef bint found = estimate_distance(sums, h.beta3, h.growth_rate, numbers)
    h.moves = found and h.lr != 0


cdef inline void dadapt_adam_measure(floating **s, const double *scalars, double *lanes,
                                     Py_ssize_t n) noexcept nogil:
    cdef const DAdaptAdam *h = <const DAdaptAdam *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *gone = s[4]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, l2 = <floating>(0 if h.decouple else h.weight_decay)
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>(h.layer_scale * h.size * (1 - h.beta1))
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>(1 - h.beta2)
    cdef floating beta3 = <floating>h.beta3, gain3 = <floating>(h.size * (1 - h.beta3))
    cdef floating eps = least_eps(<floating>h.eps, spread_of(1 - h.beta2))
    cdef bint decays = l2 != 0
    cdef floating d
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    if h.lr == 0:               # a group that stands still
        return
    while start < n:
        stop = start + unbounded(min(block, n - start))
        for i in range(start, stop):
            d = descent(g[i], p[i], sign, l2, decays)
            u[i] = d * (gone[i] / (root(v[i]) + eps))       # by the average without this gradient
            gone[i] = beta3 * gone[i] + gain3 * d
        for i in range(start, stop):
            d = descent(g[i], p[i], sign, l2, decays)
            m[i] = beta1 * m[i] + gain1 * d
            v[i] = beta2 * v[i] + gain2 * d * d
        add_multiples(u + start, h.layer_scale * h.size, lanes, stop - start)
        add_magnitudes(gone + start, h.layer_scale, lanes + LANES, stop - start)
        start = stop


cdef inline void dadapt_adam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const DAdaptAdam *h = <const DAdaptAdam *>scalars
    cdef floating *p = s[0]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating keep = <floating>(1 - h.weight_decay * h.size if h.decouple else 1)
    cdef floating eps = least_eps(<floating>h.eps, spread_of(1 - h.beta2))
    cdef Py_ssize_t i
    if not h.moves:
        return
    for i in range(n):
        p[i] = keep * p[i] - m[i] / (root(v[i]) + eps)

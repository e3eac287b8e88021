# Prodigy (Mishchenko and Defazio 2023, algorithm 4): Adam in units of d, an estimate of the distance to the solution.
#
# d is a number of all parameters. The first pass moves the averages by the old d, and takes the two sums of which
# the finish makes the new one; the second makes the step, which is as large as the old d and has the new one in eps.
# `s` and `p0` are slices: the first element of their streams is that of the parameter.
from cython cimport floating
from libc.math cimport fabs, pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport unbounded
from _reduce cimport add_magnitudes, add_multiples
from _table cimport LANES, PIECE, START, WORK
from rules._math cimport descent, least_eps, root, spread_of


cdef struct Prodigy:
    double sign, lr, beta1, beta2, beta3_if_given, eps, weight_decay
    double decouple, use_bias_correction, safeguard_warmup                  # switches
    double d0, d_coef, growth_rate, slice_p
    double d, d_max, d_numerator, k                                         # before the step
    double beta3, size                                                      # by the clock
    double floor, stride                                                    # by the finish


cdef inline void prodigy_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Prodigy *h = <Prodigy *>scalars
    cdef double count = h.k + 1
    h.beta3 = h.beta3_if_given if h.beta3_if_given == h.beta3_if_given else sqrt(h.beta2)
    h.size = h.d * h.lr
    if h.use_bias_correction:
        h.size = h.size * sqrt(1 - pow(h.beta2, count)) / (1 - pow(h.beta1, count))


cdef inline void prodigy_finish(double *scalars, const double *sums, double *numbers,
                                Py_ssize_t size) noexcept nogil:
    cdef Prodigy *h = <Prodigy *>scalars
    cdef double numerator = h.beta3 * numbers[2] + sums[0], denominator = sums[1]
    cdef double estimate, d = numbers[0]
    h.floor, h.stride = d * h.eps, h.size
    if denominator == 0:        # no gradient but zeros so far: no step
        h.size = h.stride = 0
        return
    estimate = h.d_coef * numerator / denominator
    # An estimate that is NaN changes nothing.
    if d == h.d0 and estimate > d:
        d = estimate
    if estimate > numbers[1]:
        numbers[1] = estimate
    d = min(numbers[1], d * h.growth_rate)
    h.floor = d * h.eps
    if h.beta1 == 0:            # then prodigyopt keeps no average, and weighs the gradient by the new d
        h.stride = h.size * (d / h.d)
    numbers[0], numbers[2], numbers[3], numbers[4] = d, numerator, denominator, estimate
    numbers[5] = numbers[5] + 1


cdef inline void _sample(const floating *p, const floating *g, floating *s, const floating *p0, floating sign,
                         floating l2, double weight, floating beta3, floating gain3, double *lanes, Py_ssize_t start,
                         Py_ssize_t n, Py_ssize_t every) noexcept nogil:
    """The average of the gradient and the sums, over every n-th element."""
    cdef Py_ssize_t j = (start + every - 1) // every, i = j * every - start
    cdef floating d
    while i < n:
        d = descent(g[i], p[i], sign, l2, l2 != 0)
        s[j] = beta3 * s[j] + gain3 * d
        lanes[j % LANES] = lanes[j % LANES] + weight * <double>(d * (p0[j] - p[i]))
        lanes[LANES + j % LANES] = lanes[LANES + j % LANES] + fabs(<double>s[j])
        i += every
        j += 1


cdef inline void prodigy_measure(floating **s, const double *scalars, double *lanes,
                                 Py_ssize_t n) noexcept nogil:
    cdef const Prodigy *h = <const Prodigy *>scalars
    cdef Py_ssize_t first = <Py_ssize_t>s[START], every = <Py_ssize_t>h.slice_p
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *gone = s[4] + (first if every == 1 else 0)
    cdef floating *p0 = s[5] + (first if every == 1 else 0)
    cdef floating *u = s[WORK]
    cdef double weight = h.d / h.d0 * h.size
    cdef floating sign = <floating>h.sign, l2 = <floating>(0 if h.decouple else h.weight_decay)
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>(1 - h.beta1)
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>(1 - h.beta2)
    cdef floating beta3 = <floating>h.beta3, distance = <floating>h.d
    cdef floating gain3 = <floating>(h.d / h.d0 * (h.d if h.safeguard_warmup else h.size))
    cdef bint decays = l2 != 0
    cdef floating d, x
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    if h.lr == 0:               # a group that stands still
        return
    if every != 1:
        _sample(p, g, gone, p0, sign, l2, weight, beta3, gain3, lanes, first, n, every)
    while start < n:
        stop = start + unbounded(min(block, n - start))
        # Two loops, of few arrays each: a compiler that must ask which of more overlap makes no vectors.
        for i in range(start, stop):
            x = distance * descent(g[i], p[i], sign, l2, decays)
            m[i] = beta1 * m[i] + gain1 * x
            v[i] = beta2 * v[i] + gain2 * x * x
        if every == 1:
            for i in range(start, stop):
                d = descent(g[i], p[i], sign, l2, decays)
                gone[i] = beta3 * gone[i] + gain3 * d
                u[i] = d * (p0[i] - p[i])
            add_multiples(u + start, weight, lanes, stop - start)
            add_magnitudes(gone + start, 1, lanes + LANES, stop - start)
        start = stop


cdef inline void prodigy(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Prodigy *h = <const Prodigy *>scalars
    cdef floating *p = s[0]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating stride = <floating>h.stride
    cdef floating keep = <floating>(1 - h.weight_decay * h.size if h.decouple else 1)
    cdef floating eps = least_eps(<floating>h.floor, spread_of(1 - h.beta2))
    cdef Py_ssize_t i
    if h.size == 0:
        return
    for i in range(n):
        p[i] = keep * p[i] - stride * (m[i] / (root(v[i]) + eps))

# D-Adaptation of SGD (Defazio and Mishchenko 2023): dual averaging with steps of d over the norm of the first gradient.
#
# In the first step that norm is a sum of the same pass as the others: until it is known, `s` holds the gradient times
# d lr, which the second pass divides by it.
from cython cimport floating
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset
from _reduce cimport add_multiples, add_squares
from _table cimport LANES, PIECE, WORK
from rules._math cimport descent


cdef struct DAdaptSGD:
    double sign, lr, momentum, weight_decay, growth_rate
    double d, numerator_weighted, g0_norm               # before the step
    double size, moves, scale                           # by the clock; the last two by the finish, too


cdef inline void dadapt_sgd_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef DAdaptSGD *h = <DAdaptSGD *>scalars
    h.size = h.d * h.lr / (h.g0_norm if h.g0_norm != 0 else 1)
    h.moves = h.lr != 0
    h.scale = 1


cdef inline void dadapt_sgd_finish(double *scalars, const double *sums, double *numbers,
                                   Py_ssize_t size) noexcept nogil:
    cdef DAdaptSGD *h = <DAdaptSGD *>scalars
    cdef double length = sqrt(sums[1]), numerator = numbers[1] + sums[0], estimate, d = numbers[0]
    h.moves = h.lr != 0
    h.scale = 1
    if numbers[2] == 0:         # the first step
        if sums[2] == 0:
            h.scale, h.moves = 0, 0
            return
        numbers[2] = sqrt(sums[2])
        h.scale = 1 / numbers[2]
        length = length * h.scale
    if length == 0:
        h.moves = 0
        return
    estimate = 2 * numerator / length
    if d * h.growth_rate < estimate:
        estimate = d * h.growth_rate
    if estimate > d:            # which NaN is not
        numbers[0] = estimate
    numbers[1] = numerator
    numbers[3] = numbers[3] + 1


cdef inline void dadapt_sgd_measure(floating **s, const double *scalars, double *lanes,
                                    Py_ssize_t n) noexcept nogil:
    cdef const DAdaptSGD *h = <const DAdaptSGD *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *gone = s[2]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, size = <floating>h.size, l2 = <floating>h.weight_decay
    cdef bint decays = l2 != 0
    cdef floating d
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    if h.lr == 0:               # a group that stands still
        return
    while start < n:
        stop = min(start + block, n)
        if h.g0_norm == 0:
            # The norm is that of the gradients alone. What an unfinished step may have left does not count.
            for i in range(start, stop):
                gone[i] = 0
                u[i] = sign * g[i]
            add_squares(u + start, lanes + 2 * LANES, stop - start)
        for i in range(start, stop):
            d = descent(g[i], p[i], sign, l2, decays)
            u[i] = d * gone[i]
            gone[i] = gone[i] + size * d
        add_multiples(u + start, h.size, lanes, stop - start)
        add_squares(gone + start, lanes + LANES, stop - start)
        start = stop


cdef inline void dadapt_sgd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const DAdaptSGD *h = <const DAdaptSGD *>scalars
    cdef floating *p = s[0]
    cdef floating *gone = s[2]
    cdef floating *start = s[3]
    cdef floating momentum = <floating>h.momentum, gain = <floating>(1 - h.momentum)
    cdef floating scale = <floating>h.scale
    cdef Py_ssize_t i
    if h.lr == 0:
        return
    if scale == 0:
        memset(gone, 0, n * sizeof(floating))
        return
    if scale != 1:
        for i in range(n):
            gone[i] = scale * gone[i]
    if not h.moves:
        return
    for i in range(n):
        p[i] = momentum * p[i] + gain * (start[i] - gone[i])

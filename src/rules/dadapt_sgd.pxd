# D-Adaptation of SGD (Defazio and Mishchenko 2023): dual averaging with steps of d over the norm of the first gradient.
#
# In the first step that norm is a sum of the same pass as the others: until it is known, `s` holds the gradient times
# d lr, which the second pass divides by it.
from cython cimport floating
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset
from _prefetch cimport AHEAD, prefetch_bytes
from _reduce cimport add_squares
from _table cimport BLOCK, LANES
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


# What is in a lane each is read before any is written, as a compiler cannot know that arrays are apart. What is left over at
# the end goes through arrays of that length, whose zeros add nothing.
cdef inline void _gather(const floating *p, const floating *g, floating *gone, floating sign, floating l2, floating size,
                         double weight, bint decays, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double sums[LANES]
    cdef double squares[LANES]
    cdef floating last[3][LANES]
    cdef floating d[LANES]
    cdef floating u[LANES]
    cdef floating moved[LANES]
    cdef floating *out = gone
    cdef Py_ssize_t left = n, step
    cdef int k
    memcpy(sums, lanes, sizeof(sums))
    memcpy(squares, lanes + LANES, sizeof(squares))
    while left > 0:
        step = min(<Py_ssize_t>LANES, left)
        if step < LANES:
            memset(last, 0, sizeof(last))
            memcpy(last[0], p, step * sizeof(floating))
            memcpy(last[1], g, step * sizeof(floating))
            memcpy(last[2], gone, step * sizeof(floating))
            p, g, gone = last[0], last[1], last[2]
        if decays:
            prefetch_bytes(p + AHEAD, sizeof(d))
        prefetch_bytes(g + AHEAD, sizeof(d))
        prefetch_bytes(gone + AHEAD, sizeof(d))
        for k in range(LANES):
            d[k] = descent(g[k], p[k], sign, l2, decays)
        for k in range(LANES):
            u[k] = d[k] * gone[k]
            moved[k] = gone[k] + size * d[k]
        for k in range(LANES):
            gone[k] = moved[k]
            sums[k] = sums[k] + weight * <double>u[k]
            squares[k] = squares[k] + <double>moved[k] * <double>moved[k]
        if step < LANES:
            memcpy(out, gone, step * sizeof(floating))
        p, g, gone = p + LANES, g + LANES, gone + LANES
        out += LANES
        left -= step
    memcpy(lanes, sums, sizeof(sums))
    memcpy(lanes + LANES, squares, sizeof(squares))


cdef inline void dadapt_sgd_measure(floating **s, const double *scalars, double *lanes,
                                    Py_ssize_t n) noexcept nogil:
    cdef const DAdaptSGD *h = <const DAdaptSGD *>scalars
    cdef floating *g = s[1]
    cdef floating *gone = s[2]
    cdef floating sign = <floating>h.sign, size = <floating>h.size, l2 = <floating>h.weight_decay
    cdef floating d[BLOCK]
    cdef Py_ssize_t start = 0, count, i
    if h.lr == 0:               # a group that stands still
        return
    if h.g0_norm == 0:
        # The norm is that of the gradients alone. What an unfinished step may have left does not count.
        memset(gone, 0, n * sizeof(floating))
        while start < n:
            count = min(<Py_ssize_t>BLOCK, n - start)
            for i in range(count):
                d[i] = sign * g[start + i]
            add_squares(d, lanes + 2 * LANES, count)
            start += count
    if l2 != 0:
        _gather(s[0], g, gone, sign, l2, size, h.size, True, lanes, n)
    else:
        _gather(s[0], g, gone, sign, l2, size, h.size, False, lanes, n)


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

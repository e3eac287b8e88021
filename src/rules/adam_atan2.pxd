# Adam-atan2 (Everett et al. 2024, section 4.3): the angle of Adam's average and root in place of their quotient, which
# needs no eps; also with cautious steps (Liang et al. 2024), cautious decay (Chen et al. 2025), and a pull back to where
# the parameter began (Kumar et al. 2023).
#
# To the root is added the most that squares which are flushed to zero can take from it; else steps were twice as long.
#
# Angles are computed block by block, as each takes a chain of arithmetic that is longer than what a processor looks ahead.
#
# A cautious step takes two passes. The first moves the averages, and counts those that go with the gradient, as their angles
# then do: a whole number, whose sum is the same in any order.
from cython cimport floating
from libc.math cimport fabs, pow
from libc.stdint cimport int64_t
from _prefetch cimport AHEAD, prefetch_bytes, unbounded
from _table cimport BLOCK, LANES
from rules._math cimport along, angle, least_eps, root, spread_of


cdef struct AdamAtan2:
    double sign, beta1, beta2, lr, a, b, weight_decay, cautious_wd, cautious_factor, regen_reg_rate
    double size, unbias1, unbias2, gain1, gain2, keep, pull, spread     # by the clock
    double scale                                                        # by the clock, and by the finish


cdef inline void adam_atan2_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef AdamAtan2 *h = <AdamAtan2 *>scalars
    h.size = h.lr * h.a
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.unbias1 = 1 / (1 - pow(h.beta1, <double>step))
    h.unbias2 = h.b * h.b / (1 - pow(h.beta2, <double>step))
    h.keep = 1 - h.lr * h.weight_decay
    h.pull = 0 if step == 1 else h.lr * h.regen_reg_rate
    h.spread = spread_of(h.gain2)
    h.scale = 1


cdef inline void adam_atan2_finish(double *scalars, const double *sums, double *numbers,
                                   Py_ssize_t size) noexcept nogil:
    cdef AdamAtan2 *h = <AdamAtan2 *>scalars
    cdef double mean = (sums[0] + (size - sums[0]) * h.cautious_factor) / size
    h.scale = 1 / (mean if mean > 1e-5 else 1e-5)


cdef inline void _find_roots(const AdamAtan2 *h, floating **s, floating *x, bint moved, Py_ssize_t start,
                             Py_ssize_t n) noexcept nogil:
    """The root of each square in x; the averages move, if they have not yet."""
    cdef floating *g = s[1] + start
    cdef floating *m = s[2] + start
    cdef floating *v = s[3] + start
    cdef floating sign = <floating>h.sign
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating unbias2 = <floating>h.unbias2
    cdef floating least = least_eps(<floating>0, h.spread) * <floating>fabs(h.b)
    cdef floating d, square
    cdef Py_ssize_t i
    for i in range(n):
        square = v[i]
        if not moved:
            d = sign * g[i]
            m[i] = beta1 * m[i] + gain1 * d
            square = beta2 * square + gain2 * d * d
            v[i] = square
        x[i] = root(square * unbias2) + least


# What is in a lane each is read before any is written, as a compiler cannot know that arrays are apart. `count` is a constant,
# LANES, but for what is left over at the end.
cdef inline void _step_at(const AdamAtan2 *h, floating *p, const floating *g, const floating *m, const floating *x,
                          bint cautious, bint selects, int count) noexcept nogil:
    cdef floating sign = <floating>h.sign, unbias1 = <floating>h.unbias1
    cdef floating scale = <floating>h.scale, factor = <floating>(h.scale * h.cautious_factor)
    cdef floating size = <floating>h.size, keep = <floating>h.keep
    cdef floating moved[LANES]
    cdef floating u, kept
    cdef int k
    for k in range(count):
        u = angle(unbias1 * m[k], x[k])
        if cautious:
            u = (scale if along(sign * g[k], -m[k]) < 0 else factor) * u
        kept = keep
        if selects:
            kept = keep if u * p[k] > 0 else 1
        moved[k] = kept * p[k] - size * u
    for k in range(count):
        p[k] = moved[k]


cdef inline void _step(const AdamAtan2 *h, floating **s, const floating *x, bint cautious, bint selects, Py_ssize_t start,
                       Py_ssize_t n) noexcept nogil:
    """Step a block; and ask for the next one's averages, as memory would stand still while angles are computed."""
    cdef floating *p = s[0] + start
    cdef const floating *g = s[1] + start
    cdef const floating *m = s[2] + start
    cdef const floating *v = s[3] + start
    cdef Py_ssize_t whole = n // LANES * LANES, i, j
    for j in range(n // LANES):
        i = j * LANES
        prefetch_bytes(p + i + AHEAD, LANES * sizeof(floating))
        prefetch_bytes(g + i + BLOCK, LANES * sizeof(floating))
        prefetch_bytes(m + i + BLOCK, LANES * sizeof(floating))
        prefetch_bytes(v + i + BLOCK, LANES * sizeof(floating))
        _step_at(h, p + i, g + i, m + i, x + i, cautious, selects, LANES)
    _step_at(h, p + whole, g + whole, m + whole, x + whole, cautious, selects, <int>(n - whole))


cdef inline void _pull(const AdamAtan2 *h, floating *p, const floating *first, Py_ssize_t n) noexcept nogil:
    cdef floating pull = <floating>h.pull
    cdef Py_ssize_t i
    if pull != 0:
        for i in range(n):
            p[i] = p[i] + pull * (first[i] - p[i])


cdef inline void _move(floating **s, const double *scalars, Py_ssize_t n, bint cautious, bint pulled) noexcept nogil:
    cdef const AdamAtan2 *h = <const AdamAtan2 *>scalars
    cdef floating x[BLOCK]
    cdef Py_ssize_t start = 0, count
    while start < n:
        count = unbounded(min(<Py_ssize_t>BLOCK, n - start))
        _find_roots(h, s, x, cautious, start, count)
        if pulled:
            _pull(h, s[0] + start, s[4] + start, count)
        if h.cautious_wd != 0 and h.keep != 1:
            _step(h, s, x, cautious, True, start, count)
        else:
            _step(h, s, x, cautious, False, start, count)
        start += count


cdef inline void adam_atan2(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, False, False)


cdef inline void adam_atan2_pulled(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, False, True)


cdef inline void adam_atan2_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const AdamAtan2 *h = <const AdamAtan2 *>scalars
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating d, first
    cdef Py_ssize_t i
    cdef int count = 0
    for i in range(n):
        d = sign * g[i]
        first = beta1 * m[i] + gain1 * d
        m[i] = first
        v[i] = beta2 * v[i] + gain2 * d * d
        count += along(d, -first) < 0
    lanes[0] += count


cdef inline void adam_atan2_cautious(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, True, False)


cdef inline void adam_atan2_cautious_pulled(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, True, True)

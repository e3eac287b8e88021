# Adam-atan2 (Everett et al. 2024, section 4.3): the angle of Adam's average and root in place of their quotient, which
# needs no eps; also with cautious steps (Liang et al. 2024), cautious decay (Chen et al. 2025), and a pull back to where
# the parameter began (Kumar et al. 2023).
#
# To the root is added the most that squares which are flushed to zero can take from it; else steps were twice as long.
#
# A cautious step takes two passes. The first moves the averages, computes the angles, and counts those that go with
# the gradient: a whole number, whose sum is the same in any order.
from cython cimport floating
from libc.math cimport fabs, pow
from libc.stdint cimport int32_t, int64_t
from _table cimport WORK
from rules._math cimport angle, least_eps, root, spread_of


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


cdef inline floating _angle(floating m, floating v, floating unbias1, floating unbias2, floating least) noexcept nogil:
    return angle(unbias1 * m, root(v * unbias2) + least)


# How _move gets its angle.
cdef enum:
    NEW         # of averages that it moves
    KEPT_ONE    # of the pass that measured
    AGAIN       # of the averages that that pass has moved


cdef inline void _move(floating **s, const double *scalars, Py_ssize_t n, int source, bint pulled) noexcept nogil:
    cdef const AdamAtan2 *h = <const AdamAtan2 *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *first = s[4]
    cdef floating *kept = s[WORK]
    cdef floating sign = <floating>h.sign, size = <floating>h.size
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating least = least_eps(<floating>0, h.spread) * <floating>fabs(h.b)
    cdef floating keep = <floating>h.keep, others = 1 if h.cautious_wd else keep
    cdef floating scale = <floating>h.scale, factor = <floating>(h.scale * h.cautious_factor)
    cdef floating pull = <floating>h.pull
    cdef bint pulls = pull != 0, decays = keep != 1
    cdef floating d, average, square, u, x
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if source == NEW:
            average = beta1 * m[i] + gain1 * d
            square = beta2 * v[i] + gain2 * d * d
            m[i] = average
            v[i] = square
            u = _angle(average, square, unbias1, unbias2, least)
        elif source == KEPT_ONE:
            u = kept[i]
        else:
            u = _angle(m[i], v[i], unbias1, unbias2, least)
        if source != NEW:
            u = (scale if u * d > 0 else factor) * u
        x = p[i]
        if pulled and pulls:
            x = x + pull * (first[i] - x)
        if decays:
            x = (keep if u * x > 0 else others) * x
        p[i] = x - size * u


cdef inline void adam_atan2(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, NEW, False)


cdef inline void adam_atan2_pulled(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _move(s, scalars, n, NEW, True)


cdef inline void adam_atan2_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const AdamAtan2 *h = <const AdamAtan2 *>scalars
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *kept = s[WORK]
    cdef floating sign = <floating>h.sign
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating least = least_eps(<floating>0, h.spread) * <floating>fabs(h.b)
    cdef floating d, average, square
    cdef int32_t count
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        average = beta1 * m[i] + gain1 * d
        square = beta2 * v[i] + gain2 * d * d
        m[i] = average
        v[i] = square
        kept[i] = _angle(average, square, unbias1, unbias2, least)
    count = 0
    for i in range(n):
        count += kept[i] * (sign * g[i]) > 0
    lanes[0] += count


cdef inline void adam_atan2_cautious(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    if s[WORK] != NULL:
        _move(s, scalars, n, KEPT_ONE, False)
    else:
        _move(s, scalars, n, AGAIN, False)


cdef inline void adam_atan2_cautious_pulled(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    if s[WORK] != NULL:
        _move(s, scalars, n, KEPT_ONE, True)
    else:
        _move(s, scalars, n, AGAIN, True)

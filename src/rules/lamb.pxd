# LAMB (You et al. 2020, algorithm 2): Adam's step, scaled to the parameter's length.
#
# Two passes. The first moves the averages and adds up the squares of parameter and step. The second makes the
# step, which it computes again where it has not been kept: to store it would move as many bytes as it saves.
#
# With caution (Liang et al. 2024), Adam's step u becomes c u, where it follows the gradient, and 0 elsewhere; c is one
# over their share, which is not known before all are counted. So the first pass adds up the squares of u, and its
# products with p, from which the finish has the length of c u + penalty p.
from cython cimport floating
from libc.math cimport INFINITY, pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport unbounded
from _reduce cimport add_dot, add_squares
from _table cimport LANES, PIECE, WORK
from rules._math cimport followed, least_eps, magnitude, root, scale_of_share, spread_of


cdef struct Lamb:
    double sign, weight_decay, beta1, beta2, eps, lr
    double bias_correction, grad_averaging, decoupled_decay, always_adapt, trust_clip   # switches
    double max_grad_norm, total_norm
    double clip, gain1, gain2, unbias1, unbias2, spread, penalty, keep     # by the clock
    double size, scale                                                     # by the finish


cdef inline void lamb_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Lamb *h = <Lamb *>scalars
    # A norm that is NaN clips, too, as in clip_grad_norm_; but no norm does without a bound.
    h.clip = 1
    if h.max_grad_norm != INFINITY and not h.total_norm <= h.max_grad_norm:
        h.clip = 1 / (h.total_norm / h.max_grad_norm)
    h.gain1 = 1 - h.beta1 if h.grad_averaging else 1
    h.gain2 = 1 - h.beta2
    h.unbias1 = 1 / (1 - pow(h.beta1, <double>step)) if h.bias_correction else 1
    h.unbias2 = 1 / sqrt(1 - pow(h.beta2, <double>step)) if h.bias_correction else 1
    h.spread = spread_of(h.gain2)
    h.penalty = 0 if h.decoupled_decay else h.weight_decay
    h.keep = 1 - h.lr * h.weight_decay if h.decoupled_decay else 1


cdef inline double _size(const Lamb *h, double param, double step) noexcept nogil:
    """What the step is multiplied by; of the squares of the two lengths."""
    cdef double ratio = 1
    if (h.weight_decay != 0 or h.always_adapt) and param > 0 and step > 0:
        ratio = sqrt(param) / sqrt(step)
    return h.lr * (1 if h.trust_clip and ratio > 1 else ratio)


cdef inline void lamb_finish(double *scalars, const double *sums, double *numbers,
                             Py_ssize_t size) noexcept nogil:
    cdef Lamb *h = <Lamb *>scalars
    h.size = _size(h, sums[0], sums[1])
    h.scale = 1


cdef inline void lamb_caution_finish(double *scalars, const double *sums, double *numbers,
                                     Py_ssize_t size) noexcept nogil:
    cdef Lamb *h = <Lamb *>scalars
    cdef double scale = scale_of_share(sums[2], size), step = scale * scale * sums[1]
    if h.penalty != 0:
        step += h.penalty * (2 * scale * sums[3] + h.penalty * sums[0])
    h.size = _size(h, sums[0], step)
    h.scale = scale


cdef inline floating _lamb_step(floating p, floating m, floating v, floating unbias1, floating unbias2,
                                floating eps, floating penalty) noexcept nogil:
    cdef floating u = unbias1 * m / (root(v) * unbias2 + eps)
    if penalty != 0:
        u = u + penalty * p
    return u


cdef inline void _measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n,
                          bint caution) noexcept nogil:
    cdef const Lamb *h = <const Lamb *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *u = s[WORK]
    cdef floating scale = <floating>(h.sign * h.clip), keep = <floating>h.keep
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating penalty = 0 if caution else <floating>h.penalty
    cdef bint decays = keep != 1
    cdef floating d, x, step
    cdef int count
    # Short blocks where memory is to go on while their squares are added up; longer ones in the cache.
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = start + unbounded(min(block, n - start))
        for i in range(start, stop):
            d = scale * g[i]
            m[i] = beta1 * m[i] + gain1 * d
            v[i] = beta2 * v[i] + gain2 * d * d
            x = p[i]
            if decays:
                x = keep * x
                p[i] = x
            step = _lamb_step(x, m[i], v[i], unbias1, unbias2, eps, penalty)
            u[i] = followed(d, step) if caution else step
        add_squares(p + start, lanes, stop - start)
        add_squares(u + start, lanes + LANES, stop - start)
        if caution:
            count = 0
            for i in range(start, stop):
                count += magnitude(u[i]) > 0
            lanes[2 * LANES] += count
            if h.penalty != 0:
                add_dot(p + start, u + start, lanes + 3 * LANES, stop - start)
        start = stop


cdef inline void lamb_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    _measure(s, scalars, lanes, n, False)


cdef inline void lamb_caution_measure(floating **s, const double *scalars, double *lanes,
                                      Py_ssize_t n) noexcept nogil:
    _measure(s, scalars, lanes, n, True)


cdef inline void lamb_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Lamb *h = <const Lamb *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *kept = s[WORK]
    cdef floating sign = <floating>(h.sign * h.clip)
    cdef floating size = <floating>h.size, scale = <floating>h.scale, penalty = <floating>h.penalty
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating u
    cdef bint adds = penalty != 0
    cdef Py_ssize_t i
    for i in range(n):
        if kept != NULL:
            u = scale * kept[i]
        else:
            u = scale * followed(sign * g[i], _lamb_step(p[i], m[i], v[i], unbias1, unbias2, eps, <floating>0))
        if adds:
            u = u + penalty * p[i]
        p[i] = p[i] - size * u


cdef inline void lamb(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Lamb *h = <const Lamb *>scalars
    cdef floating *p = s[0]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *u = s[WORK]
    cdef floating size = <floating>h.size, penalty = <floating>h.penalty
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef Py_ssize_t i
    if u != NULL:
        for i in range(n):
            p[i] = p[i] - size * u[i]
        return
    for i in range(n):
        p[i] = p[i] - size * _lamb_step(p[i], m[i], v[i], unbias1, unbias2, eps, penalty)

# MARS (Yuan et al. 2024, algorithms 2 and 3): AdamW and Lion along a gradient with less variance.
#
# The gradient c = d + gamma beta1 / (1 - beta1) (d - last), clipped to norm 1, where `last` is the gradient of the step
# before. Two passes: the first adds up the squares of c; the second makes the step, and computes c again, as
# to store it would move more bytes. Parameters that are no matrices may have AdamW's rule with options of their own.
#
# With caution (Liang et al. 2024) there is a pass between them, which counts the elements whose average m will follow the
# gradient d: where it does depends on how c is clipped.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int32_t, int64_t
from _prefetch cimport unbounded
from _reduce cimport add_squares
from _table cimport BLOCK, PIECE
from rules._math cimport along, direction, followed, greater, least_eps, root, scale_of_share, spread_of


cdef struct Mars:
    double sign, shrink, beta1, beta2, eps, lr, gamma
    double size, unbias, gain1, gain2, spread, correction   # by the clock
    double clip                                             # by the finish
    double scale                                            # by that of the second count


# First all of Adam's, whose update it has. Adam's clock would write to them through a pointer to another struct, which
# compilers take for other memory.
cdef struct MarsVector:
    double sign, l2, shrink, beta1, beta2, eps, lr
    double size, unbias, gain1, gain2, spread               # by the clock, as l2, shrink, beta1 and beta2
    double lr_1d, base_lr, beta1_1d, beta2_1d, weight_decay_1d


cdef inline void mars_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Mars *h = <Mars *>scalars
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)
    h.correction = h.gamma * (h.beta1 / (1 - h.beta1))


cdef inline void mars_vector_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef MarsVector *h = <MarsVector *>scalars
    # As lr changes from what it was, lr_1d does.
    cdef double lr = h.lr * (h.lr_1d / h.base_lr) if h.base_lr > 0 else h.lr
    h.l2, h.shrink = 0, 1 - lr * h.weight_decay_1d
    h.beta1, h.beta2 = h.beta1_1d, h.beta2_1d
    h.size = lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void mars_finish(double *scalars, const double *sums, double *numbers,
                             Py_ssize_t size) noexcept nogil:
    cdef Mars *h = <Mars *>scalars
    h.clip = 1 / sqrt(sums[0]) if sums[0] > 1 else 1
    h.scale = 1


cdef inline void mars_measure(floating **s, const double *scalars, double *lanes,
                              Py_ssize_t n) noexcept nogil:
    cdef const Mars *h = <const Mars *>scalars
    cdef floating *g = s[1]
    cdef floating *last = s[4]
    cdef floating c[BLOCK]
    cdef floating sign = <floating>h.sign, correction = <floating>h.correction
    cdef floating d
    cdef Py_ssize_t start = 0, count, i
    while start < n:
        count = unbounded(min(<Py_ssize_t>BLOCK, n - start))
        for i in range(count):
            d = sign * g[i]
            c[i] = d + correction * (d - last[i])
        add_squares(c, lanes, count)
        g, last = g + count, last + count
        start += count


cdef inline void mars_count(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const Mars *h = <const Mars *>scalars
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *last = s[4]
    cdef floating sign = <floating>h.sign, correction = <floating>h.correction, clip = <floating>h.clip
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1
    cdef floating d, c
    cdef int32_t count
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = start + unbounded(min(<Py_ssize_t>PIECE, n - start))
        count = 0
        for i in range(start, stop):
            d = sign * g[i]
            c = clip * (d + correction * (d - last[i]))
            count += along(d, -(beta1 * m[i] + gain1 * c)) < 0
        lanes[0] += count
        start = stop


cdef inline void mars_count_finish(double *scalars, const double *sums, double *numbers,
                                   Py_ssize_t size) noexcept nogil:
    (<Mars *>scalars).scale = scale_of_share(sums[0], size)


cdef inline void _mars_adamw(floating **s, const double *scalars, Py_ssize_t n,
                             bint amsgrad, bint caution) noexcept nogil:
    cdef const Mars *h = <const Mars *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *last = s[4]
    cdef floating *top = s[5]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink
    cdef floating correction = <floating>h.correction, clip = <floating>h.clip
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating size = <floating>h.size, unbias = <floating>h.unbias, scale = <floating>h.scale
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating d, c, u, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        c = clip * (d + correction * (d - last[i]))
        last[i] = d
        first = beta1 * m[i] + gain1 * c
        second = beta2 * v[i] + gain2 * c * c
        m[i] = first
        v[i] = second
        if amsgrad:
            second = greater(second, top[i])
            top[i] = second
        u = first / (root(second) * unbias + eps)
        if caution:
            u = scale * followed(d, u)
        p[i] = shrink * p[i] - size * u


cdef inline void mars_adamw(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_adamw(s, scalars, n, False, False)


cdef inline void mars_adamw_amsgrad(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_adamw(s, scalars, n, True, False)


cdef inline void mars_adamw_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_adamw(s, scalars, n, False, True)


cdef inline void mars_adamw_amsgrad_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_adamw(s, scalars, n, True, True)


cdef inline void _mars_lion(floating **s, const double *scalars, Py_ssize_t n, bint caution) noexcept nogil:
    cdef const Mars *h = <const Mars *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *last = s[4]      # s[3] is not used
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink, lr = <floating>h.lr
    cdef floating correction = <floating>h.correction, clip = <floating>h.clip
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1, scale = <floating>h.scale
    cdef floating d, c, u
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        c = clip * (d + correction * (d - last[i]))
        last[i] = d
        m[i] = beta1 * m[i] + gain1 * c
        u = direction(m[i])
        if caution:
            u = scale * followed(d, u)
        p[i] = shrink * p[i] - lr * u


cdef inline void mars_lion(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_lion(s, scalars, n, False)


cdef inline void mars_lion_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    _mars_lion(s, scalars, n, True)

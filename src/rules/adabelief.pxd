# AdaBelief (Zhuang et al. 2020, algorithm 2, and with the rectification of RAdam): Adam with the variance of
# the gradient about its average in place of its square.
#
# eps is added to the variance in every step, so it adds up there, and to the root. The least eps concerns the root
# alone: there is a 0 / 0 where it is smaller, while a variance can do without.
#
# Whether a step is adaptive, goes along the average alone, or is not made, while the variance cannot be estimated,
# does not change inside the loop. The compiler makes a loop of each, but not of all cases that there are:
# `amsgrad` and `adaptive` are constants.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, greater, least_eps, root, spread_of


cdef struct AdaBelief:
    double sign, beta1, beta2, eps, lr, weight_decay
    double weight_decouple, fixed_decay, rectify, degenerated_to_sgd    # switches
    double adaptive, moves, size, unbias, penalty, keep, gain1, gain2, spread   # by the clock


cdef inline void adabelief_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef AdaBelief *h = <AdaBelief *>scalars
    cdef double t = <double>step, power = pow(h.beta2, t)
    cdef double rho_inf = 2 / (1 - h.beta2) - 1
    cdef double rho = rho_inf - 2 * t * power / (1 - power)
    h.adaptive = not h.rectify or rho >= 5
    h.moves = h.adaptive or h.degenerated_to_sgd
    h.size = h.lr / (1 - pow(h.beta1, t))
    h.unbias = 1 / sqrt(1 - power)
    if h.rectify:
        h.unbias = 1
        if rho >= 5:
            h.size = h.size * sqrt(1 - power) * sqrt(
                (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    h.penalty = 0 if h.weight_decouple else h.weight_decay
    h.keep = 1
    if h.weight_decouple:
        h.keep = 1 - (1 if h.fixed_decay else h.lr) * h.weight_decay
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void _adabelief(floating **s, const double *scalars, Py_ssize_t n, bint amsgrad,
                            bint adaptive) noexcept nogil:
    cdef const AdaBelief *h = <const AdaBelief *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *top = s[4]
    cdef floating sign = <floating>h.sign, penalty = <floating>h.penalty, keep = <floating>h.keep
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating growth = <floating>h.eps, eps = least_eps(<floating>h.eps, h.spread)
    cdef floating size = <floating>h.size, unbias = <floating>h.unbias
    cdef bint decay = penalty != 0, rectify = h.rectify != 0, moves = h.moves != 0
    cdef floating d, first, second, largest, x
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, penalty, decay)
        first = beta1 * m[i] + gain1 * d
        d = d - first
        second = beta2 * v[i] + gain2 * d * d + growth
        m[i] = first
        v[i] = second
        if amsgrad:
            largest = greater(second, top[i])
            top[i] = largest
            if not rectify:
                second = largest
        x = keep * p[i]
        if adaptive:
            x = x - size * (first / (root(second) * unbias + eps))
        elif moves:
            x = x - size * first
        p[i] = x


cdef inline void adabelief(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    if (<const AdaBelief *>scalars).adaptive:
        _adabelief(s, scalars, n, False, True)
    else:
        _adabelief(s, scalars, n, False, False)


cdef inline void adabelief_amsgrad(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    if (<const AdaBelief *>scalars).adaptive:
        _adabelief(s, scalars, n, True, True)
    else:
        _adabelief(s, scalars, n, True, False)

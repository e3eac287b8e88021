# Adan (Xie et al. 2022, algorithm 1): Adam's step along averages of the gradient and of its differences.
from cython cimport floating
from libc.math cimport INFINITY, pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport prefetch_bytes
from _table cimport BLOCK, MAX_STREAMS
from rules._math cimport least_eps, root, spread_of


cdef struct Adan:
    double sign, beta1, beta2, beta3, eps, lr, weight_decay
    double no_prox                          # a switch
    double max_grad_norm, total_norm
    double clip, gain1, gain2, gain3, size1, size2, unbias3, spread, keep, begins       # by the clock


cdef inline void adan_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Adan *h = <Adan *>scalars
    h.clip = 1
    if h.max_grad_norm != INFINITY and not h.max_grad_norm / (h.total_norm + h.eps) >= 1:
        h.clip = h.max_grad_norm / (h.total_norm + h.eps)
    h.begins = step == 1
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.gain3 = 1 - h.beta3
    h.size1 = h.lr / (1 - pow(h.beta1, <double>step))
    h.size2 = h.lr * h.beta2 / (1 - pow(h.beta2, <double>step))
    h.unbias3 = 1 / sqrt(1 - pow(h.beta3, <double>step))
    h.spread = spread_of(h.gain3)
    h.keep = 1 - h.lr * h.weight_decay if h.no_prox else 1 / (1 + h.lr * h.weight_decay)


# In two loops over each block: with all six streams in one, the compiler would have to tell more pairs of arrays apart
# than it does, and the loop would stay scalar. Of so many arrays the next block is far enough ahead to ask for.
cdef inline void adan(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef floating *t[MAX_STREAMS]
    cdef Py_ssize_t start = 0
    cdef int k
    while start < n:
        for k in range(6):
            t[k] = s[k] + start
            prefetch_bytes(t[k] + BLOCK, BLOCK * sizeof(floating))
        _adan(t, <const Adan *>scalars, min(n - start, <Py_ssize_t>BLOCK))
        start += BLOCK


cdef inline void _adan(floating **s, const Adan *h, Py_ssize_t n) noexcept nogil:
    cdef floating look[BLOCK]               # the gradient, looking ahead
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *difference = s[3]
    cdef floating *v = s[4]
    cdef floating *previous = s[5]          # the negative of the last gradient
    cdef floating scale = <floating>(h.sign * h.clip), keep = <floating>h.keep
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1, size1 = <floating>h.size1
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>h.gain2, size2 = <floating>h.size2
    cdef floating beta3 = <floating>h.beta3, gain3 = <floating>h.gain3
    cdef floating unbias3 = <floating>h.unbias3, eps = least_eps(<floating>h.eps, h.spread)
    # What the decay multiplies: the parameter before the step, or after it.
    cdef floating outer = 1 if h.no_prox else keep, inner = keep if h.no_prox else 1
    cdef bint begins = h.begins != 0
    cdef floating d, c, x, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = scale * g[i]
        c = 0 if begins else d + previous[i]
        x = beta2 * difference[i] + gain2 * c
        look[i] = d + beta2 * c
        difference[i] = x
        previous[i] = -d
    for i in range(n):
        first = beta1 * m[i] - gain1 * previous[i]
        second = beta3 * v[i] + gain3 * look[i] * look[i]
        x = (size1 * first + size2 * difference[i]) / (root(second) * unbias3 + eps)
        x = outer * (inner * p[i] - x)
        m[i] = first
        v[i] = second
        p[i] = x

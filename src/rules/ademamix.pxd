# AdEMAMix (Pagliardini et al. 2024, algorithm 1): Adam's step along a fast and a slow average of the gradient.
#
# Loads come before stores: large arrays lie a multiple of 4096 bytes apart, where a load after a store to another array
# is taken to depend on it.
from cython cimport floating
from libc.float cimport DBL_EPSILON
from libc.math cimport expm1, fmin, log, pow, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport prefetch_bytes
from _table cimport BLOCK
from rules._math cimport least_eps, root, spread_of


cdef struct Ademamix:
    double sign, shrink, beta1, beta2, beta3, eps, lr, alpha
    double beta3_warmup, alpha_warmup                                   # steps; 0: no warm-up
    double gain1, gain2, keep3, gain3, mix, unbias1, unbias2, spread    # by the clock


# The half-life of an average, in steps, less one. The authors' 1e-8 is for a beta of 0; a sum that is not below 1
# has no logarithm to divide by.
cdef inline double _half_life(double beta) noexcept nogil:
    return log(0.5) / log(fmin(beta + 1e-8, 1 - DBL_EPSILON)) - 1


# The beta of a step of a warm-up in which the half-life of the average grows linearly (appendix A.1).
cdef inline double warmed_beta(int64_t step, double warmup, double first, double last) noexcept nogil:
    cdef double a = step / warmup if warmup > 0 else 1
    if a >= 1:
        return last
    return pow(0.5, 1 / ((1 - a) * _half_life(first) + a * _half_life(last) + 1))


cdef inline void ademamix_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Ademamix *h = <Ademamix *>scalars
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.keep3 = warmed_beta(step, h.beta3_warmup, h.beta1, h.beta3)
    h.gain3 = 1 - h.keep3
    h.mix = h.alpha * (step / h.alpha_warmup if step < h.alpha_warmup else 1)
    h.unbias1 = 1 / (1 - pow(h.beta1, <double>step))
    h.unbias2 = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.spread = spread_of(h.gain2)


cdef inline void ademamix(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Ademamix *h = <const Ademamix *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *slow = s[3]
    cdef floating *v = s[4]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink, lr = <floating>h.lr
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>h.gain2
    cdef floating beta3 = <floating>h.keep3, gain3 = <floating>h.gain3
    cdef floating mix = <floating>h.mix
    cdef floating unbias1 = <floating>h.unbias1, unbias2 = <floating>h.unbias2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating d, x, fast, far, second
    cdef Py_ssize_t start = 0, stop, i
    cdef int k
    # As adan(), in two loops over each block.
    while start < n:
        stop = min(start + BLOCK, n)
        for k in range(5):
            prefetch_bytes(s[k] + start + BLOCK, BLOCK * sizeof(floating))
        for i in range(start, stop):
            d = sign * g[i]
            fast = beta1 * m[i] + gain1 * d
            far = beta3 * slow[i] + gain3 * d
            m[i] = fast
            slow[i] = far
        for i in range(start, stop):
            d = sign * g[i]
            second = beta2 * v[i] + gain2 * d * d
            x = (unbias1 * m[i] + mix * slow[i]) / (root(second) * unbias2 + eps)
            x = shrink * p[i] - lr * x
            v[i] = second
            p[i] = x
        start = stop


# The simplified form (Morwani et al. 2025): one average, which is a sum of gradients whose weights fall, and the
# gradient itself beside it.
cdef struct SimAdemamix:
    double sign, shrink, beta1, beta2, eps, lr, alpha
    double beta1_warmup, min_beta1                      # steps; 0: no warm-up
    double bias_correction1, bias_correction2           # switches
    double keep1, gain2, size, unbias2, spread          # by the clock


cdef inline void sim_ademamix_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef SimAdemamix *h = <SimAdemamix *>scalars
    h.keep1 = warmed_beta(step, h.beta1_warmup, h.min_beta1, h.beta1)
    h.gain2 = 1 - h.beta2
    # The sums of the weights are as exact as the authors', who add them up: with 1 - pow() a beta near 1 is not.
    h.unbias2 = 1 / sqrt(-expm1(step * log(h.beta2)))
    h.size = 1 if h.bias_correction2 else h.unbias2
    if h.bias_correction1:
        h.size = h.size * (1 - h.beta1) / -expm1(step * log(h.beta1))
    h.spread = spread_of(h.gain2)


cdef inline void sim_ademamix(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const SimAdemamix *h = <const SimAdemamix *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.keep1, alpha = <floating>h.alpha
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>h.gain2
    cdef floating size = <floating>(h.lr * h.size), unbias2 = <floating>h.unbias2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating d, x, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        first = beta1 * m[i] + d
        second = beta2 * v[i] + gain2 * d * d
        x = shrink * p[i] - size * ((alpha * d + first) / (root(second) * unbias2 + eps))
        m[i] = first
        v[i] = second
        p[i] = x

# NAdam: Adam with Nesterov's momentum (Dozat 2016), with its schedule of the momentum.
#
# scalars: sign (-1 to maximize), l2, shrink = 1 - lr * decoupled decay, beta1, beta2, eps, lr,
#          momentum decay
# by the clock: weight of the gradient, weight of its average, 1 / sqrt(1 - beta2^t), 1 - beta1,
#          1 - beta2, 1 / sqrt(1 - beta2)
# memory: mu_product, the product of all mu so far
#
# `decay`: see sgd.pxd.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root, spread_of


cdef inline void nadam_clock(double *h, int64_t step, float *memory) noexcept nogil:
    cdef double beta1 = h[3], lr = h[6], decay = h[7]
    cdef double mu = beta1 * (1 - 0.5 * pow(0.96, step * decay))
    cdef double mu_next = beta1 * (1 - 0.5 * pow(0.96, (step + 1) * decay))
    memory[0] = memory[0] * <float>mu       # in float32, as torch
    h[6] = lr * (1 - mu) / (1 - <double>memory[0])
    h[7] = lr * mu_next / (1 - <double>memory[0] * mu_next)
    h[8] = 1 / sqrt(1 - pow(h[4], <double>step))
    h[9] = 1 - beta1
    h[10] = 1 - h[4]
    h[11] = spread_of(h[10])


cdef inline void nadam(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1], shrink = <floating>h[2]
    cdef floating beta1 = <floating>h[3], beta2 = <floating>h[4]
    cdef floating eps = least_eps(<floating>h[5], h[11])
    cdef floating of_gradient = <floating>h[6], of_average = <floating>h[7]
    cdef floating unbias = <floating>h[8], gain1 = <floating>h[9], gain2 = <floating>h[10]
    cdef bint decay = l2 != 0
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        p[i] = shrink * p[i] - (of_gradient * d + of_average * first) / (root(second) * unbias + eps)

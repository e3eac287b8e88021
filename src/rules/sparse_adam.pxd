# Adam on the elements that have a gradient (Kingma & Ba 2015), as torch.optim.SparseAdam: eps is added
# before the bias correction, not after it.
#
# scalars: sign (-1 to maximize), beta1, beta2, eps, lr
# by the clock: lr * sqrt(1 - beta2^t) / (1 - beta1^t), 1 - beta1, 1 - beta2, 1 / sqrt(1 - beta2)
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root, spread_of


cdef inline void sparse_adam_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[4] = h[4] * sqrt(1 - pow(h[2], <double>step)) / (1 - pow(h[1], <double>step))
    h[5] = 1 - h[1]
    h[6] = 1 - h[2]
    h[7] = spread_of(h[6])


cdef inline void sparse_adam(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h[0], beta1 = <floating>h[1], beta2 = <floating>h[2]
    cdef floating eps = least_eps(<floating>h[3], h[7]), size = <floating>h[4]
    cdef floating gain1 = <floating>h[5], gain2 = <floating>h[6]
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        p[i] = p[i] - size * (first / (root(second) + eps))

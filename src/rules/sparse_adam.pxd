# Adam on the elements that have a gradient (Kingma & Ba 2015), as torch.optim.SparseAdam: eps is added
# before the bias correction, not after it.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root, spread_of


cdef struct SparseAdam:
    double sign, beta1, beta2, eps, lr
    double size, gain1, gain2, spread       # by the clock


cdef inline void sparse_adam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef SparseAdam *h = <SparseAdam *>scalars
    h.size = h.lr * sqrt(1 - pow(h.beta2, <double>step)) / (1 - pow(h.beta1, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void sparse_adam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const SparseAdam *h = <const SparseAdam *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating eps = least_eps(<floating>h.eps, h.spread), size = <floating>h.size
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating d, first, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        first = beta1 * m[i] + gain1 * d
        second = beta2 * v[i] + gain2 * d * d
        m[i] = first
        v[i] = second
        p[i] = p[i] - size * (first / (root(second) + eps))

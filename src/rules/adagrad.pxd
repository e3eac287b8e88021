# Adagrad (Duchi, Hazan & Singer 2011), diagonal form.
#
# scalars: sign (-1 to maximize), l2, lr, eps, lr_decay
# by the clock: lr / (1 + (t - 1) * lr_decay)
#
# The sum gains d^2 itself. `decay`: see sgd.pxd.
from cython cimport floating
from libc.stdint cimport int64_t
from rules._math cimport least_eps, root


cdef inline void adagrad_clock(double *h, int64_t step, float *memory) noexcept nogil:
    h[2] = h[2] / (1 + (step - 1) * h[4])


cdef inline void adagrad(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *total = s[2]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1]
    cdef floating lr = <floating>h[2], eps = least_eps(<floating>h[3], 1)
    cdef bint decay = l2 != 0
    cdef floating d, t
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        t = total[i] + d * d
        total[i] = t
        p[i] = p[i] - lr * (d / (root(t) + eps))

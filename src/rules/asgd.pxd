# Averaged stochastic gradient descent (Polyak & Juditsky 1992), with the schedules of Bottou (2010).
#
# scalars: sign (-1 to maximize), l2, lambd, alpha, t0, lr
# by the clock: eta and mu of this step, shrink = 1 - lambd * eta
# memory: eta, mu of the next step
#
# While mu is 1 the average is the parameter itself; then, and without decay, a branch that does not
# change inside the loop keeps it exact. `decay`: see sgd.pxd.
from cython cimport floating
from libc.math cimport pow
from libc.stdint cimport int64_t


cdef inline void asgd_clock(double *h, int64_t step, float *memory) noexcept nogil:
    cdef double lambd = h[2], alpha = h[3], t0 = h[4], lr = h[5]
    h[5] = memory[0]
    h[6] = memory[1]
    h[7] = 1 - lambd * memory[0]
    memory[0] = <float>(lr / pow(1 + lambd * lr * step, alpha))
    memory[1] = <float>(1 / max(<double>1, step - t0))


cdef inline void asgd(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *mean = s[2]
    cdef floating sign = <floating>h[0], l2 = <floating>h[1]
    cdef floating eta = <floating>h[5], mu = <floating>h[6], shrink = <floating>h[7]
    cdef bint decay = l2 != 0
    cdef bint copied = h[6] == 1
    cdef floating d, x
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        if decay:
            d = d + l2 * p[i]
        x = shrink * p[i] - eta * d
        p[i] = x
        if copied:
            mean[i] = x
        else:
            mean[i] = mean[i] + mu * (x - mean[i])

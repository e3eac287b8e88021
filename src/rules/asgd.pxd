# Averaged stochastic gradient descent (Polyak & Juditsky 1992), with the schedules of Bottou (2010).
#
# carried: eta, mu of the next step
#
# While mu is 1 the average is the parameter itself; then, and without decay, a branch that does not
# change inside the loop shrinks it exact.
from cython cimport floating
from libc.math cimport pow
from libc.stdint cimport int64_t
from rules._math cimport descent


cdef struct Asgd:
    double sign, l2, lambd, alpha, t0, lr
    double eta, mu, shrink                  # by the clock


cdef inline void asgd_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Asgd *h = <Asgd *>scalars
    h.eta = carried[0]
    h.mu = carried[1]
    h.shrink = 1 - h.lambd * carried[0]
    carried[0] = <float>(h.lr / pow(1 + h.lambd * h.lr * step, h.alpha))
    carried[1] = <float>(1 / max(<double>1, step - h.t0))


cdef inline void asgd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Asgd *h = <const Asgd *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *mean = s[2]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2
    cdef floating eta = <floating>h.eta, mu = <floating>h.mu, shrink = <floating>h.shrink
    cdef bint decay = l2 != 0
    cdef bint copied = h.mu == 1
    cdef floating d, x
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], p[i], sign, l2, decay)
        x = shrink * p[i] - eta * d
        p[i] = x
        if copied:
            mean[i] = x
        else:
            mean[i] = mean[i] + mu * (x - mean[i])

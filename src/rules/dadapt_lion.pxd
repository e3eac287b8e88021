# D-Adaptation of Lion (Defazio and Mishchenko 2023): Lion whose steps are as large as d, an estimate of the distance to
# the solution.
#
# The step is by the old d, so the pass that measures makes it; the one after it has nothing to do.
from cython cimport floating
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t
from _prefetch cimport unbounded
from _reduce cimport add_magnitudes, add_multiples
from _table cimport LANES, PIECE, WORK
from rules._math cimport direction
from rules.dadapt_adam cimport estimate_distance


cdef struct DAdaptLion:
    double sign, lr, beta1, beta2, weight_decay
    double d, numerator_weighted, k                     # before the step
    double size, beta3                                  # by the clock


cdef inline void dadapt_lion_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef DAdaptLion *h = <DAdaptLion *>scalars
    h.beta3 = sqrt(h.beta2)
    h.size = h.d * h.lr


cdef inline void dadapt_lion_finish(double *scalars, const double *sums, double *numbers,
                                    Py_ssize_t size) noexcept nogil:
    estimate_distance(sums, (<DAdaptLion *>scalars).beta3, INFINITY, numbers)


cdef inline void dadapt_lion_measure(floating **s, const double *scalars, double *lanes,
                                     Py_ssize_t n) noexcept nogil:
    cdef const DAdaptLion *h = <const DAdaptLion *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *gone = s[3]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, size = <floating>h.size
    cdef floating keep = <floating>(1 - h.size * h.weight_decay)
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>(1 - h.beta1)
    cdef floating beta2 = <floating>h.beta2, gain2 = <floating>((1 - h.beta2) * h.size)
    cdef floating beta3 = <floating>h.beta3, gain3 = <floating>((1 - h.beta3) * h.size)
    cdef floating d, x
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    if h.lr == 0:               # a group that stands still
        return
    while start < n:
        stop = start + unbounded(min(block, n - start))
        for i in range(start, stop):
            d = sign * g[i]
            x = direction(beta1 * m[i] + gain1 * d)
            m[i] = beta2 * m[i] + gain2 * d
            u[i] = x
            p[i] = keep * p[i] - size * x
        for i in range(start, stop):
            x = u[i]
            u[i] = x * gone[i]
            gone[i] = beta3 * gone[i] + gain3 * x
        add_multiples(u + start, h.size, lanes, stop - start)
        add_magnitudes(gone + start, 1, lanes + LANES, stop - start)
        start = stop


cdef inline void dadapt_lion(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    pass

# Adam-mini (Zhang et al. 2024): Adam with one average of squares for each unit, a row, a head or a tensor.
#
# Two passes: the first adds up the squares of the gradient, whose mean the average takes in; the second makes the step.
from cython cimport floating
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from _reduce cimport add_squares
from rules._math cimport least_eps, spread_of


cdef struct AdamMini:
    double sign, shrink, beta1, beta2, eps, lr
    double head_numel                               # the elements of a head
    double size, unbias, gain1, gain2, spread       # by the clock
    double root                                     # by the finish


cdef inline void adam_mini_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef AdamMini *h = <AdamMini *>scalars
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void adam_mini_finish(double *scalars, const double *sums, double *numbers,
                                  Py_ssize_t size) noexcept nogil:
    cdef AdamMini *h = <AdamMini *>scalars
    numbers[0] = h.beta2 * numbers[0] + h.gain2 * (h.sign * h.sign * sums[0] / size)
    h.root = sqrt(numbers[0]) * h.unbias


cdef inline void adam_mini_measure(floating **s, const double *scalars, double *lanes,
                                   Py_ssize_t n) noexcept nogil:
    add_squares(s[1], lanes, n)


cdef inline void adam_mini(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const AdamMini *h = <const AdamMini *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    # The quotient by an average that has gone to zero is to be a number of this type.
    cdef double eps = least_eps(<floating>h.eps, h.spread)
    cdef floating scale = <floating>(h.size / (h.root + eps))
    cdef floating sign = <floating>h.sign, shrink = <floating>h.shrink
    cdef floating beta1 = <floating>h.beta1, gain = <floating>h.gain1
    cdef floating first
    cdef Py_ssize_t i
    for i in range(n):
        first = beta1 * m[i] + gain * (sign * g[i])
        m[i] = first
        p[i] = shrink * p[i] - scale * first

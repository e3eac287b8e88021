# The kernels with a few rules more, each for one thing that a rule can be and no optimizer here is yet: sums over rows,
# groups and all groups, numbers that are carried on by each of these, state that begins as a copy of the parameter,
# state that is stored in another type. test_passes.py runs it in the place of the installed kernels.
include "_kernels.pyx"

from libc.math cimport fmax, sqrt


cdef inline void descend(floating **s, floating size, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        s[0][i] = s[0][i] - size * s[1][i]


# p -= lr / (sqrt(v) + eps) * g, where v is an average of mean squares over the unit.
cdef struct Scaled:
    double sign, beta, eps, lr
    double size                 # by the finish


cdef void scaled_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    cdef Scaled *h = <Scaled *>scalars
    numbers[0] = h.beta * numbers[0] + (1 - h.beta) * sums[0] / size
    h.size = h.lr / (sqrt(numbers[0]) + h.eps)


cdef void scaled_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    add_squares(s[1], lanes, n)


cdef void scaled(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Scaled *h = <const Scaled *>scalars
    descend(s, <floating>(h.sign * h.size), n)


# The step is the largest distance from the start so far over the root of all squared gradients (DoG, Ivgi et al. 2023).
cdef struct Distance:
    double sign, lr, most, total
    double size                 # by the finish


cdef void distance_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    cdef Distance *h = <Distance *>scalars
    numbers[0] = fmax(h.most, sqrt(sums[0]))
    numbers[1] = h.total + sums[1]
    h.size = h.lr * numbers[0] / sqrt(numbers[1] + 1e-8)


cdef void distance_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef floating *u = s[WORK]
    cdef Py_ssize_t i
    for i in range(n):
        u[i] = s[0][i] - s[2][i]
    add_squares(u, lanes, n)
    add_squares(s[1], lanes + LANES, n)


cdef void distance(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Distance *h = <const Distance *>scalars
    descend(s, <floating>(h.sign * h.size), n)


# The group counts the weights of its steps; nothing is measured.
cdef struct Weighted:
    double sign, lr, weight_sum
    double size                 # by the finish


cdef void weighted_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    cdef Weighted *h = <Weighted *>scalars
    numbers[0] = h.weight_sum + h.lr
    h.size = h.lr / numbers[0]


cdef void weighted(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Weighted *h = <const Weighted *>scalars
    descend(s, <floating>(h.sign * h.size), n)


cdef Scaled SCALED_SCALARS
cdef Distance DISTANCE
cdef Weighted WEIGHTED

rule("by_tensor", SCALED_SCALARS, scaled[float], scaled[double])
passes("by_tensor", PER_TENSOR, 1, scaled_measure[float], scaled_measure[double], scaled_finish, ("v",))
rule("by_row", SCALED_SCALARS, scaled[float], scaled[double])
passes("by_row", PER_ROW, 1, scaled_measure[float], scaled_measure[double], scaled_finish, ("v",))
rule("by_group", DISTANCE, distance[float], distance[double], NULL, (("start", "param"),))
passes("by_group", PER_GROUP, 2, distance_measure[float], distance_measure[double], distance_finish,
       (("most", "first"), "total"))
rule("by_all", DISTANCE, distance[float], distance[double], NULL, (("start", "param"),))
passes("by_all", OVER_ALL, 2, distance_measure[float], distance_measure[double], distance_finish,
       (("most", "first"), "total"))
rule("by_count", WEIGHTED, weighted[float], weighted[double])
passes("by_count", PER_GROUP, 0, NULL, NULL, weighted_finish, ("weight_sum",))
rule("narrow_adam", ADAM, adam[float], adam[double], adam_clock,
     (("exp_avg", 0.0, "float32"), ("exp_avg_sq", 0.0, "float32")))
rule("wide_lamb", LAMB, lamb[float], lamb[double], lamb_clock,
     (("exp_avg", 0.0, "float64"), ("exp_avg_sq", 0.0, "float64")))
passes("wide_lamb", PER_TENSOR, 2, lamb_measure[float], lamb_measure[double], lamb_finish)

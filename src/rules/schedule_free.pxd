# Schedule-Free SGD, AdamW and RAdam (Defazio et al. 2024, "The Road Less Scheduled", algorithm 1).
#
# The parameter is y, where gradients are taken. The average x is not stored: it lies on the line through y and z,
# x = y + (1 - 1 / beta) (z - y).
from cython cimport floating
from libc.math cimport fmax, pow, sqrt
from libc.stdint cimport int64_t
from rules._math cimport descent, least_eps, root, spread_of


cdef struct ScheduleFreeSgd:
    double sign, l2, lr, momentum, warmup_steps, r, weight_lr_power
    double share, push, size                        # by the finish


# The numbers of a group.
cdef enum:
    K               # its steps
    WEIGHT_SUM
    LR_MAX
    SCHEDULED_LR    # of the last step


cdef inline double warmed_up(double lr, double warmup_steps, const double *numbers) noexcept nogil:
    """The learning rate of the coming step."""
    return lr * ((numbers[K] + 1) / warmup_steps) if numbers[K] < warmup_steps else lr


cdef inline double advance(double *numbers, double lr, double r, double power) noexcept nogil:
    """Take a step of this learning rate into the numbers; return the share of z in the average."""
    cdef double weight
    numbers[K] += 1
    numbers[LR_MAX] = fmax(lr, numbers[LR_MAX])
    numbers[SCHEDULED_LR] = lr
    # A negative power of 0 is infinite, and its share NaN for ever.
    weight = pow(numbers[K], r) * pow(numbers[LR_MAX], power) if numbers[LR_MAX] > 0 or power >= 0 else 0
    numbers[WEIGHT_SUM] += weight
    return weight / numbers[WEIGHT_SUM] if numbers[WEIGHT_SUM] > 0 else 0


cdef inline void schedule_free_sgd_finish(double *scalars, const double *sums, double *numbers,
                                          Py_ssize_t size) noexcept nogil:
    cdef ScheduleFreeSgd *h = <ScheduleFreeSgd *>scalars
    h.size = warmed_up(h.lr, h.warmup_steps, numbers)
    h.share = advance(numbers, h.size, h.r, h.weight_lr_power)
    h.push = h.size * (h.momentum * (1 - h.share) - 1)


cdef inline floating towards(floating y, floating z, floating share) noexcept nogil:
    """A share of the way from y to z, of which both may be the same infinity."""
    cdef floating way = z - y
    way = 0 if z == y else way
    return y + share * way


cdef inline void schedule_free_sgd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const ScheduleFreeSgd *h = <const ScheduleFreeSgd *>scalars
    cdef floating *y = s[0]
    cdef floating *g = s[1]
    cdef floating *z = s[2]
    cdef floating sign = <floating>h.sign, l2 = <floating>h.l2
    cdef floating share = <floating>h.share, push = <floating>h.push, size = <floating>h.size
    cdef bint decay = l2 != 0
    cdef floating d
    cdef Py_ssize_t i
    for i in range(n):
        d = descent(g[i], y[i], sign, l2, decay)
        y[i] = towards(y[i], z[i], share) + push * d
        z[i] = z[i] - size * d


# AdamW and RAdam. The average of squares is corrected by the age of the parameter, the share of z by that of its group.
cdef struct ScheduleFreeAdam:
    double sign, weight_decay, lr, beta1, beta2, eps, warmup_steps, r, weight_lr_power
    double unbias, gain2, spread                    # by the clock
    double share, push, size                        # by the finish


cdef struct ScheduleFreeRadam:
    double sign, weight_decay, lr, beta1, beta2, eps, silent_sgd_phase, r, weight_lr_power
    double unbias, gain2, spread, rect, adaptive    # by the clock
    double share, push, size                        # by the finish


cdef inline void schedule_free_adam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef ScheduleFreeAdam *h = <ScheduleFreeAdam *>scalars
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)


cdef inline void schedule_free_adam_finish(double *scalars, const double *sums, double *numbers,
                                           Py_ssize_t size) noexcept nogil:
    cdef ScheduleFreeAdam *h = <ScheduleFreeAdam *>scalars
    h.size = warmed_up(h.lr, h.warmup_steps, numbers)
    h.share = advance(numbers, h.size, h.r, h.weight_lr_power)
    h.push = h.size * (h.beta1 * (1 - h.share) - 1)


cdef inline double rectification(double beta2, double t) noexcept nogil:
    """The rectification of the variance at a step; 0 where it is not tractable."""
    cdef double power = pow(beta2, t)
    cdef double rho_inf = 2 / (1 - beta2) - 1
    cdef double rho = rho_inf - 2 * t * power / (1 - power)
    if rho <= 4:
        return 0
    return sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


cdef inline void schedule_free_radam_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef ScheduleFreeRadam *h = <ScheduleFreeRadam *>scalars
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.gain2 = 1 - h.beta2
    h.spread = spread_of(h.gain2)
    h.rect = rectification(h.beta2, <double>step)
    h.adaptive = h.rect > 0
    if h.rect == 0 and h.silent_sgd_phase == 0:
        h.rect = 1


cdef inline void schedule_free_radam_finish(double *scalars, const double *sums, double *numbers,
                                            Py_ssize_t size) noexcept nogil:
    cdef ScheduleFreeRadam *h = <ScheduleFreeRadam *>scalars
    cdef double rect = rectification(h.beta2, numbers[K] + 1)
    if rect == 0 and h.silent_sgd_phase == 0:
        rect = 1
    h.share = advance(numbers, h.lr * rect, h.r, h.weight_lr_power)
    h.size = h.lr * h.rect
    h.push = h.size * (h.beta1 * (1 - h.share) - 1)


cdef inline void _by_squares(floating **s, Py_ssize_t n, floating sign, floating beta2, floating gain2,
                             floating unbias, floating eps, floating penalty, floating share, floating push,
                             floating size, bint adaptive) noexcept nogil:
    cdef floating *y = s[0]
    cdef floating *g = s[1]
    cdef floating *z = s[2]
    cdef floating *v = s[3]
    cdef bint decay = penalty != 0
    cdef floating d, second
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        second = beta2 * v[i] + gain2 * d * d
        v[i] = second
        if adaptive:
            d = d / (root(second) * unbias + eps)
        if decay:
            d = d + penalty * y[i]
        y[i] = towards(y[i], z[i], share) + push * d
        z[i] = z[i] - size * d


cdef inline void schedule_free_adam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const ScheduleFreeAdam *h = <const ScheduleFreeAdam *>scalars
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    _by_squares(s, n, <floating>h.sign, <floating>h.beta2, <floating>h.gain2, <floating>h.unbias, eps,
                <floating>h.weight_decay, <floating>h.share, <floating>h.push, <floating>h.size, True)


cdef inline void schedule_free_radam(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const ScheduleFreeRadam *h = <const ScheduleFreeRadam *>scalars
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    _by_squares(s, n, <floating>h.sign, <floating>h.beta2, <floating>h.gain2, <floating>h.unbias, eps,
                <floating>h.weight_decay, <floating>h.share, <floating>h.push, <floating>h.size, h.adaptive != 0)

# NovoGrad (Ginsburg et al. 2019): momentum of gradients that are divided by the root of one average for each tensor.
#
# Two passes: the first adds up the squares of the gradient, which the average takes in; the second makes the step.
from cython cimport floating
from libc.math cimport sqrt
from _reduce cimport add_squares
from rules._math cimport least_eps, spread_of


cdef struct NovoGrad:
    double sign, weight_decay, beta1, beta2, eps, lr
    double grad_averaging, decoupled_decay      # switches
    double gain, root, penalty, keep            # by the finish


cdef inline void _novograd_scalars(NovoGrad *h, double square) noexcept nogil:
    h.root = sqrt(square)
    h.gain = 1 - h.beta1 if h.grad_averaging else 1
    h.penalty = 0 if h.decoupled_decay else h.weight_decay
    h.keep = 1 - h.lr * h.weight_decay if h.decoupled_decay else 1


cdef inline double _next_square(const NovoGrad *h, double sum, double average) noexcept nogil:
    # The first sum that is not zero is taken as it is.
    sum = h.sign * h.sign * sum
    return sum if average == 0 else h.beta2 * average + (1 - h.beta2) * sum


cdef inline void novograd_finish(double *scalars, const double *sums, double *numbers,
                                 Py_ssize_t size) noexcept nogil:
    cdef NovoGrad *h = <NovoGrad *>scalars
    numbers[0] = _next_square(h, sums[0], numbers[0])
    _novograd_scalars(h, numbers[0])


cdef inline void novograd_amsgrad_finish(double *scalars, const double *sums, double *numbers,
                                         Py_ssize_t size) noexcept nogil:
    cdef NovoGrad *h = <NovoGrad *>scalars
    numbers[0] = _next_square(h, sums[0], numbers[0])
    # NaN goes on, as it does in the average.
    if not numbers[0] <= numbers[1]:
        numbers[1] = numbers[0]
    _novograd_scalars(h, numbers[1])


cdef inline void novograd_measure(floating **s, const double *scalars, double *lanes,
                                  Py_ssize_t n) noexcept nogil:
    add_squares(s[1], lanes, n)


cdef inline void novograd(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const NovoGrad *h = <const NovoGrad *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    # The quotient by an average that has gone to zero is to be a number of this type.
    cdef double eps = least_eps(<floating>h.eps, spread_of(1 - h.beta2))
    cdef floating scale = <floating>(h.sign / (h.root + eps))
    cdef floating beta1 = <floating>h.beta1, gain = <floating>h.gain, lr = <floating>h.lr
    cdef floating penalty = <floating>h.penalty, keep = <floating>h.keep
    cdef bint decays = penalty != 0
    cdef floating d, x
    cdef Py_ssize_t i
    for i in range(n):
        x = keep * p[i]
        d = scale * g[i]
        if decays:
            d = d + penalty * x
        m[i] = beta1 * m[i] + gain * d
        p[i] = x - lr * m[i]

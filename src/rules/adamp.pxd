# AdamP and SGDP (Heo et al. 2021, algorithms 2 and 3): no step along a parameter whose length
# does not matter.
#
# Where the gradient is nearly orthogonal to all rows of a parameter, or else to the whole of it, the part of the step
# u along the row or the whole is taken out: u -= c p, where c = <p, u> / (|p| + eps)^2. Vectors have no rows.
#
# The sums of a row are p^2, g^2, <g, p> and <p, u>.
from cython cimport floating
from libc.math cimport fabs, fmax, pow, sqrt
from libc.stdint cimport int64_t
from _reduce cimport add_products
from _table cimport MAX_SUMS, PIECE, WORK
from rules._math cimport least_eps, root, spread_of


cdef struct AdamP:
    double sign, beta1, beta2, eps, lr, weight_decay, delta, wd_ratio
    double nesterov                                 # a switch
    double gain1, gain2, size, unbias, spread       # by the clock
    double alone                                    # it has no rows: nothing has been measured
    double keep                                     # by the combine or the finish


cdef struct Sgdp:
    double sign, momentum, dampening, eps, lr, weight_decay, delta, wd_ratio
    double nesterov                                 # a switch
    double alone                                    # as above
    double keep, along                              # by the combine; along, the c above, also by the finish


# --- projections: what both have in common -----------------------------------------------------------

cdef inline double cosine(const double *sums, double sign, double eps) noexcept nogil:
    """How far the gradient is along the parameter, from 0 to 1."""
    cdef double lengths = fmax(fabs(sign) * sqrt(sums[1]), eps) * fmax(sqrt(sums[0]), eps)
    if sums[0] == 0 or sums[1] == 0:
        return 0
    return fabs(sign * sums[2]) / lengths


cdef inline double share(const double *sums, double eps) noexcept nogil:
    """The step along the parameter, as a multiple of it."""
    cdef double length = sqrt(sums[0]) + eps
    return sums[3] / length / length if sums[0] > 0 else 0


cdef inline double largest_cosine(const double *sums, double sign, double eps, Py_ssize_t rows) noexcept nogil:
    """The largest of all rows; NaN if any is."""
    cdef double most = 0, found
    cdef Py_ssize_t row
    for row in range(rows):
        found = cosine(sums + MAX_SUMS * row, sign, eps)
        if found > most or found != found:
            most = found
    return most


cdef inline void add_rows(const double *sums, double *total, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t row
    cdef int k
    for k in range(4):
        total[k] = 0
    for row in range(rows):
        for k in range(4):
            total[k] += sums[MAX_SUMS * row + k]


# --- AdamP -------------------------------------------------------------------------------------------

cdef inline void adamp_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef AdamP *h = <AdamP *>scalars
    h.gain1 = 1 - h.beta1
    h.gain2 = 1 - h.beta2
    h.size = h.lr / (1 - pow(h.beta1, <double>step))
    h.unbias = 1 / sqrt(1 - pow(h.beta2, <double>step))
    h.spread = spread_of(h.gain2)
    h.keep = 1 - h.lr * h.weight_decay
    h.alone = 1


cdef inline bint adamp_combine(double *scalars, const double *sums, Py_ssize_t rows, Py_ssize_t size) noexcept nogil:
    cdef AdamP *h = <AdamP *>scalars
    cdef double total[4]
    cdef double keep = 1 - h.lr * h.weight_decay * h.wd_ratio
    h.alone = 0
    if largest_cosine(sums, h.sign, h.eps, rows) < h.delta / sqrt(<double>size):
        h.keep = keep
        return True
    add_rows(sums, total, rows)
    if cosine(total, h.sign, h.eps) < h.delta / sqrt(<double>(rows * size)):
        h.keep = keep + h.size * share(total, h.eps)
    return False


cdef inline void adamp_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    cdef AdamP *h = <AdamP *>scalars
    h.keep = h.keep + h.size * share(sums, h.eps)


cdef inline floating _adamp_step(floating g, floating m, floating v, floating beta1, floating gain1, floating unbias,
                                 floating eps, bint nesterov) noexcept nogil:
    cdef floating u = m
    if nesterov:
        u = beta1 * m + gain1 * g
    return u / (root(v) * unbias + eps)


cdef inline void adamp_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const AdamP *h = <const AdamP *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, unbias = <floating>h.unbias
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef bint nesterov = h.nesterov != 0
    cdef floating d
    # As in lamb_measure.
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = min(start + block, n)
        for i in range(start, stop):
            d = sign * g[i]
            m[i] = beta1 * m[i] + gain1 * d
            v[i] = beta2 * v[i] + gain2 * d * d
            u[i] = _adamp_step(d, m[i], v[i], beta1, gain1, unbias, eps, nesterov)
        add_products(p + start, g + start, u + start, lanes, stop - start)
        start = stop


cdef inline void adamp(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const AdamP *h = <const AdamP *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating *u = s[WORK]
    cdef floating keep = <floating>h.keep, size = <floating>h.size
    cdef floating sign = <floating>h.sign, unbias = <floating>h.unbias
    cdef floating beta1 = <floating>h.beta1, beta2 = <floating>h.beta2
    cdef floating gain1 = <floating>h.gain1, gain2 = <floating>h.gain2
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef bint nesterov = h.nesterov != 0
    cdef floating d, first, second
    cdef Py_ssize_t i
    if h.alone != 0:
        for i in range(n):
            d = sign * g[i]
            first = beta1 * m[i] + gain1 * d
            second = beta2 * v[i] + gain2 * d * d
            m[i] = first
            v[i] = second
            p[i] = keep * p[i] - size * _adamp_step(d, first, second, beta1, gain1, unbias, eps, nesterov)
        return
    if u != NULL:
        for i in range(n):
            p[i] = keep * p[i] - size * u[i]
        return
    for i in range(n):
        p[i] = keep * p[i] - size * _adamp_step(sign * g[i], m[i], v[i], beta1, gain1, unbias, eps, nesterov)


# --- SGDP --------------------------------------------------------------------------------------------

cdef inline void sgdp_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Sgdp *h = <Sgdp *>scalars
    h.keep = 1 - h.lr * h.weight_decay / (1 - h.momentum)
    h.along = 0
    h.alone = 1


cdef inline bint sgdp_combine(double *scalars, const double *sums, Py_ssize_t rows, Py_ssize_t size) noexcept nogil:
    cdef Sgdp *h = <Sgdp *>scalars
    cdef double total[4]
    cdef double keep = 1 - h.lr * h.weight_decay * h.wd_ratio / (1 - h.momentum)
    h.alone = 0
    if largest_cosine(sums, h.sign, h.eps, rows) < h.delta / sqrt(<double>size):
        h.keep = keep
        return True
    add_rows(sums, total, rows)
    if cosine(total, h.sign, h.eps) < h.delta / sqrt(<double>(rows * size)):
        h.keep = keep
        h.along = share(total, h.eps)
    return False


cdef inline void sgdp_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    cdef Sgdp *h = <Sgdp *>scalars
    h.along = share(sums, h.eps)


cdef inline void sgdp_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const Sgdp *h = <const Sgdp *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, momentum = <floating>h.momentum, gain = <floating>(1 - h.dampening)
    cdef bint nesterov = h.nesterov != 0
    cdef floating d
    cdef Py_ssize_t block = 128 if n <= PIECE else PIECE
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = min(start + block, n)
        for i in range(start, stop):
            d = sign * g[i]
            m[i] = momentum * m[i] + gain * d
            u[i] = m[i]
            if nesterov:
                u[i] = d + momentum * m[i]
        add_products(p + start, g + start, u + start, lanes, stop - start)
        start = stop


# Without Nesterov's form the buffer itself is projected, as in the authors' code.
cdef inline void sgdp(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Sgdp *h = <const Sgdp *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating sign = <floating>h.sign, momentum = <floating>h.momentum, lr = <floating>h.lr
    cdef floating along = <floating>h.along, keep = <floating>h.keep, gain = <floating>(1 - h.dampening)
    cdef bint nesterov = h.nesterov != 0
    cdef floating d, u
    cdef Py_ssize_t i
    if h.alone != 0:
        for i in range(n):
            d = sign * g[i]
            u = momentum * m[i] + gain * d
            m[i] = u
            if nesterov:
                u = d + momentum * u
            p[i] = keep * p[i] - lr * u
    elif nesterov:
        keep = <floating>(h.keep + h.lr * h.along)
        for i in range(n):
            p[i] = keep * p[i] - lr * (sign * g[i] + momentum * m[i])
    elif along == 0:
        for i in range(n):
            p[i] = keep * p[i] - lr * m[i]
    else:
        for i in range(n):
            u = m[i] - along * p[i]
            m[i] = u
            p[i] = keep * p[i] - lr * u

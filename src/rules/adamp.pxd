# AdamP and SGDP (Heo et al. 2021, algorithms 2 and 3): no step along a parameter whose length
# does not matter.
#
# Where the gradient is nearly orthogonal to all rows of a parameter, or else to the whole of it, the part of the step
# u along the row or the whole is taken out: u -= c p, where c = <p, u> / (|p| + eps)^2. Vectors have no rows.
#
# The sums of a row are p^2, g^2, <g, p> and <p, u>.
#
# With caution (Liang et al. 2024), as in timm: where u is projected, the gradient d is, too; of u that is kept which
# follows d, longer by the inverse of its share of the parameter; and its part along p is taken out once more. So a pass
# between the two counts what follows, and adds up its product with p.
from cython cimport floating
from libc.math cimport fabs, fmax, pow, sqrt
from libc.stdint cimport int32_t, int64_t
from _prefetch cimport unbounded
from _reduce cimport add_dot, add_products
from _table cimport LANES, MAX_SUMS, PIECE, WORK
from rules._math cimport followed, least_eps, magnitude, root, scale_of_share, spread_of


cdef struct AdamP:
    double sign, beta1, beta2, eps, lr, weight_decay, delta, wd_ratio
    double nesterov                                 # a switch
    double gain1, gain2, size, unbias, spread       # by the clock
    double alone                                    # it has no rows: nothing has been measured
    double keep                                     # by the combine or the finish
    double projection, along, turn, scale           # with caution; see below


cdef struct Sgdp:
    double sign, momentum, dampening, eps, lr, weight_decay, delta, wd_ratio
    double nesterov                                 # a switch
    double alone                                    # as above
    double keep, along                              # by the combine; along, the c above, also by the finish
    double projection, turn, scale                  # with caution; see below


# --- projections: what both have in common -----------------------------------------------------------

cdef inline double cosine(const double *sums, double sign, double eps) noexcept nogil:
    """How far the gradient is along the parameter, from 0 to 1."""
    cdef double lengths = fmax(fabs(sign) * sqrt(sums[1]), eps) * fmax(sqrt(sums[0]), eps)
    if sums[0] == 0 or sums[1] == 0:
        return 0
    return fabs(sign * sums[2]) / lengths


cdef inline double multiple(double product, double square, double eps) noexcept nogil:
    """What has this product with a parameter of this square, along it: as a multiple of the parameter."""
    cdef double length = sqrt(square) + eps
    return product / length / length if square > 0 else 0


cdef inline double share(const double *sums, double eps) noexcept nogil:
    """The step along the parameter, as a multiple of it."""
    return multiple(sums[3], sums[0], eps)


cdef inline double largest_cosine(const double *sums, double sign, double eps, Py_ssize_t rows) noexcept nogil:
    """The largest of all rows; NaN if any is."""
    cdef double most = 0, found
    cdef Py_ssize_t row
    for row in range(rows):
        found = cosine(sums + MAX_SUMS * row, sign, eps)
        if found > most or found != found:
            most = found
    return most


cdef inline void add_rows(const double *sums, double *total, Py_ssize_t rows, int count) noexcept nogil:
    cdef Py_ssize_t row
    cdef int k
    for k in range(count):
        total[k] = 0
    for row in range(rows):
        for k in range(count):
            total[k] += sums[MAX_SUMS * row + k]


# What is projected.
cdef enum:
    NOTHING
    THE_WHOLE
    ROWS


cdef inline int projection_of(const double *sums, double *total, double sign, double eps, double delta, Py_ssize_t rows,
                              Py_ssize_t size) noexcept nogil:
    if largest_cosine(sums, sign, eps, rows) < delta / sqrt(<double>size):
        return ROWS
    add_rows(sums, total, rows, 4)
    if cosine(total, sign, eps) < delta / sqrt(<double>(rows * size)):
        return THE_WHOLE
    return NOTHING


# --- caution: of the gradient, the multiple that is taken out is `turn` -----------------------------

ctypedef fused Projecting:
    AdamP
    Sgdp


cdef inline double rate_of(Projecting *h) noexcept nogil:
    if Projecting is AdamP:
        return h.size
    else:
        return h.lr


cdef inline double less_decay(Projecting *h) noexcept nogil:
    """What is kept of a parameter that is projected."""
    if Projecting is AdamP:
        return 1 - h.lr * h.weight_decay * h.wd_ratio
    else:
        return 1 - h.lr * h.weight_decay * h.wd_ratio / (1 - h.momentum)


cdef inline void turn(Projecting *h, const double *sums) noexcept nogil:
    h.along = multiple(sums[3], sums[0], h.eps)
    h.turn = multiple(h.sign * sums[2], sums[0], h.eps)


cdef inline void turn_back(Projecting *h, const double *sums) noexcept nogil:
    """Take out once more what is along the parameter, of what follows the gradient."""
    h.keep = h.keep + rate_of(h) * h.scale * multiple(sums[5], sums[0], h.eps)


cdef inline bint combine_cautious(Projecting *h, const double *sums, Py_ssize_t rows, Py_ssize_t size) noexcept nogil:
    cdef double total[MAX_SUMS]
    cdef int projection = projection_of(sums, total, h.sign, h.eps, h.delta, rows, size)
    h.projection = projection
    h.alone = 0
    if projection != NOTHING:
        h.keep = less_decay(h)
    if projection == THE_WHOLE:
        turn(h, total)
    return projection == ROWS


cdef inline bint combine_cautious_again(Projecting *h, const double *sums, Py_ssize_t rows,
                                        Py_ssize_t size) noexcept nogil:
    cdef double total[MAX_SUMS]
    add_rows(sums, total, rows, 6)
    h.scale = scale_of_share(total[4], rows * size)
    if h.projection == THE_WHOLE:
        turn_back(h, total)
    return h.projection == ROWS


cdef inline void count(const floating *p, const floating *u, double *lanes, bint projects,
                       Py_ssize_t n) noexcept nogil:
    """The sums of what follows the gradient: how many elements, and the product with the parameter."""
    cdef int32_t found = 0
    cdef Py_ssize_t i
    for i in range(n):
        found += magnitude(u[i]) > 0
    lanes[0] += found
    if projects:
        add_dot(p, u, lanes + LANES, n)


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
    h.projection = h.along = h.turn = 0
    h.scale = 1


cdef inline bint adamp_combine(double *scalars, const double *sums, Py_ssize_t rows, Py_ssize_t size) noexcept nogil:
    cdef AdamP *h = <AdamP *>scalars
    cdef double total[MAX_SUMS]
    cdef int projection = projection_of(sums, total, h.sign, h.eps, h.delta, rows, size)
    h.alone = 0
    if projection != NOTHING:
        h.keep = less_decay(h)
    if projection == THE_WHOLE:
        h.keep = h.keep + h.size * share(total, h.eps)
    return projection == ROWS


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
        stop = start + unbounded(min(block, n - start))
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


cdef inline bint adamp_caution_combine(double *scalars, const double *sums, Py_ssize_t rows,
                                       Py_ssize_t size) noexcept nogil:
    return combine_cautious(<AdamP *>scalars, sums, rows, size)


cdef inline bint adamp_combine_again(double *scalars, const double *sums, Py_ssize_t rows,
                                     Py_ssize_t size) noexcept nogil:
    return combine_cautious_again(<AdamP *>scalars, sums, rows, size)


cdef inline void adamp_caution_finish(double *scalars, const double *sums, double *numbers,
                                      Py_ssize_t size) noexcept nogil:
    turn(<AdamP *>scalars, sums)
    turn_back(<AdamP *>scalars, sums)


cdef inline void _adamp_follow(floating **s, const double *scalars, floating *u, Py_ssize_t start,
                               Py_ssize_t stop) noexcept nogil:
    """The step where it follows the gradient."""
    cdef const AdamP *h = <const AdamP *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *v = s[3]
    cdef floating sign = <floating>h.sign, unbias = <floating>h.unbias
    cdef floating beta1 = <floating>h.beta1, gain1 = <floating>h.gain1
    cdef floating eps = least_eps(<floating>h.eps, h.spread)
    cdef floating along = <floating>h.along, turn = <floating>h.turn
    cdef bint nesterov = h.nesterov != 0, projects = h.projection != NOTHING
    cdef floating d, step
    cdef Py_ssize_t i
    for i in range(start, stop):
        d = sign * g[i]
        step = _adamp_step(d, m[i], v[i], beta1, gain1, unbias, eps, nesterov)
        if projects:
            step = step - along * p[i]
            d = d - turn * p[i]
        u[i - start] = followed(d, step)


cdef inline void adamp_count(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef floating *u = s[WORK]
    cdef bint projects = (<const AdamP *>scalars).projection != NOTHING
    cdef Py_ssize_t start = 0, stop
    while start < n:
        stop = start + unbounded(min(<Py_ssize_t>PIECE, n - start))
        _adamp_follow(s, scalars, u + start, start, stop)
        count(s[0] + start, u + start, lanes, projects, stop - start)
        start = stop


cdef inline void adamp_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const AdamP *h = <const AdamP *>scalars
    cdef floating room[PIECE]
    cdef floating *p = s[0]
    cdef floating *u = room
    cdef floating keep = <floating>h.keep, size = <floating>(h.size * h.scale)
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = start + unbounded(min(<Py_ssize_t>PIECE, n - start))
        if s[WORK] != NULL:
            u = s[WORK] + start
        else:
            _adamp_follow(s, scalars, u, start, stop)
        for i in range(start, stop):
            p[i] = keep * p[i] - size * u[i - start]
        start = stop


# --- SGDP --------------------------------------------------------------------------------------------

cdef inline void sgdp_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Sgdp *h = <Sgdp *>scalars
    h.keep = 1 - h.lr * h.weight_decay / (1 - h.momentum)
    h.alone = 1
    h.projection = h.along = h.turn = 0
    h.scale = 1


cdef inline bint sgdp_combine(double *scalars, const double *sums, Py_ssize_t rows, Py_ssize_t size) noexcept nogil:
    cdef Sgdp *h = <Sgdp *>scalars
    cdef double total[MAX_SUMS]
    cdef int projection = projection_of(sums, total, h.sign, h.eps, h.delta, rows, size)
    h.alone = 0
    if projection != NOTHING:
        h.keep = less_decay(h)
    if projection == THE_WHOLE:
        h.along = share(total, h.eps)
    return projection == ROWS


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
        stop = start + unbounded(min(block, n - start))
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


cdef inline bint sgdp_caution_combine(double *scalars, const double *sums, Py_ssize_t rows,
                                      Py_ssize_t size) noexcept nogil:
    return combine_cautious(<Sgdp *>scalars, sums, rows, size)


cdef inline bint sgdp_combine_again(double *scalars, const double *sums, Py_ssize_t rows,
                                    Py_ssize_t size) noexcept nogil:
    return combine_cautious_again(<Sgdp *>scalars, sums, rows, size)


cdef inline void sgdp_caution_finish(double *scalars, const double *sums, double *numbers,
                                     Py_ssize_t size) noexcept nogil:
    turn(<Sgdp *>scalars, sums)
    turn_back(<Sgdp *>scalars, sums)


cdef inline floating _sgdp_follow(floating p, floating d, floating m, floating momentum, floating along, floating turn,
                                  bint nesterov, bint projects) noexcept nogil:
    """The step where it follows the gradient."""
    cdef floating u = m
    if nesterov:
        u = d + momentum * m
    if projects:
        u = u - along * p
        d = d - turn * p
    return followed(d, u)


cdef inline void sgdp_count(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef const Sgdp *h = <const Sgdp *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating *u = s[WORK]
    cdef floating sign = <floating>h.sign, momentum = <floating>h.momentum
    cdef floating along = <floating>h.along, turn = <floating>h.turn
    cdef bint nesterov = h.nesterov != 0, projects = h.projection != NOTHING
    cdef Py_ssize_t start = 0, stop, i
    while start < n:
        stop = start + unbounded(min(<Py_ssize_t>PIECE, n - start))
        for i in range(start, stop):
            u[i] = _sgdp_follow(p[i], sign * g[i], m[i], momentum, along, turn, nesterov, projects)
        count(p + start, u + start, lanes, projects, stop - start)
        start = stop


# As without caution, the buffer is projected; what does not follow the gradient stays in it.
cdef inline void sgdp_caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Sgdp *h = <const Sgdp *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *m = s[2]
    cdef floating keep = <floating>h.keep, size = <floating>(h.lr * h.scale)
    cdef floating sign = <floating>h.sign, momentum = <floating>h.momentum
    cdef floating along = <floating>h.along, turn = <floating>h.turn
    cdef bint nesterov = h.nesterov != 0, projects = h.projection != NOTHING
    cdef floating u
    cdef Py_ssize_t i
    for i in range(n):
        u = _sgdp_follow(p[i], sign * g[i], m[i], momentum, along, turn, nesterov, projects)
        if projects and not nesterov:
            m[i] = m[i] - along * p[i]
        p[i] = keep * p[i] - size * u

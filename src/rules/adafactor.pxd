# Adafactor (Shazeer & Stern 2018), as torch.optim.Adafactor: the mean square of a matrix's gradient is kept
# as one factor a row and one a column.
#
#   u = g / sqrt(max(row * column, floor))
#   p = shrink * p - size * u
#
# Or, of those that multiply (transformers' form, Big Vision's, and CAME of Luo et al. 2023), with an average m of u and
# further factors of that,
#
#   u = g * row * column,  m = keep * m + gain * u
#   p = shrink * p - size * m [* more_row * more_column]
#
# A vector is a matrix of one row, whose column factors are its mean squares. All work on a span of
# one row.
from cython cimport floating
from _reduce cimport SUM_SQUARES, fold_sums, reduce_span
from _table cimport LANES
from rules._math cimport direction, greater, root


cdef inline void add_squares_each(floating *g, double *sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        sums[i] = sums[i] + <double>g[i] * <double>g[i]


cdef inline double sum_squares(floating *g, Py_ssize_t n) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i
    if n >= LANES:
        return reduce_span(g, n, SUM_SQUARES, 0)
    for i in range(n):      # rows of small filters, for which lanes do not pay
        total = total + <double>g[i] * <double>g[i]
    return total


# The condition does not change inside a loop; the compiler makes two loops of it.
cdef inline floating _scaled(floating g, floating row, floating column,
                             floating floor, bint product) noexcept nogil:
    if product:
        return g * row * column
    return g / root(greater(row * column, floor))


cdef inline double scaled_square(floating *g, floating row, floating *column,
                                 floating floor, bint product, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef double u
    cdef Py_ssize_t i, j, blocks = n // LANES
    cdef int k, width
    if n < LANES:
        lane[0] = 0
        for i in range(n):
            u = <double>_scaled(g[i], row, column[i], floor, product)
            lane[0] = lane[0] + u * u
        return lane[0]
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            u = <double>_scaled(g[i + k], row, column[i + k], floor, product)
            lane[k] = lane[k] + u * u
    i = blocks * LANES
    for k in range(<int>(n - i)):
        u = <double>_scaled(g[i + k], row, column[i + k], floor, product)
        lane[k] = lane[k] + u * u
    width = LANES // 2
    while width > 0:
        for k in range(width):
            lane[k] = lane[k] + lane[k + width]
        width = width // 2
    return lane[0]


cdef inline void scaled_update(floating *p, floating *g, floating row,
                               floating *column, floating floor, bint product, floating shrink,
                               floating size, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = shrink * p[i] - size * _scaled(g[i], row, column[i], floor, product)


cdef inline floating _followed(floating m, floating u, floating keep, floating gain) noexcept nogil:
    return keep * m + gain * u


# Adds squares to those of the columns, and returns those of the row.
cdef inline double add_residuals(floating *g, floating *m, floating row, floating *column, floating clip,
                                 floating keep, floating gain, double *sums, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef double square
    cdef floating u
    cdef Py_ssize_t i, j, blocks = n // LANES
    cdef int k, rest
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks + 1):
        i = j * LANES
        rest = LANES if j < blocks else <int>(n - i)
        for k in range(rest):
            u = g[i + k] * row * column[i + k]
            u = clip * u - _followed(m[i + k], u, keep, gain)
            square = <double>u * <double>u
            lane[k] = lane[k] + square
            sums[i + k] = sums[i + k] + square
    return fold_sums(lane)


cdef inline floating _agreeing(floating m, floating g, floating sign) noexcept nogil:
    # m where it is along the gradient, else 0. Signs are compared, as a product could be flushed to zero.
    return m if direction(m) * direction(sign * g) > 0 else 0


cdef inline double count_agreements(floating *g, floating *m, floating row, floating *column, floating keep,
                                    floating gain, Py_ssize_t n) noexcept nogil:
    cdef floating sign = 1 if gain > 0 else -1
    cdef Py_ssize_t i, count = 0
    for i in range(n):
        count = count + (_agreeing(_followed(m[i], g[i] * row * column[i], keep, gain), g[i], sign) != 0)
    return <double>count


cdef inline void followed_update(floating *p, floating *g, floating *m, floating row, floating *column,
                                 floating keep, floating gain, bint cautious, floating shrink, floating size,
                                 Py_ssize_t n) noexcept nogil:
    cdef floating sign = 1 if gain > 0 else -1
    cdef floating u
    cdef Py_ssize_t i
    for i in range(n):
        u = _followed(m[i], g[i] * row * column[i], keep, gain)
        m[i] = u
        if cautious:
            u = _agreeing(u, g[i], sign)
        p[i] = shrink * p[i] - size * u


cdef inline void confident_update(floating *p, floating *g, floating *m, floating row, floating *column,
                                  floating more_row, floating *more_column, floating keep, floating gain,
                                  floating shrink, floating size, Py_ssize_t n) noexcept nogil:
    cdef floating u
    cdef Py_ssize_t i
    for i in range(n):
        u = _followed(m[i], g[i] * row * column[i], keep, gain)
        m[i] = u
        p[i] = shrink * p[i] - size * (u * more_row * more_column[i])


cdef struct MeanSquare:
    double weight           # 1 - beta2


# The mean squares of a vector: s[0] = v, s[1] = g.
cdef inline void mean_square(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef floating *v = s[0]
    cdef floating *g = s[1]
    cdef floating weight = <floating>(<const MeanSquare *>scalars).weight
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = v[i] + weight * (g[i] * g[i] - v[i])

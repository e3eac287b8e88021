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
# A vector is a matrix of one row, whose column factors are by its own mean squares. All work on a span of one row, or on
# the averages of all rows or columns of a matrix.
from cython cimport floating
from libc.math cimport NAN, isfinite, sqrt
from _reduce cimport SUM_SQUARES, fold_sums, reduce_span
from _table cimport LANES, Factored
from rules._math cimport direction, greater, root


cdef inline double fold_row(double *lane, Py_ssize_t n) noexcept nogil:
    """The sum of a row of n elements."""
    cdef double total = 0
    cdef int k
    if n >= LANES:
        return fold_sums(lane)
    for k in range(<int>n):     # rows of small filters, for which folding does not pay
        total = total + lane[k]
    return total


# Adds squares to those of the columns, the first ones in the place of what was there, and returns those of the row.
cdef inline double add_squares_each(floating *g, double *sums, bint first, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef double square
    cdef Py_ssize_t i, j, blocks = n // LANES
    cdef int k
    if first:
        for i in range(n):
            sums[i] = 0
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            square = <double>g[i + k] * <double>g[i + k]
            lane[k] = lane[k] + square
            sums[i + k] = sums[i + k] + square
    i = blocks * LANES
    for k in range(<int>(n - i)):
        square = <double>g[i + k] * <double>g[i + k]
        lane[k] = lane[k] + square
        sums[i + k] = sums[i + k] + square
    return fold_row(lane, n)


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
    cdef int k
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
    return fold_row(lane, n)


cdef inline void scaled_update(floating *p, floating *g, floating row,
                               floating *column, floating floor, bint product, floating shrink,
                               floating size, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = shrink * p[i] - size * _scaled(g[i], row, column[i], floor, product)


cdef inline floating _followed(floating m, floating u, floating keep, floating gain) noexcept nogil:
    return keep * m + gain * u


# As add_squares_each, of the residuals.
cdef inline double add_residuals(floating *g, floating *m, floating row, floating *column, floating clip,
                                 floating keep, floating gain, double *sums, bint first, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef double square
    cdef floating u
    cdef Py_ssize_t i, j, blocks = n // LANES
    cdef int k, rest
    if first:
        for i in range(n):
            sums[i] = 0
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
    return fold_row(lane, n)


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


# --- averages and factors ------------------------------------------------------------------------

cdef inline floating inverse_root(floating square, floating *type) noexcept nogil:
    # Where a mean square is zero, all of its gradients are and have been, and so the factor is 0.
    return <floating>(1 / sqrt(<double>square)) if square != 0 else 0


# The averages of the squares of a vector, and the factors by them.
cdef inline void move_squares(floating *g, floating *kept, floating *factor, double weight, double eps, bint product,
                              Py_ssize_t n) noexcept nogil:
    cdef double square
    cdef Py_ssize_t i
    for i in range(n):
        square = <double>kept[i]
        kept[i] = <floating>(square + weight * (<double>g[i] * <double>g[i] + eps - square))
        factor[i] = inverse_root(kept[i], g) if product else kept[i]


# Moves the averages of lines of so many elements; their mean.
cdef inline double move_lines(floating *kept, const double *sums, Py_ssize_t n, double elements, double weight,
                              double eps) noexcept nogil:
    cdef double square, total = 0
    cdef Py_ssize_t i
    for i in range(n):
        square = <double>kept[i]
        kept[i] = <floating>(square + weight * (sums[i] / elements + eps - square))
    for i in range(n):
        total = total + <double>kept[i]
    return total / <double>n


cdef inline void row_factors(floating *kept, floating *factor, double mean, double least, bint product,
                             Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if product:
        for i in range(n):
            factor[i] = <floating>sqrt(mean / <double>kept[i]) if kept[i] != 0 else 0
        return
    if mean < least:
        mean = least
    for i in range(n):
        factor[i] = <floating>(<double>kept[i] / mean)


cdef inline void column_factors(floating *kept, floating *factor, bint product, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        factor[i] = inverse_root(kept[i], kept) if product else kept[i]


# --- numbers between passes ----------------------------------------------------------------------

cdef inline double scale_of(double rms, double least, bint product) noexcept nogil:
    """The size of a parameter. NaN is dropped by transformers' form, and kept by torch's."""
    if rms != rms and not product:
        return rms
    return rms if rms > least else least


cdef inline double clip_of(double rms, double threshold) noexcept nogil:
    """What bounds a root mean square; NaN if that is not finite."""
    if not isfinite(rms):
        return NAN
    return 1 / greater(1.0, rms / threshold)


cdef inline void decide(Factored *f) noexcept nogil:
    """The factors of the update."""
    f.along = f.sign * f.clip * f.scale * f.rate
    f.gain = (1 - f.keep) * f.along
    f.size = f.rest if f.moment != NULL else f.rest * f.along
    f.shrink = 1 - f.decay * (f.scale if f.decays_by_scale else 1)

# Adafactor (Shazeer & Stern 2018), as torch.optim.Adafactor: the mean square of a matrix's gradient is kept
# as one factor a row and one a column.
#
#   u = g / sqrt(max(row * column, floor)) = g * min(row_factor * column_factor, most)
#   p = shrink * p - size * u
#
# Or, of those whose factors multiply it one by one (transformers' form, Big Vision's, and CAME of Luo et al. 2023), with an
# average m of u and further factors of that,
#
#   u = g * row * column,  m = keep * m + gain * u
#   p = shrink * p - size * m [* more_row * more_column]
#
# A vector is a matrix of one row, whose column factors are by its own mean squares. All work on a span of one row, or on
# the averages of all rows or columns of a matrix.
from cython cimport floating
from libc.math cimport NAN, isfinite, sqrt
from libc.string cimport memcpy
from _prefetch cimport AHEAD, prefetch_bytes
from _reduce cimport fold_sums
from _table cimport LANES, Factored
from rules._math cimport direction, greater


cdef enum:
    TOGETHER = 4        # rows that are read side by side: the sums of columns are fetched once, and memory reads ahead in each


cdef inline double fold_row(double *lane, Py_ssize_t n) noexcept nogil:
    """The sum of a row of n elements."""
    cdef double total = 0
    cdef int k
    if n >= LANES:
        return fold_sums(lane)
    for k in range(<int>n):     # rows of small filters, for which folding does not pay
        total = total + lane[k]
    return total


# In the sums, `rows` is a constant, 1 or TOGETHER: so many rows of a matrix, of n elements each, that begin `stride` after
# each other. So is `count`, but at the end of a row. Loops over them become straight code.

cdef inline void _prefetch_rows(const floating *g, Py_ssize_t stride, int rows) noexcept nogil:
    cdef int r
    for r in range(rows):
        prefetch_bytes(g + r * stride + AHEAD, LANES * sizeof(floating))


cdef inline void _open_lanes(double *lane, int rows, double *sums, bint first, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if first:
        for i in range(n):
            sums[i] = 0
    for i in range(rows * LANES):
        lane[i] = 0


cdef inline void _squares_at(floating *g, Py_ssize_t stride, int rows, double *lane, double *sums, int count) noexcept nogil:
    cdef double x, total
    cdef int k, r
    for k in range(count):
        total = 0
        for r in range(rows):
            x = <double>g[r * stride + k]
            lane[r * LANES + k] = lane[r * LANES + k] + x * x
            total = x * x if r == 0 else total + x * x
        sums[k] = sums[k] + total


# Adds squares to those of the columns, the first ones in the place of what was there, and finds those of each row.
cdef inline void add_squares_each(floating *g, Py_ssize_t stride, int rows, double *row_sums, double *sums, bint first,
                                  Py_ssize_t n) noexcept nogil:
    cdef double lane[TOGETHER * LANES]
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    cdef int r
    _open_lanes(lane, rows, sums, first, n)
    for j in range(n // LANES):
        i = j * LANES
        _prefetch_rows(g + i, stride, rows)
        _squares_at(g + i, stride, rows, lane, sums + i, LANES)
    _squares_at(g + whole, stride, rows, lane, sums + whole, <int>(n - whole))
    for r in range(rows):
        row_sums[r] = fold_row(lane + r * LANES, n)


cdef inline void _plain_squares_at(floating *p, Py_ssize_t stride, int rows, double *lane, int count) noexcept nogil:
    cdef double x, total
    cdef int k, r
    for k in range(count):
        total = 0
        for r in range(rows):
            x = <double>p[r * stride + k]
            total = x * x if r == 0 else total + x * x
        lane[k] = lane[k] + total


# Adds squares to lanes.
cdef inline void add_plain_squares(floating *p, Py_ssize_t stride, int rows, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    memcpy(lane, lanes, sizeof(lane))
    for j in range(n // LANES):
        i = j * LANES
        _prefetch_rows(p + i, stride, rows)
        _plain_squares_at(p + i, stride, rows, lane, LANES)
    _plain_squares_at(p + whole, stride, rows, lane, <int>(n - whole))
    memcpy(lanes, lane, sizeof(lane))


# The gradient by the factors of its row and its column: one by one, or by their product, which is bounded.
cdef inline floating _scaled(floating g, floating row, floating column, floating most, bint product) noexcept nogil:
    if product:
        return g * row * column
    row = row * column
    return g * (most if row > most else row)    # NaN stays


cdef inline void _scaled_squares_at(floating *g, Py_ssize_t stride, int rows, const floating *row, const floating *column,
                                    floating most, bint product, double *lane, int count) noexcept nogil:
    cdef double u, total
    cdef int k, r
    for k in range(count):
        total = 0
        for r in range(rows):
            u = <double>_scaled(g[r * stride + k], row[r], column[k], most, product)
            total = u * u if r == 0 else total + u * u
        lane[k] = lane[k] + total


cdef inline void _add_scaled_squares(floating *g, Py_ssize_t stride, int rows, const floating *row, const floating *column,
                                     floating most, bint product, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    memcpy(lane, lanes, sizeof(lane))
    for j in range(n // LANES):
        i = j * LANES
        _prefetch_rows(g + i, stride, rows)
        _scaled_squares_at(g + i, stride, rows, row, column + i, most, product, lane, LANES)
    _scaled_squares_at(g + whole, stride, rows, row, column + whole, most, product, lane, <int>(n - whole))
    memcpy(lanes, lane, sizeof(lane))


# The same of the scaled gradients.
cdef inline void add_scaled_squares(floating *g, Py_ssize_t stride, int rows, const floating *row, const floating *column,
                                    floating most, bint product, double *lanes, Py_ssize_t n) noexcept nogil:
    if product:
        _add_scaled_squares(g, stride, rows, row, column, most, True, lanes, n)
    else:
        _add_scaled_squares(g, stride, rows, row, column, most, False, lanes, n)


cdef inline void scaled_update(floating *p, floating *g, floating row,
                               floating *column, floating most, bint product, floating shrink,
                               floating size, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = shrink * p[i] - size * _scaled(g[i], row, column[i], most, product)


cdef inline floating _followed(floating m, floating u, floating keep, floating gain) noexcept nogil:
    return keep * m + gain * u


cdef inline floating _residual(floating g, floating m, floating row, floating column, floating clip, floating keep,
                               floating gain) noexcept nogil:
    cdef floating u = g * row * column
    return clip * u - _followed(m, u, keep, gain)


cdef inline void _residuals_at(floating *g, floating *m, Py_ssize_t stride, int rows, const floating *row,
                               const floating *column, floating clip, floating keep, floating gain, double *lane,
                               double *sums, int count) noexcept nogil:
    cdef double u, total
    cdef Py_ssize_t at
    cdef int k, r
    for k in range(count):
        total = 0
        for r in range(rows):
            at = r * stride + k
            u = <double>_residual(g[at], m[at], row[r], column[k], clip, keep, gain)
            lane[r * LANES + k] = lane[r * LANES + k] + u * u
            total = u * u if r == 0 else total + u * u
        sums[k] = sums[k] + total


# As add_squares_each, of the residuals.
cdef inline void add_residuals(floating *g, floating *m, Py_ssize_t stride, int rows, const floating *row, floating *column,
                               floating clip, floating keep, floating gain, double *row_sums, double *sums, bint first,
                               Py_ssize_t n) noexcept nogil:
    cdef double lane[TOGETHER * LANES]
    cdef Py_ssize_t i, j, whole = n // LANES * LANES
    cdef int r
    _open_lanes(lane, rows, sums, first, n)
    for j in range(n // LANES):
        i = j * LANES
        _prefetch_rows(g + i, stride, rows)
        _prefetch_rows(m + i, stride, rows)
        _residuals_at(g + i, m + i, stride, rows, row, column + i, clip, keep, gain, lane, sums + i, LANES)
    _residuals_at(g + whole, m + whole, stride, rows, row, column + whole, clip, keep, gain, lane, sums + whole,
                  <int>(n - whole))
    for r in range(rows):
        row_sums[r] = fold_row(lane + r * LANES, n)


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

cdef inline floating inverse_root(floating square, bint product) noexcept nogil:
    # Where a mean square is zero, all of its gradients are and have been. A factor that multiplies them is 0 then; a product
    # of factors is infinite, and bounded later.
    if product and square == 0:
        return 0
    return <floating>(1 / sqrt(<double>square))


# The averages of the squares of a vector, and the factors by them.
cdef inline void move_squares(floating *g, floating *kept, floating *factor, double weight, double eps, bint product,
                              Py_ssize_t n) noexcept nogil:
    cdef double square
    cdef Py_ssize_t i
    for i in range(n):
        square = <double>kept[i]
        kept[i] = <floating>(square + weight * (<double>g[i] * <double>g[i] + eps - square))
        factor[i] = inverse_root(kept[i], product)


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
    if not product and mean < least:
        mean = least
    for i in range(n):
        factor[i] = 0 if product and kept[i] == 0 else <floating>sqrt(mean / <double>kept[i])


cdef inline void column_factors(floating *kept, floating *factor, bint product, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        factor[i] = inverse_root(kept[i], product)


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

# Adafactor (Shazeer & Stern 2018), as torch.optim.Adafactor: the mean square of a matrix's gradient is kept
# as one factor a row and one a column.
#
#   u = g / sqrt(max(row * column, floor))
#   p = shrink * p - size * u
#
# A vector is a matrix of one row, whose column factors are its mean squares. All work on a span of
# one row.
from cython cimport floating
from _reduce cimport SUM_SQUARES, reduce_span
from _table cimport LANES
from rules._math cimport greater, root


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


cdef inline floating _scaled(floating g, floating row, floating column,
                             floating floor) noexcept nogil:
    return g / root(greater(row * column, floor))


cdef inline double scaled_square(floating *g, floating row, floating *column,
                                 floating floor, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef double u
    cdef Py_ssize_t i, j, blocks = n // LANES
    cdef int k, width
    if n < LANES:
        lane[0] = 0
        for i in range(n):
            u = <double>_scaled(g[i], row, column[i], floor)
            lane[0] = lane[0] + u * u
        return lane[0]
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            u = <double>_scaled(g[i + k], row, column[i + k], floor)
            lane[k] = lane[k] + u * u
    i = blocks * LANES
    for k in range(<int>(n - i)):
        u = <double>_scaled(g[i + k], row, column[i + k], floor)
        lane[k] = lane[k] + u * u
    width = LANES // 2
    while width > 0:
        for k in range(width):
            lane[k] = lane[k] + lane[k + width]
        width = width // 2
    return lane[0]


cdef inline void scaled_update(floating *p, floating *g, floating row,
                               floating *column, floating floor, floating shrink,
                               floating size, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = shrink * p[i] - size * _scaled(g[i], row, column[i], floor)


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

# Reductions over one chunk, in double and in a fixed order.
#
# (a) LANES partial results, element i always in lane i % LANES, whatever the vector width: the
#     bits are the same on every instruction set.
# (b) The lanes are folded in one fixed order; chunks and tensors are combined by the caller in
#     theirs. Nothing depends on the number of threads.
# (c) float32 is accumulated in double, so the norm of many float32 gradients neither overflows
#     nor loses the small ones.
from cython cimport floating
from libc.math cimport fabs, pow
from _table cimport LANES
from rules._math cimport magnitude

cdef enum:
    SUM_SQUARES = 0
    SUM_ABS = 1
    MAX_ABS = 2
    MIN_ABS = 3
    COUNT_NONZERO = 4
    SUM_POWER = 5
    DOT = 6             # of streams 0 and 1
    AXPBY_DOT = 7       # of streams 0 and 2, after stream 1 was added to stream 0


cdef inline double combine(double total, double value, int reduction) noexcept nogil:
    # The larger and the smaller are NaN if either value is: two selections, see _math.pxd.
    if reduction == MAX_ABS:
        value = total if total > value else value
        return total if total != total else value
    if reduction == MIN_ABS:
        value = total if total < value else value
        return total if total != total else value
    return total + value


cdef inline double term(double x, int reduction, double order) noexcept nogil:
    if reduction == SUM_SQUARES:
        return x * x
    if reduction == COUNT_NONZERO:
        return 1 if x != 0 else 0
    if reduction == SUM_POWER:
        return pow(fabs(x), order)
    return fabs(x)


# Called with a constant reduction, so that the compiler makes one straight loop of each.
cdef inline double _lanes(const floating *x, Py_ssize_t n, int reduction,
                          double order) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k, width
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = combine(lane[k], term(<double>x[i + k], reduction, order), reduction)
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = combine(lane[k], term(<double>x[i + k], reduction, order), reduction)
    width = LANES // 2
    while width > 0:
        for k in range(width):
            lane[k] = combine(lane[k], lane[k + width], reduction)
        width = width // 2
    return lane[0]


cdef enum:
    WIDE = 64           # lanes of an extreme, which is the same in any order


cdef inline floating extreme(floating a, floating b, bint largest) noexcept nogil:
    # NaN if either is: two selections, see _math.pxd.
    if largest:
        b = a if a > b else b
    else:
        b = a if a < b else b
    return a if a != a else b


# In the elements' own type, and in so many lanes that selections need not wait for each other.
cdef inline double _extremes(const floating *x, Py_ssize_t n, bint largest) noexcept nogil:
    cdef floating lane[WIDE]
    cdef Py_ssize_t j, i, blocks = n // WIDE
    cdef int k
    for k in range(WIDE):
        lane[k] = magnitude(x[0])
    for j in range(blocks):
        i = j * WIDE
        for k in range(WIDE):
            lane[k] = extreme(lane[k], magnitude(x[i + k]), largest)
    i = blocks * WIDE
    for k in range(<int>(n - i)):
        lane[k] = extreme(lane[k], magnitude(x[i + k]), largest)
    for k in range(1, WIDE):
        lane[0] = extreme(lane[0], lane[k], largest)
    return <double>lane[0]


# In loops of known length, which the compiler makes vector instructions of: rows may be short.
cdef inline double fold_sums(double *lane) noexcept nogil:
    cdef double half[LANES]
    cdef int k
    for k in range(LANES // 2):
        half[k] = lane[k] + lane[k + LANES // 2]
    for k in range(LANES // 4):
        half[k] = half[k] + half[k + LANES // 4]
    for k in range(LANES // 8):
        half[k] = half[k] + half[k + LANES // 8]
    return half[0] + half[1]


# Adds to lanes in which an earlier span, of a multiple of LANES elements, may have left something: a sum
# over pieces is the sum over the whole.
cdef inline void add_squares(const floating *x, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = lanes[k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + <double>x[i + k] * <double>x[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + <double>x[i + k] * <double>x[i + k]
    for k in range(LANES):
        lanes[k] = lane[k]


# The same of the values themselves.
cdef inline void add_values(const floating *x, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = lanes[k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + <double>x[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + <double>x[i + k]
    for k in range(LANES):
        lanes[k] = lane[k]


# The products of two arrays.
cdef inline void add_dot(const floating *x, const floating *y, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = lanes[k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + <double>x[i + k] * <double>y[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + <double>x[i + k] * <double>y[i + k]
    for k in range(LANES):
        lanes[k] = lane[k]


# Of three arrays x^2, y^2, xy and xz, each in lanes of its own.
cdef inline void add_products(const floating *x, const floating *y, const floating *z, double *lanes,
                              Py_ssize_t n) noexcept nogil:
    cdef double xx[LANES]
    cdef double yy[LANES]
    cdef double xy[LANES]
    cdef double xz[LANES]
    cdef double a, b
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        xx[k] = lanes[k]
        yy[k] = lanes[LANES + k]
        xy[k] = lanes[2 * LANES + k]
        xz[k] = lanes[3 * LANES + k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            a = <double>x[i + k]
            b = <double>y[i + k]
            xx[k] = xx[k] + a * a
            yy[k] = yy[k] + b * b
            xy[k] = xy[k] + a * b
            xz[k] = xz[k] + a * <double>z[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        a = <double>x[i + k]
        b = <double>y[i + k]
        xx[k] = xx[k] + a * a
        yy[k] = yy[k] + b * b
        xy[k] = xy[k] + a * b
        xz[k] = xz[k] + a * <double>z[i + k]
    for k in range(LANES):
        lanes[k] = xx[k]
        lanes[LANES + k] = yy[k]
        lanes[2 * LANES + k] = xy[k]
        lanes[3 * LANES + k] = xz[k]


# A factor times each element.
cdef inline void add_multiples(const floating *x, double factor, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = lanes[k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + factor * <double>x[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + factor * <double>x[i + k]
    for k in range(LANES):
        lanes[k] = lane[k]


# A factor times the magnitude of each element.
cdef inline void add_magnitudes(const floating *x, double factor, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = lanes[k]
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + factor * fabs(<double>x[i + k])
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + factor * fabs(<double>x[i + k])
    for k in range(LANES):
        lanes[k] = lane[k]


# Factors become double before they are multiplied: the product of two floats is then exact.
cdef inline double dot_span(const floating *x, const floating *y, Py_ssize_t n) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            lane[k] = lane[k] + <double>x[i + k] * <double>y[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        lane[k] = lane[k] + <double>x[i + k] * <double>y[i + k]
    return fold_sums(lane)


# s[0] = a s[0] + b s[1], and its inner product with s[2]: one pass over what two would read twice.
cdef inline double axpby_dot_span(floating **s, const double *factors,
                                  Py_ssize_t n) noexcept nogil:
    cdef floating *x = s[0]
    cdef floating *y = s[1]
    cdef floating *z = s[2]
    cdef floating a = <floating>factors[0], b = <floating>factors[1]
    cdef floating sum
    cdef double lane[LANES]
    cdef Py_ssize_t j, i, blocks = n // LANES
    cdef int k
    for k in range(LANES):
        lane[k] = 0
    for j in range(blocks):
        i = j * LANES
        for k in range(LANES):
            sum = a * x[i + k] + b * y[i + k]
            x[i + k] = sum
            lane[k] = lane[k] + <double>sum * <double>z[i + k]
    i = blocks * LANES
    for k in range(<int>(n - i)):
        sum = a * x[i + k] + b * y[i + k]
        x[i + k] = sum
        lane[k] = lane[k] + <double>sum * <double>z[i + k]
    return fold_sums(lane)


cdef inline double reduce_span(const floating *x, Py_ssize_t n, int reduction,
                               double order) noexcept nogil:
    if reduction == SUM_SQUARES:
        return _lanes(x, n, SUM_SQUARES, 0)
    if reduction == SUM_ABS:
        return _lanes(x, n, SUM_ABS, 0)
    if reduction == MAX_ABS:
        return _extremes(x, n, True)
    if reduction == MIN_ABS:
        return _extremes(x, n, False)
    if reduction == COUNT_NONZERO:
        return _lanes(x, n, COUNT_NONZERO, 0)
    return _lanes(x, n, SUM_POWER, order)

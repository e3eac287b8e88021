# Elementary functions that return the fused type.
#
# A bare `sqrt(x)`, or a conditional expression over sqrtf and sqrt, has type double and widens a
# float32 loop; a function that *returns* `floating` does not.
from cython cimport floating
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport fabs, fabsf, sqrt, sqrtf


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline floating magnitude(floating x) noexcept nogil:
    if floating is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline floating greater(floating a, floating b) noexcept nogil:
    # The larger of the two; NaN if either is NaN. Two selections rather than one condition with
    # `or`, which the vectorizer takes for control flow.
    b = a if a > b else b
    return a if a != a else b


cdef inline floating bounded(floating x, floating bound) noexcept nogil:
    # x, or the bound with its sign where it is longer; NaN stays.
    x = bound if x > bound else x
    return -bound if x < -bound else x


cdef inline floating direction(floating x) noexcept nogil:
    # 1, -1, or x itself where it is zero or NaN.
    cdef floating d = 1 if x > 0 else x
    return -1 if x < 0 else d


# The least eps of a quotient d / (sqrt(v) + eps), where v is an average that gains (1 - beta) * d^2.
#
# What is below the smallest normal number is flushed to zero, and with it the gain of every d below
# sqrt(smallest / (1 - beta)). With this number as the least eps, such a quotient is below 1, as it is
# where nothing is flushed; without it, it is huge, or 0/0. `spread` is 1 / sqrt(1 - beta).
cdef inline floating least_eps(floating eps, double spread) noexcept nogil:
    cdef floating least
    if floating is float:
        least = <float>(sqrt(FLT_MIN) * spread)
    else:
        least = sqrt(DBL_MIN) * spread
    return least if eps < least else eps


# The same inside of the root, as an eps that is added to v.
cdef inline floating least_square(floating eps, double spread) noexcept nogil:
    cdef floating least
    if floating is float:
        least = <float>(FLT_MIN * spread * spread)
    else:
        least = DBL_MIN * spread * spread
    return least if eps < least else eps


# Where nothing is gained, nothing is lost: 1.
cdef inline double spread_of(double gain) noexcept nogil:
    return 1 / sqrt(gain) if gain > 0 else 1


# The gradient, upwards or downwards, with the gradient of an L2 penalty.
#
# `decay`, whether l2 is not 0, guards l2 * p because 0 * inf is NaN: a parameter that is infinite must
# not spoil its state when there is no penalty. The condition does not change inside a loop; the compiler
# makes two loops of it.
cdef inline floating descent(floating g, floating p, floating sign, floating l2,
                             bint decay) noexcept nogil:
    cdef floating d = sign * g
    if decay:
        d = d + l2 * p
    return d

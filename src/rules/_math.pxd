# Elementary functions that return the fused type.
#
# A bare `sqrt(x)`, or a conditional expression over sqrtf and sqrt, has type double and widens a
# float32 loop; a function that *returns* `floating` does not.
from cython cimport floating
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport copysign, copysignf, fabs, fabsf, sqrt, sqrtf


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


# The angle of the point (x, y) whose x is not negative, as atan2 gives it: from -pi/2 to pi/2, with the sign of y, also
# of a zero; pi/4 where both are infinite. Its error is below 1.8 ulp in float and 2 in double; a test measures it.
#
# The smaller of the two is divided by the larger one. On [0, 1] a polynomial in the square has the least largest
# relative error, 3e-9 and 5e-18; to the rest of pi/2 it is taken in two parts.
cdef inline floating angle(floating y, floating x) noexcept nogil:
    cdef floating size = magnitude(y)
    cdef floating high = size if size > x else x
    cdef floating low = x if size > x else size
    cdef floating q = low / high
    cdef floating z, r, right, rest
    q = 1 if low == high else q         # also infinity by infinity
    q = 0 if high == 0 else q
    z = q * q
    if floating is float:
        right, rest = <floating>1.57079637050628662109375, <floating>-4.37113900018624283e-8
        r = <floating>-0.001793619691
        r = r * z + <floating>0.010914597
        r = r * z - <floating>0.03117782998
        r = r * z + <floating>0.057957578
        r = r * z - <floating>0.08403449451
        r = r * z + <floating>0.109521855
        r = r * z - <floating>0.1426424164
        r = r * z + <floating>0.1999854829
        r = r * z - <floating>0.3333329909
    else:
        right, rest = 1.57079632679489655800, 6.12323399573676603587e-17
        r = 0.0000132250592522176952
        r = r * z - 0.000152160696394932785
        r = r * z + 0.000831321041691360837
        r = r * z - 0.00288491611321100027
        r = r * z + 0.00719649855927794723
        r = r * z - 0.013900553525553443
        r = r * z + 0.0219848464589572278
        r = r * z - 0.0299038530497316437
        r = r * z + 0.0366419076501863402
        r = r * z - 0.0421917880688802701
        r = r * z + 0.0472232216602085094
        r = r * z - 0.0525351854039366107
        r = r * z + 0.0588052781260927306
        r = r * z - 0.0666640405743224808
        r = r * z + 0.0769227983930757828
        r = r * z - 0.0909090700299628623
        r = r * z + 0.111111110070266885
        r = r * z - 0.142857142825751374
        r = r * z + 0.19999999999951461
        r = r * z - 0.333333333333330681
    r = q + q * (z * r)
    r = right - (r - rest) if size > x else r
    if floating is float:
        return copysignf(r, y)
    else:
        return copysign(r, y)


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


# Below 0 where a step follows the gradient: d and the change of the parameter have opposite signs. Signs are compared,
# as products of small numbers could underflow.
cdef inline floating along(floating d, floating change) noexcept nogil:
    cdef floating low = d if d < change else change
    cdef floating high = change if d < change else d
    return low if high > 0 else 0


# A step where it follows the gradient, else 0; NaN stays.
cdef inline floating followed(floating d, floating u) noexcept nogil:
    return u if along(d, -u) < 0 else 0 * u


# What makes a step longer of which so many elements are made; by a share of 1e-3 at least, as in timm and in the authors'
# C-AdamW.
cdef inline double scale_of_share(double count, Py_ssize_t size) noexcept nogil:
    cdef double share = count / size
    return 1 / (share if share > 1e-3 else 1e-3)


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

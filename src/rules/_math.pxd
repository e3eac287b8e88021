# Elementary functions that return the fused type.
#
# A bare `sqrt(x)`, or a conditional expression over sqrtf and sqrt, has type double and widens a
# float32 loop; a function that *returns* `floating` does not.
from cython cimport floating
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

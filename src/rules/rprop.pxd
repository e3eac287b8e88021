# Rprop (Riedmiller & Braun 1993), in the form iRprop- of Igel & Huesken (2000).
#
# scalars: sign (-1 to maximize), eta minus, eta plus, smallest and largest step size
#
# The last gradient is multiplied by the sign of this one: the product of the two underflows.
# Selections are nested no deeper than one: see _math.pxd.
from cython cimport floating


cdef inline floating _sign(floating x) noexcept nogil:
    cdef floating up = 1 if x > 0 else 0
    cdef floating down = 1 if x < 0 else 0
    return up - down


cdef inline void rprop(floating **s, const double *h, Py_ssize_t n) noexcept nogil:
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *last = s[2]
    cdef floating *size = s[3]
    cdef floating sign = <floating>h[0], minus = <floating>h[1], plus = <floating>h[2]
    cdef floating low = <floating>h[3], high = <floating>h[4]
    cdef floating d, side, turn, step, factor
    cdef Py_ssize_t i
    for i in range(n):
        d = sign * g[i]
        side = _sign(d)
        turn = side * last[i]
        factor = plus if turn > 0 else <floating>1
        factor = minus if turn < 0 else factor
        step = size[i] * factor
        step = low if step < low else step
        step = high if step > high else step
        size[i] = step
        d = <floating>0 if turn < 0 else d
        side = <floating>0 if turn < 0 else side
        last[i] = d
        p[i] = p[i] - step * side

# Rprop (Riedmiller & Braun 1993), in the form iRprop- of Igel & Huesken (2000).
#
# The last gradient is multiplied by the sign of this one: the product of the two could underflow.
# Two selections stand in place of one with two conditions: see `greater` in _math.pxd.
from cython cimport floating


cdef struct Rprop:
    double sign, eta_minus, eta_plus, least_step, most_step


cdef inline floating _sign(floating x) noexcept nogil:
    cdef floating up = 1 if x > 0 else 0
    cdef floating down = 1 if x < 0 else 0
    return up - down


cdef inline void rprop(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Rprop *h = <const Rprop *>scalars
    cdef floating *p = s[0]
    cdef floating *g = s[1]
    cdef floating *last = s[2]
    cdef floating *size = s[3]
    cdef floating sign = <floating>h.sign
    cdef floating minus = <floating>h.eta_minus, plus = <floating>h.eta_plus
    cdef floating low = <floating>h.least_step, high = <floating>h.most_step
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

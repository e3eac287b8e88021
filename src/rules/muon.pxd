# Muon (Jordan et al. 2024): the momentum and the direction that is orthogonalized, and the step along the orthogonal
# matrix. Both work on a part of a row.
from cython cimport floating


cdef inline void muon_direction(floating *b, floating *g, floating *d, double sign, double momentum,
                                bint nesterov, Py_ssize_t n) noexcept nogil:
    cdef floating mu = <floating>momentum, gain = <floating>(1 - momentum), scale = <floating>sign
    cdef floating x
    cdef Py_ssize_t i
    if nesterov:
        for i in range(n):
            x = scale * g[i]
            b[i] = b[i] + gain * (x - b[i])
            d[i] = x + mu * (b[i] - x)
    else:
        for i in range(n):
            b[i] = b[i] + gain * (scale * g[i] - b[i])
            d[i] = b[i]


cdef inline void muon_step(floating *p, floating *o, double shrink, double step, bint cautious,
                           Py_ssize_t n) noexcept nogil:
    # `cautious` decays only the elements that the step brings nearer to zero.
    cdef floating keep = <floating>shrink, size = <floating>step
    cdef floating x
    cdef Py_ssize_t i
    if cautious:
        for i in range(n):
            x = keep * p[i] if o[i] * p[i] > 0 else p[i]
            p[i] = x - size * o[i]
    else:
        for i in range(n):
            p[i] = keep * p[i] - size * o[i]

# Gradient clipping (Pascanu, Mikolov & Bengio 2013): stream 0 is the gradient itself.
from cython cimport floating


cdef struct Scale:
    double coefficient


cdef struct Clamp:
    double low, high        # NaN passes through; a limit that is NaN leaves nothing else


cdef inline void scale(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef floating *g = s[0]
    cdef floating c = <floating>(<const Scale *>scalars).coefficient
    cdef Py_ssize_t i
    for i in range(n):
        g[i] = c * g[i]


cdef inline void clamp(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cdef const Clamp *h = <const Clamp *>scalars
    cdef floating *g = s[0]
    cdef floating low = <floating>h.low, high = <floating>h.high
    cdef floating x
    cdef Py_ssize_t i
    if low != low or high != high:
        for i in range(n):
            g[i] = low + high
        return
    for i in range(n):
        x = g[i]
        x = low if x < low else x
        g[i] = high if x > high else x

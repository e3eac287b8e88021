# Memory asked for before it is needed: by the kernels for large steps alone, in the others nothing.
from libc.stddef cimport ptrdiff_t

cdef enum:
    AHEAD = 160         # elements, ten lines of float32; twice as many gain nothing

cdef extern from "prefetch.h" nogil:
    void prefetch_bytes(const void *place, ptrdiff_t bytes)
    ptrdiff_t unbounded(ptrdiff_t n)

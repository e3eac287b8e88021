# cyoptim's rules for other Cython modules. This file is what they are compiled against: fields, methods and
# their order are a binary interface, so what is added goes to the end.
from libc.stdint cimport int64_t


cdef class Kernel:
    cdef readonly object optimizer
    cdef readonly tuple state_names
    cdef readonly tuple initial_values
    cdef double grad_scale      # every gradient is multiplied by it from the next begin_step() on
    cdef int64_t steps          # begun so far
    cdef void *_own

    cdef void begin_step(self) noexcept nogil
    cdef void update_float32(self, float **arrays, Py_ssize_t size) noexcept nogil
    cdef void update_float64(self, double **arrays, Py_ssize_t size) noexcept nogil


cdef double sum_squares_float32(const float *array, Py_ssize_t size, double before) noexcept nogil
cdef double sum_squares_float64(const double *array, Py_ssize_t size, double before) noexcept nogil

# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""A package that trains without the GIL, with cyoptim's kernels."""

from cython cimport floating
from libc.math cimport exp, sqrt

cimport cyoptim

import numpy as np

cdef enum:
    MOST = 8    # arrays of an update


def logistic_regression(const double[:, ::1] X, const double[::1] y, kernel, int steps,
                        double max_norm):
    """Weights of a logistic regression after so many full-batch steps, and the last loss."""
    cdef cyoptim.Kernel k = kernel
    cdef Py_ssize_t n = X.shape[0], m = X.shape[1], i, j
    cdef double z, error, loss = 0, norm
    cdef double[::1] w = np.zeros(m), g = np.zeros(m)
    cdef double *arrays[MOST]
    states = [np.full(m, value) for value in k.initial_values]
    take(arrays, w, g, states)
    with nogil:
        for _ in range(steps):
            loss = 0
            g[:] = 0
            for i in range(n):
                z = 0
                for j in range(m):
                    z += X[i, j] * w[j]
                error = 1 / (1 + exp(-z)) - y[i]
                loss += error * error
                for j in range(m):
                    g[j] += error * X[i, j] / n
            norm = sqrt(cyoptim.sum_squares_float64(&g[0], m, 0))
            k.grad_scale = min(1.0, max_norm / (norm + 1e-6))
            k.begin_step()
            k.update_float64(arrays, m)
    return np.asarray(w), loss / n


def run(kernel, floating[::1] param, floating[:, ::1] grads, list states, double scale=1):
    """One step for each row of gradients, in place."""
    cdef cyoptim.Kernel k = kernel
    cdef Py_ssize_t n = param.shape[0], t
    cdef floating *arrays[MOST]
    cdef floating[::1] state
    arrays[0] = &param[0] if n else NULL
    for j, array in enumerate(states):
        state = array
        arrays[2 + j] = &state[0] if n else NULL
    with nogil:
        for t in range(grads.shape[0]):
            arrays[1] = &grads[t, 0] if n else NULL
            k.grad_scale = scale
            k.begin_step()
            if floating is float:
                k.update_float32(arrays, n)
            else:
                k.update_float64(arrays, n)


def squares(const floating[::1] array, double before):
    """The sum of the squares, added to `before`."""
    if floating is float:
        return cyoptim.sum_squares_float32(&array[0], array.shape[0], before)
    return cyoptim.sum_squares_float64(&array[0], array.shape[0], before)


def norm(list arrays):
    """The norm of all arrays as one vector."""
    cdef double total = 0
    cdef const float[::1] a32
    cdef const double[::1] a64
    for array in arrays:
        if array.dtype == np.float32:
            a32 = array
            if a32.shape[0]:
                total = cyoptim.sum_squares_float32(&a32[0], a32.shape[0], total)
        else:
            a64 = array
            if a64.shape[0]:
                total = cyoptim.sum_squares_float64(&a64[0], a64.shape[0], total)
    return sqrt(total)


cdef int take(double **arrays, double[::1] w, double[::1] g, list states) except -1:
    cdef double[::1] state
    arrays[0] = &w[0]
    arrays[1] = &g[0]
    for j, array in enumerate(states):
        state = array
        arrays[2 + j] = &state[0]
    return 0

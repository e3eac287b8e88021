"""Numba's update loops, compiled when first called. Imported only where numba is timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange

from bench.workloads import Array

# Least number of elements at which threads pay, found by trying, as a user would.
_WORTH_THREADS = 16384


def _adam(p: Array, g: Array, m: Array, v: Array, scalars: tuple[Any, ...]) -> None:
    beta1, gain1, beta2, gain2, eps, size, unbias = scalars
    for i in prange(p.size):
        first = beta1 * m[i] + gain1 * g[i]
        second = beta2 * v[i] + gain2 * g[i] * g[i]
        m[i] = first
        v[i] = second
        p[i] -= size * first / (np.sqrt(second) * unbias + eps)


@cache
def compiled(optimizer: str) -> Callable[..., None]:
    """The update of one tensor: on one thread where it is small."""
    loop = {"Adam": _adam}[optimizer]
    # NumPy's error model lets a division by zero give inf; the other one is not vectorized.
    serial = njit(error_model="numpy")(loop)
    parallel = njit(error_model="numpy", parallel=True)(loop)

    def update(p: Array, *arguments: Any) -> None:
        (serial if p.size < _WORTH_THREADS else parallel)(p, *arguments)

    return update

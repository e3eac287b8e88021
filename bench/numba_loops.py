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

Update = Callable[..., None]


def _sgd(p: Array, g: Array, scalars: tuple[Any, ...]) -> None:
    (lr,) = scalars
    for i in prange(p.size):
        p[i] -= lr * g[i]


def _adam(p: Array, g: Array, m: Array, v: Array, scalars: tuple[Any, ...]) -> None:
    beta1, gain1, beta2, gain2, eps, size, unbias = scalars
    for i in prange(p.size):
        first = beta1 * m[i] + gain1 * g[i]
        second = beta2 * v[i] + gain2 * g[i] * g[i]
        m[i] = first
        v[i] = second
        p[i] -= size * first / (np.sqrt(second) * unbias + eps)


def _lamb(p: Array, g: Array, m: Array, v: Array, scalars: tuple[Any, ...]) -> None:
    """Two loops, as the length of the step depends on the whole direction."""
    beta1, gain1, beta2, gain2, eps, size, unbias, weight_decay, lr = scalars
    of_p = of_u = 0.0
    for i in prange(p.size):
        first = beta1 * m[i] + gain1 * g[i]
        second = beta2 * v[i] + gain2 * g[i] * g[i]
        m[i] = first
        v[i] = second
        u = size * first / (np.sqrt(second) * unbias + eps) + weight_decay * p[i]
        of_p += p[i] * p[i]
        of_u += u * u
    rate = lr * p.dtype.type(np.sqrt(of_p / of_u))
    for i in prange(p.size):
        u = size * m[i] / (np.sqrt(v[i]) * unbias + eps) + weight_decay * p[i]
        p[i] -= rate * u


_LOOPS: dict[str, Update] = {"SGD": _sgd, "Adam": _adam, "Lamb-unclipped": _lamb}
# A sum is vectorized only if it may be reordered.
_REORDERED = {"Lamb-unclipped": {"reassoc", "nsz"}}


@cache
def compiled(optimizer: str, threaded: bool) -> Update:
    """The update of one tensor: on one thread where it is small."""
    loop, fastmath = _LOOPS[optimizer], _REORDERED.get(optimizer, False)
    # NumPy's error model lets a division by zero give inf; the other one is not vectorized.
    serial = njit(error_model="numpy", fastmath=fastmath)(loop)
    if not threaded:
        return serial  # type: ignore[no-any-return]
    parallel = njit(error_model="numpy", fastmath=fastmath, parallel=True)(loop)

    def update(p: Array, *arguments: Any) -> None:
        (serial if p.size < _WORTH_THREADS else parallel)(p, *arguments)

    return update

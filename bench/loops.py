"""Updates of one tensor at a time, as users of NumPy and numba write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.optimizers import OPTIMIZERS
from bench.subject import Subject, reference
from bench.workloads import Array, Arrays

Scalars = tuple[Any, ...]


def build_numpy(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    scratch = np.empty(max(p.size for p in params), params[0].dtype)
    views = [scratch[: p.size].reshape(p.shape) for p in params]
    update = {"Adam": _adam_numpy}[optimizer]
    return _step_each(optimizer, update, params, grads, float, views)


def build_numba(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import numba

    from bench.numba_loops import compiled

    numba.set_num_threads(threads)
    return _step_each(optimizer, compiled(optimizer), params, grads, params[0].dtype.type)


def _step_each(
    optimizer: str,
    update: Callable[..., None],
    params: Arrays,
    grads: Arrays,
    number: Callable[[float], Any],
    *more: Arrays,
) -> Subject:
    """Call an update once per tensor, with the scalars of the step as numbers of this type."""
    averages = [[np.zeros_like(p) for p in params] for _ in range(2)]
    rows = list(zip(params, grads, *averages, *more, strict=True))
    options = OPTIMIZERS[optimizer].options
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        scalars = tuple(map(number, _adam_scalars(count, **options)))
        for row in rows:
            update(*row, scalars)

    return Subject(step, params, grads, reference(optimizer))


def _adam_scalars(
    t: int, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Scalars:
    beta1, beta2 = betas
    size, unbias = lr / (1 - beta1**t), (1 - beta2**t) ** -0.5
    return beta1, 1 - beta1, beta2, 1 - beta2, eps, size, unbias


def _adam_numpy(p: Array, g: Array, m: Array, v: Array, d: Array, scalars: Scalars) -> None:
    beta1, gain1, beta2, gain2, eps, size, unbias = scalars
    m *= beta1
    np.multiply(g, gain1, out=d)
    m += d
    v *= beta2
    np.multiply(g, g, out=d)
    d *= gain2
    v += d
    np.sqrt(v, out=d)
    d *= unbias
    d += eps
    np.divide(m, d, out=d)
    d *= size
    p -= d

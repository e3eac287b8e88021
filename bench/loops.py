"""SGD, Adam and Lamb for one tensor at a time, as users of NumPy and numba write them."""

from __future__ import annotations

import math
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
    return _step_each(optimizer, NUMPY[optimizer], params, grads, float, views)


def build_numba(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """On all threads where a tensor is large; on one thread if there is but one."""
    import numba

    from bench.numba_loops import compiled

    numba.set_num_threads(threads)
    update = compiled(optimizer, threads > 1)
    return _step_each(optimizer, update, params, grads, params[0].dtype.type)


def build_numba_one_thread(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return build_numba(optimizer, params, grads, 1)


def _step_each(
    optimizer: str,
    update: Callable[..., None],
    params: Arrays,
    grads: Arrays,
    number: Callable[[float], Any],
    *more: Arrays,
) -> Subject:
    """Call an update once per tensor, with the scalars of the step as numbers of this type."""
    row = OPTIMIZERS[optimizer]
    averages = [[np.zeros_like(p) for p in params] for _ in range(row.written - 1)]
    rows = list(zip(params, grads, *averages, *more, strict=True))
    scalars_of = SCALARS[optimizer]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        scalars = tuple(map(number, scalars_of(count, **row.options)))
        for arrays in rows:
            update(*arrays, scalars)

    return Subject(step, params, grads, reference(optimizer))


def _sgd_scalars(t: int, lr: float = 1e-3) -> Scalars:
    return (lr,)


def _adam_scalars(
    t: int, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Scalars:
    beta1, beta2 = betas
    size, unbias = lr / (1 - beta1**t), (1 - beta2**t) ** -0.5
    return beta1, 1 - beta1, beta2, 1 - beta2, eps, size, unbias


def _lamb_scalars(
    t: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    max_grad_norm: None = None,
) -> Scalars:
    adam = _adam_scalars(t, 1.0, betas, eps)
    return *adam, weight_decay, lr


SCALARS = {"SGD": _sgd_scalars, "Adam": _adam_scalars, "Lamb-unclipped": _lamb_scalars}


def _sgd_numpy(p: Array, g: Array, d: Array, scalars: Scalars) -> None:
    (lr,) = scalars
    np.multiply(g, lr, out=d)
    p -= d


def _adam_numpy(p: Array, g: Array, m: Array, v: Array, d: Array, scalars: Scalars) -> None:
    _adam_direction(g, m, v, d, scalars)
    p -= d


def _lamb_numpy(p: Array, g: Array, m: Array, v: Array, d: Array, scalars: Scalars) -> None:
    *adam, weight_decay, lr = scalars
    _adam_direction(g, m, v, d, adam)
    d += weight_decay * p
    d *= lr * math.sqrt(np.vdot(p, p) / np.vdot(d, d))
    p -= d


def _adam_direction(g: Array, m: Array, v: Array, d: Array, scalars: Any) -> None:
    """The update of Adam, in the scratch array d."""
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


NUMPY: dict[str, Callable[..., None]] = {
    "SGD": _sgd_numpy,
    "Adam": _adam_numpy,
    "Lamb-unclipped": _lamb_numpy,
}

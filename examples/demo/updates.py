"""The updates of five optimizers in NumPy, in place and with preallocated buffers."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from examples.demo.network import Array

Options: TypeAlias = dict[str, Any]

# p: parameter, d: gradient, m and v: state, u: a buffer, t: step count, o: options of the group.


def sgd(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    m *= o["momentum"]
    m += d
    p -= np.multiply(m, o["lr"], out=u)


def adam(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    beta1, beta2 = o["betas"]
    m *= beta1
    m += np.multiply(d, 1 - beta1, out=u)
    _average_square(d, v, u, beta2)
    np.sqrt(v, out=u)
    u *= 1 / math.sqrt(1 - beta2**t)
    u += o["eps"]
    np.divide(m, u, out=u)
    u *= o["lr"] / (1 - beta1**t)
    p -= u


def adamw(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    p *= 1 - o["lr"] * o["weight_decay"]
    adam(p, d, m, v, u, t, o)


def rmsprop(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    _average_square(d, v, u, o["alpha"])
    _scaled_step(p, d, v, u, o)


def adagrad(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    v += np.multiply(d, d, out=u)
    _scaled_step(p, d, v, u, o)


def _average_square(d: Array, v: Array, u: Array, beta: float) -> None:
    v *= beta
    np.multiply(d, d, out=u)
    u *= 1 - beta
    v += u


def _scaled_step(p: Array, d: Array, v: Array, u: Array, o: Options) -> None:
    np.sqrt(v, out=u)
    u += o["eps"]
    np.divide(d, u, out=u)
    u *= o["lr"]
    p -= u

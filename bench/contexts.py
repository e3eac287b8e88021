"""What a program does before each step: the contexts in which steps are timed.

The threads of a matrix product occupy the processors for some time after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.roof import Unavailable
from bench.workloads import CONTEXT_NAMES, Array

Product = Callable[[], Any]

ROWS, WIDTH = 128, 512
"""The product is x @ W, float32: x has this many rows, and W is square."""

SETTLE = 0.03
"""Seconds in which most threads stop to spin and fall asleep; OpenBLAS takes 67 million ticks."""


@dataclass(frozen=True)
class Context:
    """A row: what comes before each step, and how long its threads stay awake."""

    title: str
    product: Callable[[int], Product] | None  # given the number of its threads
    settle: float  # seconds before a round, in which the threads of the one before fall asleep


def openblas(threads: int) -> Product:
    """NumPy's product, on as many threads as OPENBLAS_NUM_THREADS says since the start."""
    name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if "openblas" not in name:
        raise Unavailable(f"a NumPy with OpenBLAS: this one has {name}")
    x, w = _factors()
    return partial(np.matmul, x, w, out=np.empty_like(x))


def torch_mm(threads: int) -> Product:
    """torch's product, by MKL or oneDNN."""
    import torch

    torch.set_num_threads(threads)
    x, w = map(torch.from_numpy, _factors())
    return partial(torch.mm, x, w, out=torch.empty_like(x))


def _factors() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((rows, WIDTH), dtype=np.float32) for rows in (ROWS, WIDTH))
    return x, w


_ROWS = (
    Context("in a loop", None, SETTLE),
    Context("between products of NumPy", openblas, 2 * SETTLE),
    Context("between products of torch", torch_mm, SETTLE),
)
CONTEXTS: dict[str, Context] = dict(zip(CONTEXT_NAMES, _ROWS, strict=True))
"""By the name that a workload has."""

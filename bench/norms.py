"""The norm of all gradients, a reduction: in cyoptim, in torch and at the roof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.roof import roof
from bench.subject import Subject, tensors_of
from bench.workloads import PERIOD, Array, Arrays


class Norm:
    """The reference: in float64, of the gradients themselves, as it depends on all of them."""

    def __init__(self, grads: Arrays) -> None:
        self.grads = grads

    def step(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        flats = [g.reshape(-1) for g in self.grads]
        parts = [flat[i : i + PERIOD] for flat in flats for i in range(0, flat.size, PERIOD)]
        params[0][...] = sum(float(np.vdot(x, x)) for x in map(np.float64, parts)) ** 0.5


def of_cyoptim(grads: Arrays) -> Subject:
    import cyoptim

    return _subject(lambda: cyoptim.get_total_norm(grads), grads)


FLOAT32_SUMS = 1e4
"""How far from the reference torch may be: its sums in float32 are off by 0.5% at 64M elements."""


def build_torch(operation: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import torch

    tensors = [t.grad for t in tensors_of(grads, grads, threads)]
    norm = torch.nn.utils.get_total_norm
    subject = _subject(lambda: norm(tensors), [t.numpy() for t in tensors])
    return replace(subject, tolerance=FLOAT32_SUMS)


def of_roof(grads: Arrays, threads: int) -> Subject:
    total, owner = roof(("g",), [], grads, 1.0, threads)
    return _subject(lambda: total() ** 0.5, grads, owner)


def _subject(norm: Callable[[], Any], grads: Arrays, owner: Any = None) -> Subject:
    last: Any = None
    dtype = grads[0].dtype

    def step() -> None:
        nonlocal last
        last = norm()

    def result() -> Arrays:
        return [np.array([float(last)], dtype)]

    return Subject(step, [np.zeros(1, dtype)], grads, Norm(grads), owner, result=result)

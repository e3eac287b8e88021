"""Clipping, stepping and zeroing, in one call and in several: the contenders of ``bench fused``.

Some of them change the gradients, so all get new gradients before each step, untimed. The plain
step does not clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.subject import Preceded, Subject, reference, stepper_of, tensors_of, views_of
from bench.workloads import Array, Arrays

MAX_NORM = 1.0


class Clipped:
    """A reference that first clips, by the norm of all gradients: it steps only a part of them."""

    def __init__(self, inner: Any, grads: Arrays) -> None:
        self.inner, self.grads = inner, grads

    def step(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        norm = sum(float(np.sum(np.square(g, dtype=np.float64))) for g in self.grads) ** 0.5
        factor = min(1.0, MAX_NORM / (norm + 1e-6))
        self.inner.step(params, [factor * g for g in grads])


def _one_call(optimizer: str, params: Arrays, grads: Arrays, threads: int, **what: Any) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    taken = [g.copy() for g in grads]
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, taken, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)
    step = (lambda: stepper.step(**what)) if what else stepper.step
    return _subject(step, optimizer, params, grads, taken, "max_norm" in what)


def build_step(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return _one_call(optimizer, params, grads, threads)


def build_step_clip(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return _one_call(optimizer, params, grads, threads, max_norm=MAX_NORM)


def build_step_clip_zero(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return _one_call(optimizer, params, grads, threads, max_norm=MAX_NORM, zero_grad=True)


def build_calls(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    taken = [g.copy() for g in grads]
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, taken, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)

    def step() -> None:
        cyoptim.clip_grad_norm_(wrapped, MAX_NORM)
        stepper.step()
        stepper.zero_grad(set_to_none=False)

    return _subject(step, optimizer, params, grads, taken, clips=True)


def build_calls_torch(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import torch

    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(torch.optim, optimizer, tensors, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM)
        stepper.step()
        stepper.zero_grad(set_to_none=False)

    values, taken = views_of(tensors)
    return _subject(step, optimizer, values, grads, taken, clips=True)


def _subject(
    step: Callable[[], Any],
    optimizer: str,
    params: Arrays,
    grads: Arrays,
    taken: Arrays,
    clips: bool,
) -> Subject:
    def load() -> None:
        for g, values in zip(taken, grads, strict=True):
            np.copyto(g, values)

    expected = Clipped(reference(optimizer), grads) if clips else reference(optimizer)
    return Subject(Preceded(step, load), params, grads, expected, taken)

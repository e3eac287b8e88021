"""The result of a contender's builder, and functions that builders share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.optimizers import OPTIMIZERS
from bench.workloads import Arrays
from tests.support.cards import ELEMENT_WISE


@dataclass(frozen=True)
class Preceded:
    """A step before which something is done, untimed: gradients that it changes are loaded again,
    or a context computes its product."""

    step: Callable[[], Any]
    before: Callable[[], Any]

    def __call__(self) -> None:
        self.before()
        self.step()

    def timed(self) -> float:
        self.before()
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Subject:
    """A callable step, the memory that it works on, and its reference."""

    step: Callable[[], Any]
    params: Arrays
    grads: Arrays
    reference: Any
    owner: Any = None  # keeps alive what the step reaches through addresses only
    load: Callable[[], None] | None = None  # brings changed gradients to where the step reads them
    result: Callable[[], Arrays] | None = None  # the parameters, if no step writes to ``params``
    tolerance: float = 1.0  # of the result, in units of the usual one

    def after(self, product: Callable[[], Any]) -> Subject:
        """The same, but each step comes right after a product."""
        inner = self.step
        if not isinstance(inner, Preceded):
            return replace(self, step=Preceded(inner, product))

        def before() -> None:
            inner.before()
            product()

        return replace(self, step=Preceded(inner.step, before))


def tensors_of(params: Arrays, grads: Arrays, threads: int) -> list[Any]:
    """Parameters with gradients, in memory that torch allocates."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.nn.Parameter(torch.from_numpy(p).clone()) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad).clone()
    return tensors


def views_of(tensors: list[Any]) -> tuple[Arrays, Arrays]:
    """The memory of parameters and gradients as arrays."""
    return [t.detach().numpy() for t in tensors], [t.grad.numpy() for t in tensors]


def reference(optimizer: str, **options: Any) -> Any:
    """The slow reference of an optimizer."""
    row = OPTIMIZERS[optimizer]
    if row.options.get("caution") and ELEMENT_WISE(row.card):
        # It imports cyoptim, whose kernels a process may have to choose before.
        from tests.support.cautious import Cautious

        made: Any = Cautious(row.card, row.options | options)
    else:
        made = row.card.reference(**row.options, **options)
    made.joins = row.joins
    return made


def stepper_of(library: Any, optimizer: str, params: list[Any], **mode: bool) -> Any:
    """The optimizer of a library that has torch's classes."""
    row = OPTIMIZERS[optimizer]
    cls = getattr(library, row.cls)
    if getattr(library, "__name__", "") == "cyoptim":
        cls = row.card.adapted(cls)
    stepper = cls(params, **row.options, **mode)
    if row.trains:
        stepper.train()
    return stepper


def step_tensors(
    library: Any, optimizer: str, params: Arrays, grads: Arrays, threads: int, **mode: bool
) -> Subject:
    """Step tensors with an optimizer of torch, or one with its interface."""
    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(library, optimizer, tensors, **mode)
    return Subject(stepper.step, *views_of(tensors), reference(optimizer))

"""Runs of any optimizer, given its card: whole gradients, rows or closures, as it takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.support.cards import CLOSURE, Card, Options
from tests.support.doors import ArrayDoor, Door

Arrays = list[np.ndarray]
Gradients = Sequence[np.ndarray | None]

PARAMETERS, ARRAYS = Door(), ArrayDoor()


def advance(
    card: Card, optimizer: Any, params: list[Any], grads: Gradients, door: Door = PARAMETERS
) -> None:
    """One step along these gradients."""
    if CLOSURE(card):
        optimizer.step(bowl(params, grads, door))
    else:
        door.step(optimizer, params, [card.form(grad) for grad in grads])


def bowl(params: list[Any], grads: Gradients, door: Door = PARAMETERS) -> Callable[[], Any]:
    """A closure over a quadratic function whose gradient, where parameters are 0, is this one."""

    def closure() -> Any:
        loss, found = 0.0, []
        for value, grad in zip(map(door.read, params), grads, strict=True):
            if grad is None:
                found.append(None)
                continue
            curved = curvature(value) * value
            loss += float(np.vdot(value, curved / 2 + grad).real)
            found.append(np.asarray(curved + grad, dtype=value.dtype))
        if door.name == "array":
            return loss, found
        for param, grad in zip(params, found, strict=True):
            param.grad = None if grad is None else door.gradient(grad)
        return loss

    return closure


def curvature(value: np.ndarray) -> np.ndarray:
    """Of each element, between 1 and 2."""
    return 1 + np.arange(value.size, dtype=value.real.dtype).reshape(value.shape) / max(
        value.size, 1
    )


def run(
    card: Card,
    options: Options,
    start: Arrays,
    grads: Sequence[Gradients],
    door: Door = PARAMETERS,
    make: Any = None,
) -> Arrays:
    """Where the parameters are after these gradients; `make` is the class, if not the card's."""
    params = [door.wrap(array.copy(order="K")) for array in start]
    optimizer = (make or card.cls)(params, **options)
    for step in grads:
        advance(card, optimizer, params, step, door)
    return [door.read(param) for param in params]


def expected(
    card: Card, options: Options, start: Arrays, grads: Sequence[Gradients], dtype: Any = None
) -> Arrays:
    """Where the paper's formula leads in float64; `dtype` is that of the parameters under test."""
    params = [np.array(array, dtype=np.float64) for array in start]
    reference = card.reference_for(options, dtype or start[0].dtype)
    for step in grads:
        reference.step(params, [None if g is None else g.astype(np.float64) for g in step])
    return params

"""One run of any optimizer, the same in its source and here: what the stored trajectories are made of.

The source is torch, or what a card names: a package, or a file of the paper's authors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.cards import CLOSURE, DENSE, MATRICES, TORCH, Card, Options, Shape, Source
from tests.support.doors import Door
from tests.support.paths import GOLDEN

STORED_RUNS = GOLDEN / "trajectories"
STEPS = 60
STORED = (1, 20, 60)  # the steps after which the parameters are stored
MISSING = 0.25  # of the gradients

SHAPES = ((3, 4), (5,), (2, 3, 2))
MATRIX_SHAPES = ((3, 4), (4, 3), (2, 2))
CLOSURE_SHAPES = ((3, 2), (4,))

Arrays = list[np.ndarray]


def load() -> dict[str, Any]:
    """What the sources have done, by optimizer, or optimizer and further source: the source, and its
    runs, each with its options and, per dtype, the stored parameters."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(STORED_RUNS.glob("*.json"))}


def stored_by(card: Card) -> dict[str, Source | None]:
    """The sources of an optimizer, by the names of their files; None: torch."""
    more = {f"{card}-{label}": source for label, source in card.more_sources.items()}
    first = {card.name: card.source} if TORCH(card) or card.source is not None else {}
    return {**first, **more}


def options_for(stored: Options, number: Callable[[float], Any]) -> Options:
    """Options as they were stored; an lr that was a tensor is made by `number`.

    It is made in float64: of one in float32, torch rounds to float32 what it computes, such as
    ``1 - lr * weight_decay``.
    """
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    lr = options.get("lr")
    if isinstance(lr, dict):
        options["lr"] = number(lr["tensor"])
    return options


def shapes_for(card: Card) -> tuple[Shape, ...]:
    if MATRICES(card):
        return MATRIX_SHAPES
    return CLOSURE_SHAPES if CLOSURE(card) else SHAPES


def inputs(card: Card, dtype: Any) -> tuple[Arrays, list[list[Any]]]:
    """Starting values, and the gradients of each step.

    RandomState gives the same numbers in every version of NumPy.
    """
    draw = np.random.RandomState(sum(map(ord, card.name)))
    shapes = shapes_for(card)
    share = 0 if card.source is not None and card.source.counts_together else MISSING
    start = [draw.standard_normal(shape).astype(dtype) for shape in shapes]
    grads: list[list[Any]] = []
    for _ in range(STEPS):
        step: list[Any] = []
        for shape in shapes:
            missing = draw.random_sample() < share
            values = draw.standard_normal(shape).astype(dtype)
            rows = draw.randint(0, shape[0], shape[0])
            step.append(None if missing else values if DENSE(card) else (rows, values))
        grads.append(step)
    return start, grads


def trajectory(card: Card, cls: Any, options: Options, door: Door, dtype: Any) -> list[Any]:
    """Where this class, ours or the source's, has the parameters after the stored steps."""
    start, grads = inputs(card, dtype)
    params = [door.wrap(array) for array in start]
    optimizer = cls(params, **options)
    if CLOSURE(card):
        return [_minimize(card, optimizer, params, door)]
    found = []
    for number, step in enumerate(grads, 1):
        if card.also and number % 3 == 0:
            door.step(optimizer, params, step, card.also)
        door.step(optimizer, params, step)
        if number in STORED:
            found.append([door.read(param).copy() for param in params])
    return found


def _minimize(card: Card, optimizer: Any, params: list[Any], door: Door) -> Arrays:
    """A few steps on a smooth convex function whose gradient NumPy computes."""

    def closure() -> Any:
        values = [door.read(param) for param in params]
        loss, grads = 0.0, []
        for number, x in enumerate(values):
            scale = (1 + number + np.arange(x.size).reshape(x.shape) / 4).astype(x.dtype)
            d = x - 1
            loss += float((scale * d**2 / 2 + d**4 / 8).sum(dtype=np.float64))
            grads.append(scale * d + d**3 / 2)
        if door.name == "array":
            return loss, grads
        for param, grad in zip(params, grads, strict=True):
            param.grad = door.gradient(grad)
        return loss

    for _ in range(card.steps(STEPS)):
        optimizer.step(closure)
    return [door.read(param).copy() for param in params]


def worst(found: list[Any], expected: list[Any]) -> float:
    """The largest difference, relative to max(1, |expected|); NaN if there is one."""
    differences = [0.0]
    for step, rows in zip(found, expected, strict=True):
        for array, row in zip(step, rows, strict=True):
            reference = np.array(row, dtype=np.float64).reshape(array.shape)
            scale = np.maximum(1, np.abs(reference))
            differences.append((np.abs(array - reference) / scale).max(initial=0))
    return float(np.max(differences))  # Python's max would pass over NaN

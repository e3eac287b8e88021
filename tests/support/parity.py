"""One run of any optimizer, the same in torch and here: what the stored trajectories are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.doors import Door
from tests.support.paths import GOLDEN

STORED_RUNS = GOLDEN / "trajectories.json"
STEPS = 60
STORED = (1, 20, 60)  # the steps after which the parameters are stored
MISSING = 0.25  # of the gradients

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Muon": ((3, 4), (4, 3), (2, 2)),
    "LBFGS": ((3, 2), (4,)),
}
DEFAULT_SHAPES = ((3, 4), (5,), (2, 3, 2))
# The closure's problem is solved to rounding within a few steps, after which a line search only
# finds noise.
LBFGS_STEPS = 3

Arrays = list[np.ndarray]


def load() -> dict[str, Any]:
    """What torch has done: per optimizer its options and, per dtype, the stored parameters."""
    result: dict[str, Any] = json.loads(STORED_RUNS.read_text())
    return result


def options_for(stored: dict[str, Any], number: Callable[[float], Any]) -> dict[str, Any]:
    """Options as they were stored; an lr that was a tensor is made by `number`.

    It is made in float64: of one in float32, torch rounds to float32 what it computes, such as
    ``1 - lr * weight_decay``.
    """
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    lr = options.get("lr")
    if isinstance(lr, dict):
        options["lr"] = number(lr["tensor"])
    return options


def inputs(name: str, dtype: Any) -> tuple[Arrays, list[list[Any]]]:
    """Starting values, and the gradients of each step.

    RandomState gives the same numbers in every version of NumPy.
    """
    draw = np.random.RandomState(sum(map(ord, name)))
    shapes = SHAPES.get(name, DEFAULT_SHAPES)
    start = [draw.standard_normal(shape).astype(dtype) for shape in shapes]
    grads: list[list[Any]] = []
    for _ in range(STEPS):
        step: list[Any] = []
        for shape in shapes:
            missing = draw.random_sample() < MISSING
            values = draw.standard_normal(shape).astype(dtype)
            rows = draw.randint(0, shape[0], shape[0])
            step.append(None if missing else (rows, values) if name == "SparseAdam" else values)
        grads.append(step)
    return start, grads


def trajectory(cls: Any, options: dict[str, Any], door: Door, name: str, dtype: Any) -> list[Any]:
    """The parameters after the stored steps."""
    start, grads = inputs(name, dtype)
    params = [door.wrap(array) for array in start]
    optimizer = cls(params, **options)
    if name == "LBFGS":
        return [_minimize(optimizer, params, door)]
    found = []
    for number, step in enumerate(grads, 1):
        door.step(optimizer, params, step)
        if number in STORED:
            found.append([door.read(param).copy() for param in params])
    return found


def _minimize(optimizer: Any, params: list[Any], door: Door) -> Arrays:
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

    for _ in range(LBFGS_STEPS):
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

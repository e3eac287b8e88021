"""Runs of sharded optimizers on ranks that are threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cyoptim.distributed import Local, Sharded
from tests.support.cards import Card, Options

Arrays = list[np.ndarray]
Gradients = Sequence[Any]
Copy = Callable[[np.ndarray], np.ndarray]


SHAPES = [(130, 300), (7,), (), (3, 5), (33_000,), (8192, 3)]
"""Of which four ranks cut some."""
SMALL = [(5,), (), (3, 4)]


def inputs(
    card: Card, dtype: Any = np.float32, steps: int = 3, shapes: Any = SHAPES, seed: int = 0
) -> tuple[Arrays, list[list[Any]]]:
    """Where parameters begin, and gradients for each step."""
    rng = np.random.default_rng(seed)
    shapes = card.shapes(shapes)

    def draw(shape: Any) -> np.ndarray:
        values = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.standard_normal(shape)
        return np.asarray(values, dtype)

    return [draw(s) for s in shapes], [[draw(s) for s in shapes] for _ in range(steps)]


def lanes_of(count: int, size: int, rank: int) -> range:
    """The lanes of a rank, if there are so many for all."""
    return range(rank * count // size, (rank + 1) * count // size)


def plain_run(
    card: Card,
    options: Options,
    start: Arrays,
    grads: Sequence[Gradients],
    copy: Copy = np.copy,
    **asked: Any,
) -> Arrays:
    """Where the optimizer itself leads."""
    params = [copy(array) for array in start]
    optimizer = card.cls(params, **options)
    for step in grads:
        optimizer.step(grads=step, **asked)
    return params


def sharded_run(
    size: int,
    card: Card,
    options: Options,
    start: Arrays,
    grads: Sequence[Gradients],
    settings: Options | None = None,
    copy: Copy = np.copy,
    **asked: Any,
) -> list[Arrays]:
    """Where each of so many ranks ends, if all have the same gradients."""

    def program(comm: Any) -> Arrays:
        params = [copy(array) for array in start]
        optimizer: Any = Sharded(params, card.cls, comm=comm, **(settings or {}), **options)
        for step in grads:
            optimizer.step(grads=step, **asked)
        return params

    return Local(size).run(program)


def same(found: Arrays, expected: Arrays, what: str = "") -> None:
    """Whether arrays have the same bits."""
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes(), f"{what} parameter {number}"


def same_everywhere(runs: list[Arrays], expected: Arrays) -> None:
    for rank, found in enumerate(runs):
        same(found, expected, f"rank {rank}:")


def lanes_run(
    size: int,
    card: Card,
    options: Options,
    start: Arrays,
    lanes: Sequence[Gradients],
    count: int,
    settings: Options | None = None,
    **asked: Any,
) -> list[tuple[Arrays, Any]]:
    """Where each of so many ranks ends, and the receipt of its last step, if each step is along
    `count` gradients, which the ranks share."""

    def program(comm: Any) -> tuple[Arrays, Any]:
        params = [array.copy() for array in start]
        optimizer: Any = Sharded(params, card.cls, comm=comm, **(settings or {}), **options)
        for first in range(0, len(lanes), count):
            for lane in lanes_of(count, size, comm.rank):
                optimizer.accumulate(lanes[first + lane])
            optimizer.step(**asked)
        return params, optimizer.last_step

    return Local(size).run(program)

"""A problem for L-BFGS, and runs on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.doors import NUMPY_DOORS, Door

CHUNK = 16384
WOLFE = {"line_search_fn": "strong_wolfe"}
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.1},
    {"lr": 0.3, "history_size": 3},
    {"lr": 0.1, "max_iter": 1},
    {"lr": 0.1, "max_iter": 4, "max_eval": 3},
    {"lr": 0.1, "history_size": 1, "max_iter": 7},
    WOLFE,
    {**WOLFE, "lr": 0.01},
    {**WOLFE, "lr": 30.0, "history_size": 4},
    {**WOLFE, "max_iter": 3, "max_eval": 5},
    {**WOLFE, "max_iter": 5, "max_eval": 2},
    {**WOLFE, "max_eval": 1},
    {**WOLFE, "max_iter": 0},
    {**WOLFE, "tolerance_grad": 1e-2},
    {**WOLFE, "tolerance_change": 1e-3},
)
IDS = ["-".join(f"{k}={v}" for k, v in options.items()) or "defaults" for options in OPTIONS]
SHAPES = [(3, 4), (5,), (), (0,), (2, 1, 3)]
SIZE = 24


class Problem:
    """A smooth, convex, well-conditioned loss over some arrays, with steep sides."""

    def __init__(self, shapes: list[tuple[int, ...]] = SHAPES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.start = [rng.standard_normal(shape) * 3 for shape in shapes]
        self.center = [rng.standard_normal(shape) for shape in shapes]
        self.weight = [rng.uniform(0.5, 2.0, shape) for shape in shapes]

    def loss(self, arrays: list[np.ndarray]) -> float:
        return sum(
            float((w * (np.sqrt(1 + (a - c) ** 2) + 0.1 * (a - c) ** 4)).sum())
            for a, c, w in zip(arrays, self.center, self.weight, strict=True)
        )

    def grads(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [
            np.asarray(w * ((a - c) / np.sqrt(1 + (a - c) ** 2) + 0.4 * (a - c) ** 3), a.dtype)
            for a, c, w in zip(arrays, self.center, self.weight, strict=True)
        ]


class Run:
    """An optimizer on a problem through a door, and every point at which the loss was evaluated."""

    def __init__(
        self,
        cls: Any,
        options: dict[str, Any],
        door: Door = NUMPY_DOORS[0],
        problem: Problem | None = None,
        dtype: Any = np.float64,
        params: list[Any] | None = None,
    ) -> None:
        self.problem = problem or Problem()
        self.door = door
        if params is None:
            params = [door.wrap(np.array(a, dtype)) for a in self.problem.start]
        self.params = params
        self.optimizer = cls(params, **options)
        self.points: list[np.ndarray] = []

    def values(self) -> list[np.ndarray]:
        return [self.door.read(param) for param in self.params]

    def closure(self) -> Any:
        values = self.values()
        self.points.append(np.concatenate([a.ravel() for a in values]))
        loss, grads = self.problem.loss(values), self.problem.grads(values)
        if self.door.name == "array":
            return loss, grads
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = self.door.gradient(grad)
        return loss

    def steps(self, count: int) -> Run:
        for _ in range(count):
            self.optimizer.step(self.closure)
        return self

    def end(self) -> np.ndarray:
        return np.concatenate([a.ravel() for a in self.values()])

    def state(self) -> dict[str, Any]:
        return dict(self.optimizer.state.get(self.params[0], {}))

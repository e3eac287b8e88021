"""What the relatives of Adafactor share: matrices, their factors, and updates that are prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cyoptim._engine import (
    Commit,
    Factored,
    in_order,
    is_usable,
    make_counter,
    next_count,
    whole_count,
)
from cyoptim._step.updates import label_of, missing_arrays, update_now
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

Shape = tuple[int, ...]
Axes = tuple[int, int] | None
"""The rows and columns of an array, in this order; None: it is not factored."""

COUNT = np.dtype(np.int64)


class FactoredOptimizer(Optimizer):
    """Updates of one parameter after the other, each computed before any is made."""

    _takes_complex: ClassVar[bool] = False
    _essential_state: ClassVar[tuple[str, ...] | None] = ("step",)

    # What an option may have added to the state since the last step.
    _optional_state: ClassVar[tuple[str, ...]] = ()

    def _shapes(self, shape: Shape, group: Group) -> dict[str, Shape]:
        """The arrays of the state of a parameter of this shape."""
        raise NotImplementedError

    def _prepare_matrices(
        self, opened: Opened, state: dict[str, Any], group: Group, t: int, commit: Commit
    ) -> None:
        """Prepare the t-th update of a parameter that has elements."""
        raise NotImplementedError

    def _axes(self, shape: Shape, group: Group) -> Axes:
        return (len(shape) - 2, len(shape) - 1) if len(shape) > 1 else None

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        update_now(self._prepare_update, param, grad, state, group)

    def _prepare_update(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> dict[str, Any]:
        shapes = self._shapes(param.shape, group)
        new = missing_arrays(self, param, state, shapes)
        count = self._count_of(param, state.get("step"))
        if not is_usable(state.get("step"), (), COUNT):
            new["step"] = make_counter(count, "")
        state, t = {**state, **new}, next_count(count)
        commit.copy(state["step"], np.array(t, np.int64))
        if param.size:
            moment = state["exp_avg"] if "exp_avg" in shapes else None
            opened = Opened(param, grad, self._axes(param.shape, group), moment)
            self._prepare_matrices(opened, state, group, t, commit)
        return new

    def _count_of(self, param: Any, step: Any) -> int:
        """The steps so far. Only the message of an error says of which parameter."""
        try:
            return whole_count(0 if step is None else step, "state 'step'")
        except (TypeError, ValueError):
            return whole_count(step, f"state 'step' of {label_of(self, param)}")

    def _lacks(self, shape: Shape, entries: Mapping[str, Any], group: Group) -> list[str]:
        names = ["step", *self._shapes(shape, group)]
        if not any(n == "step" or self._state_shape(n, shape) is not None for n in entries):
            return []  # what it has is not of ours
        needed = [name for name in names if name not in self._optional_state]
        return [name for name in needed if entries.get(name) is None]


class Opened:
    """A parameter, its gradient and an array like it as matrices in C order."""

    def __init__(self, param: Any, grad: Any, axes: Axes, moment: Any = None) -> None:
        self.axes, self.dtype, self.shape = axes, param.dtype, param.shape
        self._targets = [param] if moment is None else [param, moment]
        self._own = [self.matrices_of(array) for array in self._targets]
        self._direct = all(map(np.shares_memory, self._targets, self._own))
        if not self._direct:  # what is no copy yet must not change before the commit
            self._own = [self.matrices_of(array.copy()) for array in self._targets]
        self.param, self.moment = self._own[0], self._own[-1]
        self.grad = self.matrices_of(grad)
        self.factored = Factored(self.param, self.grad)
        self.root = math.sqrt(param.size)

    def matrices_of(self, array: Any) -> Any:
        if self.axes is None:
            return in_order(array).reshape(-1)
        return in_order(np.moveaxis(array, self.axes, (-2, -1)))

    def lines_of(self, array: Any, axis: int) -> Any:
        """A state array with one element for each row (axis 0) or column, matrix by matrix."""
        if self.axes is None:
            return array.reshape(-1)
        if array.ndim == len(self.shape):
            array = np.moveaxis(array, self.axes, (-2, -1))
        return array.reshape(-1, self.shape[self.axes[axis]])

    def keep_lines(self, target: Any, values: Any, commit: Commit) -> Any:
        """Let `commit` put what is as lines_of() into a state array; return it in that dtype."""
        values = values.astype(target.dtype)
        if self.axes is None or target.ndim < len(self.shape):
            commit.copy(target, values.reshape(target.shape))
            return values
        moved = np.moveaxis(target, self.axes, (-2, -1))
        shaped = values.reshape(moved.shape)
        commit.copy(target, self._moved_back(shaped))
        return values

    def rms(self) -> float:
        """The root mean square of u."""
        return self.factored.norm() / self.root

    def commit(self, shrink: float, size: float, commit: Commit) -> None:
        """Let `commit` make the update, or put its result in the place of what had to be copied."""
        if self._direct:
            commit.scale(self.factored, shrink, size)
            return
        self.factored.update(shrink, size)
        for target, own in zip(self._targets, self._own, strict=True):
            values = own.reshape(target.shape) if self.axes is None else self._moved_back(own)
            commit.copy(target, values)

    def _moved_back(self, own: Any) -> Any:
        assert self.axes is not None
        return np.moveaxis(own, (-2, -1), self.axes)


def averaged(old: Any, new: Any, weight: float) -> Any:
    return old + weight * (new - old)


def inverse_roots(row: Any, column: Any, dtype: Any) -> tuple[Any, Any]:
    """The factors that divide by the root of ``row * column / mean(row)``, row by row.

    Where a mean square is zero, all of its gradients are and have been, and so the factor is 0.
    """
    row, column = row.astype(np.float64), column.astype(np.float64)
    with np.errstate(all="ignore"):
        row = np.where(row != 0, np.sqrt(row.mean(axis=-1, keepdims=True) / row), 0)
    return row.astype(dtype, order="C"), inverse_root(column, dtype)


def inverse_root(square: Any, dtype: Any) -> Any:
    with np.errstate(all="ignore"):
        root = np.where(square != 0, 1 / np.sqrt(square.astype(np.float64)), 0)
    return root.astype(dtype, order="C")


def clip_of(rms: float, threshold: float) -> float:
    """What bounds a root mean square; NaN if that is not finite."""
    return 1 / max(1.0, rms / threshold) if math.isfinite(rms) else math.nan


def second_moments(
    opened: Opened,
    state: dict[str, Any],
    names: tuple[str, str],
    weight: float,
    eps: float,
    commit: Commit,
) -> tuple[Any, Any]:
    """Prepare the next averages of squares; return what the gradient is multiplied by."""
    if opened.axes is None:
        square = opened.grad.astype(np.float64) ** 2 + eps
        old = opened.lines_of(state["exp_avg_sq"], 0)
        square = opened.keep_lines(state["exp_avg_sq"], averaged(old, square, weight), commit)
        return np.ones(1, opened.dtype), inverse_root(square, opened.dtype)
    return factors_of(opened, state, names, opened.factored.mean_squares(), weight, eps, commit)


def factors_of(
    opened: Opened,
    state: dict[str, Any],
    names: tuple[str, str],
    means: tuple[Any, Any],
    weight: float,
    eps: float,
    commit: Commit,
) -> tuple[Any, Any]:
    """Prepare the next averages of means along rows and columns; return inverse roots of them."""
    row, column = (
        opened.keep_lines(
            state[name], averaged(opened.lines_of(state[name], axis), mean + eps, weight), commit
        )
        for axis, (name, mean) in enumerate(zip(names, means, strict=True))
    )
    return inverse_roots(row, column, opened.dtype)

"""What the relatives of Adafactor share: matrices with averages along rows and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cyoptim._engine import (
    Commit,
    FactoredStep,
    KeptSteps,
    in_order,
    is_usable,
    make_counter,
    next_count,
    whole_count,
)
from cyoptim._step.definition import Found
from cyoptim._step.updates import label_of, missing_arrays, update_now
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

Shape = tuple[int, ...]
Axes = tuple[int, int] | None
"""The rows and columns of an array, in this order; None: it is not factored."""
Lines = tuple[tuple[str, ...], tuple[str, ...]]
"""The names of averages along rows and columns: of squares, and of those of the residual."""
Numbers = dict[str, Any]
"""Those of a step, by the names that :class:`cyoptim._engine.FactoredStep` has for them."""

COUNT = np.dtype(np.int64)

PLAIN: Numbers = {
    "eps": 0.0,
    "residual_weight": 0.0,
    "residual_eps": 0.0,
    "most": math.inf,
    "least_mean": 0.0,
    "least_scale": 0.0,
    "threshold": math.inf,
    "rate": 1.0,
    "keep": 0.0,
    "rest": 1.0,
    "product": True,
    "scaled": False,
    "cautious": False,
    "decays_by_scale": False,
}
"""What a rule does not need."""


class FactoredOptimizer(Optimizer):
    """Steps that are prepared parameter by parameter, and then made together."""

    _takes_complex: ClassVar[bool] = False
    _essential_state: ClassVar[tuple[str, ...] | None] = ("step",)
    _kept: KeptSteps

    def _make_own(self) -> None:
        super()._make_own()
        self._kept = KeptSteps()

    # What an option may have added to the state since the last step.
    _optional_state: ClassVar[tuple[str, ...]] = ()

    def _shapes(self, shape: Shape, group: Group) -> dict[str, Shape]:
        """The arrays of the state of a parameter of this shape."""
        raise NotImplementedError

    def _lines(self, shape: Shape, group: Group) -> Lines:
        """The averages in the state of a parameter of this shape."""
        raise NotImplementedError

    def _numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        """The numbers of the t-th step of a parameter."""
        raise NotImplementedError

    def _state_form(self, group: Group) -> Any:
        """What options say of the arrays of the state."""
        return None

    def _all_numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        return PLAIN | self._numbers(group, t, dtype)

    def _axes(self, shape: Shape, group: Group) -> Axes:
        return (len(shape) - 2, len(shape) - 1) if len(shape) > 1 else None

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        update_now(self._prepare_update, param, grad, state, group)

    def _prepare_update(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> dict[str, Any]:
        return self._prepare(param, grad, state, group, commit)[0]

    def _prepare_known(
        self, found: Found, params: list[Any], groups: list[Group], commit: Commit
    ) -> Found:
        if type(self)._prepare_update is not FactoredOptimizer._prepare_update:
            return found
        for number, array, grad in self._kept.prepare(found, params, groups, self, commit):
            known, group = self.state.arrays(params[number]), groups[number]
            new, step = self._prepare(array, grad, known, group, commit)
            self.state.prepare(params[number], new, commit)
            if step is not None:
                self._kept.keep(
                    number, self._state_form(group), step, self._names(array.shape, group)
                )
        return ()

    def _prepare(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> tuple[dict[str, Any], FactoredStep | None]:
        """New entries of the state, and the step, if it is made of the arrays themselves."""
        new = missing_arrays(self, param, state, self._shapes(param.shape, group))
        count = self._count_of(param, state.get("step"))
        if not is_usable(state.get("step"), (), COUNT):
            new["step"] = make_counter(count, "")
        state, t = {**state, **new}, next_count(count)
        if not param.size:
            commit.copy(state["step"], np.array(t, np.int64))
            return new, None
        opened = Opened(self._axes(param.shape, group), param.ndim)
        squares, residuals = self._lines(param.shape, group)
        step = FactoredStep(
            opened.array(param),
            opened.array(state["exp_avg"]) if self._averages(param.shape, group) else None,
            tuple(opened.array(state[name]) for name in squares),
            tuple(opened.array(state[name]) for name in residuals),
            state["step"],
        )
        step.begin(t, self._all_numbers(group, t, param.dtype))
        commit.factor(step, opened.gradient(grad))
        for array, changed in opened.copies:
            commit.copy(array, changed)
        return new, step if opened.direct else None

    def _averages(self, shape: Shape, group: Group) -> bool:
        """Whether there is an average of the scaled gradient."""
        return "exp_avg" in self._shapes(shape, group)

    def _names(self, shape: Shape, group: Group) -> tuple[str, ...]:
        """The entries of the state, in the order of a step."""
        averages = ("exp_avg",) if self._averages(shape, group) else ()
        squares, residuals = self._lines(shape, group)
        return (*averages, *squares, *residuals, "step")

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
    """Arrays as matrices in C order: with rows and columns as their last axes."""

    def __init__(self, axes: Axes, ndim: int) -> None:
        self._ndim = ndim
        self._axes = None if axes == (ndim - 2, ndim - 1) else axes
        self.copies: list[tuple[Any, Any]] = []
        """Pairs of what is not in C order, and its copy, with which it is to end."""

    @property
    def direct(self) -> bool:
        """Whether arrays are matrices in C order as they are."""
        return self._axes is None and not self.copies

    def array(self, array: Any) -> Any:
        """An array that is changed."""
        moved = self._moved(array)
        own = in_order(moved)
        if own is not moved:
            self.copies.append((moved, own))
        return own

    def gradient(self, array: Any) -> Any:
        return in_order(self._moved(array))

    def _moved(self, array: Any) -> Any:
        if self._axes is None or array.ndim < self._ndim:
            return array
        return np.moveaxis(array, self._axes, (-2, -1))

"""The history from one iteration to the next, and its form as a state."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, loaded_array, type_name, view_parameter
from cyoptim._engine import Room, TwoLoop, whole_count
from cyoptim._state.form import Form
from cyoptim._types import Array, Group
from cyoptim.optimizers._lbfgs.flat import FlatArrays, dot, largest

# A pair of step and change of gradient with a smaller product is not stored.
LEAST_CURVATURE = 1e-10

_COUNTS = ("func_evals", "n_iter")
_VECTORS = ("d", "prev_flat_grad")
_HISTORY = ("old_dirs", "old_stps", "ro")
NAMES = frozenset({*_COUNTS, *_VECTORS, *_HISTORY, "t", "H_diag", "prev_loss", "al"})


@dataclass
class History:
    """The data from one iteration to the next, under torch's names."""

    dtype: Any
    func_evals: int = 0
    n_iter: int = 0
    d: Any = None
    t: float = 0.0
    old_dirs: list[Array] = field(default_factory=list)
    old_stps: list[Array] = field(default_factory=list)
    ro: list[float] = field(default_factory=list)
    H_diag: float = 1
    prev_flat_grad: Any = None
    prev_loss: float = 0.0
    al: list[float | None] | None = None
    _reach: float | None = None

    @classmethod
    def of_state(cls, state: dict[str, Any], arrays: FlatArrays, label: str) -> History:
        """Make it from the entries of a state; vectors must have the size of the problem."""
        history = cls(arrays.dtype)
        for name in _COUNTS:
            count = state.get(name, 0)
            if not isinstance(count, int):
                count = whole_count(count, f"state {name!r} of {label}")
            if count < 0:
                raise ValueError(f"state {name!r} of {label} is {count}, expected at least 0")
            setattr(history, name, count)
        if history.n_iter == 0:
            return history
        missing = NAMES - state.keys() - {"al"}
        if missing:
            raise ValueError(f"state of {label} has n_iter {history.n_iter}, but no {min(missing)}")

        def vector(name: str, value: Any) -> Array:
            what = f"state {name!r} of {label}"
            array = loaded_array(value, what)
            if array.shape != (arrays.size,) or array.dtype.kind not in "fiub":
                raise ValueError(
                    f"{what} has shape {array.shape} and dtype {array.dtype}, expected "
                    f"{(arrays.size,)} and {arrays.dtype}"
                )
            return np.ascontiguousarray(array, arrays.dtype)

        for name in _VECTORS:
            setattr(history, name, vector(name, state[name]))
        for name in ("old_dirs", "old_stps"):
            setattr(history, name, [vector(name, value) for value in state[name]])
        history.ro = [float(value) for value in state["ro"]]
        history.t, history.prev_loss = float(state["t"]), float(state["prev_loss"])
        history.H_diag = _number(state["H_diag"])
        history.al = _numbers(state.get("al"))
        if not len(history.old_dirs) == len(history.old_stps) == len(history.ro):
            raise ValueError(
                f"state of {label} has {len(history.old_dirs)} old_dirs, {len(history.old_stps)} "
                f"old_stps and {len(history.ro)} ro"
            )
        return history

    def as_state(self) -> dict[str, Any]:
        """The entries of a state: numbers of the method are arrays without axes, as in torch."""
        entries: dict[str, Any] = {name: getattr(self, name) for name in _COUNTS}
        if self.n_iter == 0:
            return entries
        for name in (*_VECTORS, "old_dirs", "old_stps", "t", "prev_loss"):
            entries[name] = getattr(self, name)
        entries["ro"] = [self._scalar(value) for value in self.ro]
        entries["H_diag"] = self._scalar(self.H_diag)
        if self.al is not None:
            entries["al"] = [self._scalar(value) for value in self.al]
        return entries

    def _scalar(self, value: float | None) -> Any:
        # The first factor between the loops is the number 1 itself.
        return value if value is None or isinstance(value, int) else np.array(value, self.dtype)

    @property
    def reach(self) -> float:
        """The largest element of the direction."""
        if self._reach is None:
            self._reach = largest(self.d)
        return self._reach

    @np.errstate(all="ignore")  # the caller checks the result for values that are not finite
    def set_direction(self, loss: float, grad: Array, history_size: int) -> float:
        """Set the next direction; return its product with the gradient."""
        self.n_iter += 1
        self._reach = None
        if self.n_iter == 1:
            self.d = -grad
            slope = -dot(grad, grad)
        else:
            self._remember(grad, history_size)
            slope = self._recur(grad, history_size)
        self.prev_flat_grad, self.prev_loss = grad, loss
        return slope

    def _remember(self, grad: Array, history_size: int) -> None:
        """Add the last step, and the change of the gradient over it, to the history."""
        change = grad - self.prev_flat_grad
        step = self.d * self.dtype.type(self.t)
        curvature = dot(change, step)
        if not curvature > LEAST_CURVATURE:
            return
        for entries in (self.old_dirs, self.old_stps, self.ro):
            del entries[: max(len(entries) + 1 - history_size, 0)]
        self.old_dirs.append(change)
        self.old_stps.append(step)
        # Rounded as they are saved, so that a resumed run has the same bits.
        self.ro.append(float(self.dtype.type(1.0 / curvature)))
        self.H_diag = float(self.dtype.type(curvature / dot(change, change)))

    def _recur(self, grad: Array, history_size: int) -> float:
        if not self.ro:
            self.d = grad * self.dtype.type(-self.H_diag)
            self.al = [None] * history_size
            return dot(grad, self.d)
        self.d = grad.copy()
        weights, slope = TwoLoop([self.d]).run(
            grad, self.old_dirs, self.old_stps, self.ro, self.H_diag
        )
        self.al = [*weights, *[None] * (history_size - len(weights))]
        return slope


def _number(value: Any) -> float:
    return value if isinstance(value, int) else float(value)


def _numbers(values: Any) -> list[float | None] | None:
    return None if values is None else [None if v is None else float(v) for v in values]


# --- states ---------------------------------------------------------------------------------------


def restarted(state: dict[str, Any]) -> dict[str, Any]:
    """A restarted state, with the entries that do not depend on the problem."""
    kept = {k: v for k, v in state.items() if k == "func_evals" or k not in NAMES}
    return {**kept, "n_iter": 0}


def _copied(value: Any) -> Any:
    """A copy with arrays instead of tensors: they are where the optimizer's memory is."""
    if is_tensor(value):
        return np.array(loaded_array(value, "a vector of the loaded state"))
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return copy.deepcopy(value)


class HistoryForm(Form):
    """The state of the whole problem, stored with the first parameter."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        self._params = [p for group in optimizer.param_groups for p in group["params"]]

    def ordered(
        self, state: Mapping[Any, Any], before: list[Any], keys: list[Any], views: list[Array]
    ) -> Mapping[Any, Any]:
        """The state of the whole problem, with the parts of its vectors in the new order."""
        values = state.get(before[0]) if before else None
        if before == keys or not isinstance(values, dict):
            return state
        sizes = {
            key: view.size * (2 if view.dtype.kind == "c" else 1)
            for key, view in zip(keys, views, strict=True)
        }
        ends = list(itertools.accumulate((sizes[key] for key in before), initial=0))
        parts = {key: slice(*ends[i : i + 2]) for i, key in enumerate(before)}

        def moved(value: Any) -> Any:
            array = loaded_array(value, "a vector of the loaded state")
            if array.shape != (ends[-1],):
                return value  # refused later, with its shape
            return np.concatenate([array[parts[key]] for key in keys])

        entries = {name: value for name, value in values.items() if name in NAMES}
        for name in entries.keys() & {*_VECTORS}:
            entries[name] = moved(entries[name])
        for name in entries.keys() & {"old_dirs", "old_stps"}:
            entries[name] = [moved(value) for value in entries[name]]
        notes = {name: value for name, value in values.items() if name not in NAMES}
        ordered = {**state, before[0]: notes}
        return {**ordered, keys[0]: {**ordered.get(keys[0], {}), **entries}}

    def loaded(
        self,
        param: Any,
        view: Array,
        values: Any,
        label: str,
        room: Room,
        group: Group | None = None,
    ) -> Any:
        """A copy of the loaded state, with vectors of the size of the problem."""
        if not isinstance(values, dict):
            raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")
        notes = {name: copy.deepcopy(values[name]) for name in values.keys() - NAMES}
        if values.keys() <= notes.keys():
            return notes
        views = [view_parameter(p, "a parameter")[1] for p in self._params]
        history = History.of_state(_copied(values), FlatArrays(views), label)
        return {**history.as_state(), **notes}

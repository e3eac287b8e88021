"""Gradients accumulated for the next step."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from cyoptim._arrays.doors import own_part
from cyoptim._engine import (
    Arrays,
    Extras,
    add_up,
    in_arithmetic,
    same_layout_as,
    whole_count,
    widened,
)
from cyoptim._state.exchange import array_like
from cyoptim._state.mapping import in_kind
from cyoptim._types import Array

NAME = "sum"  # of the arrays, among those of the state


class Sums:
    """The sum of gradients of each parameter: an array made at the first gradient and then reused.

    A sum belongs to its parameter, whatever its group. A parameter that is removed
    and comes back before the step still has its sum.
    """

    def __init__(self) -> None:
        self._count = 0
        self._params: list[Any] = []
        self._arrays: list[Any] = []
        self._used: list[bool] = []
        self._steps: list[Extras] = []  # steps that use the sums

    @property
    def count(self) -> int:
        """The number of gradients in each sum since the last completed step."""
        # The step's own flag decides, instead of a reset at its end: an interrupt might come
        # between step and reset.
        if any(step.done for step in self._steps):
            self._count = 0
            self._used = [False] * len(self._used)
            self._steps = []
        return self._count

    def add(
        self, params: list[Any], grads: list[Any], arrays: list[Any], holders: list[Any]
    ) -> None:
        """Add a gradient, or None, for each parameter; `arrays` are the parameters' memory. The
        gradients of `holders`, parameters with a ``.grad``, become None."""
        count = self.count
        sums, used, rest = self._of(params)
        for i, (grad, array) in enumerate(zip(grads, arrays, strict=True)):
            if used[i]:
                if not same_layout_as(sums[i], array):
                    sums[i] = _in_place_of(sums[i], array, i)
            elif grad is not None:
                sums[i] = _room(sums[i], array)
        new = [(sums[i], widened(g)) for i, g in enumerate(grads) if g is not None and not used[i]]
        again = [i for i, grad in enumerate(grads) if grad is not None and used[i]]
        spans = Arrays([sums[i] for i in again], [grads[i] for i in again])
        now = [u or grad is not None for u, grad in zip(used, grads, strict=True)]
        outcome = {
            "_params": [*params, *(param for param, _ in rest)],
            "_arrays": [*sums, *(array for _, array in rest)],
            "_used": [*now, *(True for _ in rest)],
            "_count": count + 1,
        }
        add_up(self, new, spans, outcome, holders)

    def _of(self, params: list[Any]) -> tuple[list[Any], list[bool], list[tuple[Any, Any]]]:
        """For each of these parameters its sum, and whether that is in use; and the sums in use of
        other parameters, which may come back before the step."""
        if len(params) == len(self._params) and all(map(is_, params, self._params)):
            return [*self._arrays], [*self._used], []
        known: dict[int, list[tuple[Any, Any, bool]]] = {}
        for entry in zip(self._params, self._arrays, self._used, strict=True):
            known.setdefault(id(entry[0]), []).append(entry)
        sums, uses = [], []
        for param in params:
            entries = known.get(id(param))
            _, array, used = entries.pop(0) if entries else (None, None, False)
            sums.append(array)
            uses.append(used)
        rest = [(p, array) for entries in known.values() for p, array, used in entries if used]
        return sums, uses, rest

    def gradients(self, params: list[Any] | None = None) -> list[Any]:
        """The sums of these parameters, or of all that have one; None for a parameter without."""
        params = self._params if params is None else params
        if not self.count:
            return [None] * len(params)
        sums, uses, _ = self._of(params)
        return [array if used else None for array, used in zip(sums, uses, strict=True)]

    def check_nothing_waits(self) -> None:
        """Refuse to let sums wait while a step goes along other gradients."""
        if self.count:
            raise ValueError(
                f"gradients of {self.count} calls of accumulate() wait to be averaged: "
                "call step() without a closure and without grads"
            )

    def drop(self, holders: list[Any]) -> None:
        """Drop the sums, and set the gradients of `holders` to None: both, or neither."""
        add_up(self, [], Arrays([], []), self.forgotten(), holders)

    def forgotten(self) -> dict[str, Any]:
        """The attributes of an object without sums; the arrays are kept."""
        return {"_count": 0, "_used": [False] * len(self._used), "_steps": []}

    def give(self, step: Extras) -> None:
        """Start new sums when this step is completed; the arrays are kept."""
        self._steps = [*self._steps, step]

    # --- saving and loading -----------------------------------------------------------------------

    def export(self, params: Sequence[Any], numbers: dict[int, int]) -> dict[str, Any]:
        """Its entry in state_dict(); `numbers` are those of the parameters, by identity.

        Copies, as the arrays will be reused. A parameter that occurs several times has a list of
        sums, with None for an occurrence without.
        """
        values: dict[int, list[Any]] = {}
        for param, array in zip(params, self.gradients([*params]), strict=True):
            kept = None if array is None else in_kind(param, {NAME: array.copy("K")})[NAME]
            values.setdefault(numbers[id(param)], []).append(kept)
        found = {n: sums for n, sums in values.items() if any(one is not None for one in sums)}
        return {
            "calls": self.count,
            "values": {n: sums[0] if len(sums) == 1 else sums for n, sums in found.items()},
        }

    def copy(self) -> Sums:
        """A copy, with its own arrays."""
        return _rebuilt(self.count, [(param, array.copy("K")) for param, array in self._in_use()])

    def _in_use(self) -> list[tuple[Any, Array]]:
        pairs = zip(self._params, self.gradients(), strict=True)
        return [(param, array) for param, array in pairs if array is not None]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.count, self._in_use())


def loaded_sums(
    saved: Any, keys: list[Any], params: list[Any], views: list[Array], labels: list[str]
) -> Sums:
    """Sums from the result of :meth:`Sums.export`; values are copied.

    `keys` are the saved keys of the parameters.
    """
    if not (
        isinstance(saved, dict)
        and {"calls", "values"} <= saved.keys()
        and isinstance(saved["values"], dict)
    ):
        raise TypeError("'accumulated' of the state dict must be a dict with calls and values")
    calls = whole_count(saved["calls"], "the number of calls of accumulate()")
    strange = [key for key in saved["values"] if key not in keys]
    if strange:
        raise ValueError(f"'accumulated' has an entry of {strange[0]!r}, which is no parameter's")
    waiting = {
        key: [*value] if isinstance(value, list) else [value]
        for key, value in saved["values"].items()
    }
    pairs = []
    for key, param, view, label in zip(keys, params, views, labels, strict=True):
        value = waiting[key].pop(0) if waiting.get(key) else None
        if value is not None:
            array, what = in_arithmetic(view), f"loaded sum of {label}"
            value = own_part(value, param, what)
            array[...] = array_like(value, view.shape, array.dtype, what)
            pairs.append((param, array))
    return _rebuilt(calls, pairs)


def _rebuilt(count: int, pairs: list[tuple[Any, Array]]) -> Sums:
    sums = Sums()
    sums._count = count
    sums._params = [param for param, _ in pairs]
    sums._arrays = [array for _, array in pairs]
    sums._used = [True] * len(pairs)
    return sums


def _room(room: Any, array: Any) -> Any:
    """An array with the layout of the parameter's state: `room`, if it fits."""
    new = in_arithmetic(array)
    return room if room is not None and same_layout_as(room, new) else new


def _in_place_of(total: Any, array: Any, i: int) -> Any:
    """A sum in use, in the layout of the parameter's state."""
    new = in_arithmetic(array)
    if same_layout_as(total, new):
        return total
    if total.shape != new.shape or total.dtype != new.dtype:
        raise ValueError(
            f"gradients of shape {total.shape} and dtype {total.dtype} have been accumulated for "
            f"parameter {i}, which now has {new.shape} and {new.dtype}: zero_grad() drops them"
        )
    new[...] = total
    return new

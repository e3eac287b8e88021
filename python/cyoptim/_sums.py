"""Gradients that are added up before a step."""

from __future__ import annotations

from typing import Any

import numpy as np

from cyoptim._engine import Extras, Spans, add_up, same_layout_as


class Sums:
    """One array for each parameter, made at its first gradient and kept for the next sum."""

    def __init__(self) -> None:
        self._count = 0
        self._arrays: list[Any] = []
        self._used: list[bool] = []
        self._steps: list[Extras] = []  # that were given the sums

    @property
    def count(self) -> int:
        """How many gradients have been added to each since the last step was done."""
        # Asked for afterwards, rather than reset at the end of the step: an interrupt may come
        # between the two.
        if any(step.done for step in self._steps):
            self._count = 0
            self._used = [False] * len(self._used)
            self._steps = []
        return self._count

    def add(self, grads: list[Any], arrays: list[Any], holders: list[Any]) -> None:
        """Add a gradient, or None, for each parameter; `arrays` are the parameters' own. Parameters
        that are `holders` of their gradients drop them."""
        count = self.count
        missing = len(arrays) - len(self._arrays)
        sums = [*self._arrays, *[None] * missing][: len(arrays)]
        used = [*self._used, *[False] * missing][: len(arrays)]
        for i, (grad, array) in enumerate(zip(grads, arrays, strict=True)):
            if grad is not None and not used[i]:
                sums[i] = _room(sums[i], array)
        new = [(sums[i], g) for i, g in enumerate(grads) if g is not None and not used[i]]
        again = [i for i, grad in enumerate(grads) if grad is not None and used[i]]
        spans = Spans([sums[i] for i in again], [grads[i] for i in again])
        now = [u or grad is not None for u, grad in zip(used, grads, strict=True)]
        outcome = {"_arrays": sums, "_used": now, "_count": count + 1}
        add_up(self, new, spans, outcome, holders)

    def gradients(self) -> list[Any]:
        """The sums, None where there is none."""
        if not self.count:
            return [None] * len(self._arrays)
        return [a if used else None for a, used in zip(self._arrays, self._used, strict=True)]

    def give(self, step: Extras) -> None:
        """Begin anew as soon as this step is done; the arrays are kept."""
        self._steps = [*self._steps, step]


def _room(room: Any, array: Any) -> Any:
    """An array laid out as the parameter's state: the one at hand, if it fits."""
    new = np.empty_like(array, subok=False)
    return room if room is not None and same_layout_as(room, new) else new

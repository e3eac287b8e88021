"""Gradients accumulated on one rank, added up in the order in which ranks add them up, too.

(a) Each call of ``accumulate()`` adds a lane. All lanes of all ranks are the leaves of one tree:
the left part of n lanes has the largest power of two below n. So sums have the same bits however
many ranks there are, if each has a power of two of lanes.
(b) Here lanes are added as a binary counter counts: sums of as many lanes are added to each other.
"""

from __future__ import annotations

from operator import is_
from typing import Any, NamedTuple

import numpy as np

from cyoptim._engine import Arrays, add_up, arithmetic_dtype, in_arithmetic, widened
from cyoptim._gradients.sums import Sums
from cyoptim._types import Array


class Level(NamedTuple):
    """The sum of some lanes: an array for each parameter, None for one that had no gradient."""

    lanes: int
    arrays: list[Any]


class Lanes(Sums):
    """The sums of the lanes of this rank, which become one at the step."""

    def __init__(self) -> None:
        super().__init__()
        self._levels: list[Level] = []  # of falling numbers of lanes
        self._spare: list[list[Array]] = []  # for each parameter, arrays to be used again

    @property
    def count(self) -> int:
        """The number of lanes since the last completed step."""
        if any(step.done for step in self._steps):
            vars(self).update(self.forgotten())
        return self._count

    def add(
        self, params: list[Any], grads: list[Any], arrays: list[Any], holders: list[Any]
    ) -> None:
        """Add a lane: a gradient, or None, for each parameter, of which `arrays` are the memory.
        The gradients of `holders`, parameters with a ``.grad``, become None."""
        count = self.count
        self._follow(params)
        self._merge()
        spare = [[*one] for one in self._spare]
        levels = [*self._levels]
        joins = bool(levels) and levels[-1].lanes == 1
        sums: list[Any] = [*levels.pop().arrays] if joins else [None] * len(params)
        again = [i for i, grad in enumerate(grads) if grad is not None and sums[i] is not None]
        spans = Arrays([sums[i] for i in again], [grads[i] for i in again])
        new = []
        for i, grad in enumerate(grads):
            if grad is not None and sums[i] is None:
                sums[i] = _room(spare[i], arrays[i])
                new.append((sums[i], widened(grad)))
        levels.append(Level(2 if joins else 1, sums))
        outcome = {"_levels": levels, "_spare": spare, "_count": count + 1}
        add_up(self, new, spans, outcome, holders)
        self._merge()

    def _follow(self, params: list[Any]) -> None:
        """Bring what there is into the order of these parameters, to which some may have come."""
        if len(params) == len(self._params) and all(map(is_, params, self._params)):
            return
        places = {id(param): i for i, param in enumerate(self._params)}
        order = [places.get(id(param)) for param in params]
        levels = [
            Level(lanes, [None if i is None else arrays[i] for i in order])
            for lanes, arrays in self._levels
        ]
        spare = [[] if i is None else self._spare[i] for i in order]
        vars(self).update({"_levels": levels, "_spare": spare, "_params": [*params]})

    def _merge(self) -> None:
        """Add up sums of as many lanes. An interrupt leaves some of it for the next time."""
        while len(self._levels) > 1 and self._levels[-2].lanes == self._levels[-1].lanes:
            *levels, left, right = self._levels
            spare = [[*one] for one in self._spare]
            sums = [*left.arrays]
            both = []
            for i, array in enumerate(right.arrays):
                if sums[i] is None:
                    sums[i] = array
                elif array is not None:
                    both.append(i)
                    spare[i].append(array)
            spans = Arrays([sums[i] for i in both], [right.arrays[i] for i in both])
            levels.append(Level(left.lanes + right.lanes, sums))
            add_up(self, [], spans, {"_levels": levels, "_spare": spare}, [])

    def gradients(self, params: list[Any] | None = None) -> list[Any]:
        """The sums of these parameters; None for a parameter without. They are valid until lanes
        are added."""
        if not self.count:
            return [None] * len(self._params if params is None else params)
        if params is not None:
            self._follow(params)
        self._merge()
        *above, last = self._levels
        return self._folded(above, last.arrays) if above else [*last.arrays]

    def _folded(self, above: list[Level], last: list[Any]) -> list[Any]:
        """All levels, added up from the last one, in arrays of their own, as the step may fail."""
        sums: list[Any] = [None] * len(last)
        own = [False] * len(last)
        for level in [last, *(level.arrays for level in reversed(above))]:
            copies, both = [], []
            for i, array in enumerate(level):
                if array is None:
                    continue
                if sums[i] is None:
                    sums[i] = array
                    continue
                if not own[i]:
                    room = _room([*self._spare[i]], array)
                    copies.append((room, sums[i]))
                    sums[i], own[i] = room, True
                both.append(i)
            spans = Arrays([sums[i] for i in both], [level[i] for i in both])
            add_up(self, copies, spans, {}, [])
        return sums

    def forgotten(self) -> dict[str, Any]:
        """The attributes of an object without lanes; the arrays are kept."""
        spare = [
            [*kept, *(level.arrays[i] for level in self._levels if level.arrays[i] is not None)]
            for i, kept in enumerate(self._spare)
        ]
        return {"_count": 0, "_levels": [], "_spare": spare, "_steps": []}

    def become(self, count: int, params: list[Any], sums: list[Any]) -> dict[str, Any]:
        """The attributes of an object that has so many lanes, whose sums are these arrays."""
        return {
            "_count": count,
            "_params": [*params],
            "_levels": [Level(count, [*sums])] if count else [],
            "_spare": [[] for _ in params],
            "_steps": [],
        }


def _room(spare: list[Array], array: Array) -> Array:
    """An array for a sum of gradients of a parameter with this memory, in C order."""
    dtype = arithmetic_dtype(array)
    while spare:
        found = spare.pop()
        if found.shape == array.shape and found.dtype == dtype:
            return found
    return in_arithmetic(array) if array.flags.c_contiguous else np.empty(array.shape, dtype)

"""Arrays as one vector, for methods that treat all parameters as one.

Elements are in C order, array after array, as in torch; a complex number counts as a pair of
real numbers. The vector's dtype is the widest of the arrays'.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from cyoptim._engine import Arrays, is_dense, memory_bounds, widened
from cyoptim._types import Array


class FlatArrays:
    """Arrays that are read, written and moved as one vector."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._arrays = [_as_reals(array) for array in arrays]
        ends = np.cumsum([0, *(array.size for array in self._arrays)]).tolist()
        self._ranges = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.size: int = ends[-1]
        # An array that occurs twice counts twice, and is moved twice, one after the other.
        first: dict[tuple[int, int], int] = {}
        places = [first.setdefault(memory_bounds(a), i) for i, a in enumerate(self._arrays)]
        self._repeats = {
            i for i, place in enumerate(places) if place != i and ends[i] < ends[i + 1]
        }
        self.dtype = np.result_type(*self._arrays) if self._arrays else np.dtype(np.float64)

    def gather(self, arrays: Sequence[Array | None]) -> Array:
        """A new vector of arrays of the same shapes; zeros for None."""
        vector: Array = np.empty(self.size, self.dtype)
        for own, other, part in zip(self._arrays, arrays, self._ranges, strict=True):
            vector[part].reshape(own.shape)[...] = 0 if other is None else _as_reals(widened(other))
        return vector

    def copy(self) -> Array:
        """The arrays' present values as a new vector."""
        return self.gather(self._arrays)

    @np.errstate(all="ignore")
    def put(self, vector: Array) -> None:
        """Write the values of a vector into the arrays."""
        for array, part in zip(self._arrays, self._ranges, strict=True):
            array[...] = vector[part].reshape(array.shape)

    @np.errstate(all="ignore")
    def move(self, factor: float, vector: Array) -> None:
        """Add a multiple of a vector to the arrays."""
        targets, others, copies = [], [], []
        for i, (array, part) in enumerate(zip(self._arrays, self._ranges, strict=True)):
            other = vector[part].reshape(array.shape)
            if array.dtype != self.dtype or i in self._repeats:
                array[...] = array + factor * other
                continue
            target = array if is_dense(array) else array.copy()
            if target is not array:
                copies.append((array, target))
            targets.append(target)
            others.append(_laid_out_as(target, other))
        Arrays(targets, others).apply("axpby", (1.0, factor))
        for array, copy in copies:
            array[...] = copy


def norm(vector: Array, order: float) -> float:
    """The norm of a vector, in a fixed order of additions."""
    return Arrays([vector]).norm(order)


def largest(vector: Array) -> float:
    """The largest absolute value; 0 without elements."""
    return norm(vector, math.inf)


def dot(a: Array, b: Array) -> float:
    """The inner product of two vectors, in a fixed order of additions."""
    return Arrays([a], [b]).dot()


def _as_reals(array: Array) -> Array:
    if array.dtype.kind != "c":
        return array
    # A new last axis, so that any layout can be viewed as pairs.
    return array[..., np.newaxis].view(array.real.dtype)


def _laid_out_as(target: Array, other: Array) -> Array:
    if other.strides == target.strides:
        return other
    result = np.empty_like(target, subok=False)
    result[...] = other
    return result

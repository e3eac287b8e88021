"""Which rank has which part of which parameter.

The parameters, in the order of the groups and each in C order, are one row of elements. It is cut
into one range for each rank, of about equal bytes. A tensor is cut only between the chunks over
which kernels add up, so that sums of chunks are the same numbers on any number of ranks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from cyoptim._engine import LARGEST_CHUNK, chunk_length
from cyoptim._types import Array

Part = tuple[int, int]
"""The elements [first, stop) of a tensor in C order."""


class Tensor(NamedTuple):
    """What the cut depends on."""

    size: int  # in elements
    itemsize: int
    reals: int  # in an element: 2 in a complex number
    whole: bool  # whether its rule needs all of it at once

    @property
    def is_cut(self) -> bool:
        """Whether it may be cut, where there are several ranks."""
        return not self.whole and self.size * self.reals > LARGEST_CHUNK


class Segment(NamedTuple):
    """A part of a tensor that is not empty."""

    tensor: int
    first: int
    stop: int


class Layout:
    """The parts of all ranks.

    Attributes
    ----------
    tensors : tuple of Tensor
    parts : list of list
        ``parts[rank][number]`` is the part that a rank has of a tensor. Empty parts are between
        the elements that the ranks before and behind have.
    """

    def __init__(self, tensors: Sequence[Tensor], ranks: int) -> None:
        self.tensors = tuple(tensors)
        cuts = [(0, 0), *_cuts(self.tensors, ranks), (len(self.tensors), 0)]
        self.parts = [
            [_between(begin, end, i, tensor.size) for i, tensor in enumerate(self.tensors)]
            for begin, end in pairwise(cuts)
        ]

    def segments(self, rank: int) -> list[Segment]:
        """The parts of a rank that are not empty."""
        return [
            Segment(i, first, stop)
            for i, (first, stop) in enumerate(self.parts[rank])
            if stop > first
        ]

    def is_whole(self, rank: int, number: int) -> bool:
        """Whether a rank has all of a tensor, be it empty."""
        first, stop = self.parts[rank][number]
        return stop - first == self.tensors[number].size


def _cuts(tensors: Sequence[Tensor], ranks: int) -> list[tuple[int, int]]:
    """Where the ranges begin, but for the first: the number of a tensor, and the element."""
    ends = [*accumulate(tensor.size * tensor.itemsize for tensor in tensors)]
    total = ends[-1] if ends else 0
    cuts = []
    for rank in range(1, ranks):
        target = total * rank // ranks
        number = bisect_right(ends, target)
        if number == len(tensors):
            cuts.append((number, 0))
            continue
        tensor = tensors[number]
        before = target - (ends[number] - tensor.size * tensor.itemsize)
        offset = _nearest_cut(tensor, before // tensor.itemsize)
        cuts.append((number, offset) if offset < tensor.size else (number + 1, 0))
    return cuts


def _nearest_cut(tensor: Tensor, offset: int) -> int:
    """The place nearest to an offset, all in elements, at which a tensor may be cut."""
    ends = 0 if 2 * offset <= tensor.size else tensor.size
    if not tensor.is_cut:
        return ends
    length = chunk_length(tensor.size * tensor.reals) // tensor.reals
    inside = (offset + length // 2) // length * length
    inside = min(max(inside, length), (tensor.size - length) // length * length)
    return inside if abs(inside - offset) < abs(ends - offset) else ends


def _between(begin: tuple[int, int], end: tuple[int, int], number: int, size: int) -> Part:
    """The part of a tensor that lies between two cuts."""
    first = 0 if number > begin[0] else begin[1] if number == begin[0] else size
    stop = size if number < end[0] else end[1] if number == end[0] else 0
    return (first, max(first, stop)) if first < size else (size, size)


def blocks(array: Array, first: int, stop: int) -> list[Array]:
    """Views that are, one behind the other, the elements [first, stop) of an array in C order."""
    if array.flags.c_contiguous:
        return [array.reshape(-1)[first:stop]]
    if stop - first in (0, array.size):
        return [array] if stop > first else []
    if array.ndim == 1:
        return [array[first:stop]]
    row = array.size // len(array)
    begin, end = -(-first // row), stop // row  # of whole rows
    if begin > end:
        return blocks(array[end], first - end * row, stop - end * row)
    found = []
    if first < begin * row:
        found += blocks(array[begin - 1], first - (begin - 1) * row, row)
    if begin < end:
        found.append(array[begin:end])
    if end * row < stop:
        found += blocks(array[end], 0, stop - end * row)
    return found

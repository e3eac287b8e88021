"""What ranks exchange, cut into buckets: pieces of segments of tensors, and the memory for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from cyoptim._types import Array
from cyoptim.distributed._communicators import Places
from cyoptim.distributed._layout import Segment

LINE = 64  # bytes: of a cache line, and of the widest vector


class Placed(NamedTuple):
    """A segment and where it begins in what is packed, in elements."""

    tensor: int
    first: int
    stop: int
    place: int

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.stop - self.first

    @property
    def end(self) -> int:
        """Where it ends in what is packed."""
        return self.place + self.size


def packed(segments: Iterable[tuple[Segment, int]], unit: int) -> list[Placed]:
    """Segments one behind the other; each has a factor from its elements to those of the packing,
    and begins at a multiple of `unit` of these."""
    place, found = 0, []
    for (tensor, first, stop), size in segments:
        found.append(Placed(tensor, first * size, stop * size, place))
        place = up(found[-1].end, unit)
    return found


def up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


class Piece(NamedTuple):
    """What one rank has in a bucket: segments, whose places count from its begin."""

    begin: int  # in all that is packed of this rank
    segments: list[Placed]

    @property
    def length(self) -> int:
        return self.segments[-1].end if self.segments else 0


def pieces_of(segments: list[Placed], count: int, unit: int) -> list[Piece]:
    """What is packed of a rank, cut at multiples of `unit` into so many pieces of about one
    length."""
    end = segments[-1].end if segments else 0
    cuts = [min(up(end * k // count, unit), end) for k in range(count)] + [end]
    found, i = [], 0
    for begin, stop in pairwise(cuts):
        inside = []
        while i < len(segments) and segments[i].place < stop:
            tensor, first, last, place = segments[i]
            low, high = max(begin - place, 0), min(stop - place, last - first)
            if high > low:
                start = max(place - begin, 0)
                inside.append(Placed(tensor, first + low, first + high, start))
            if segments[i].end > stop:
                break
            i += 1
        found.append(Piece(begin, inside))
    return found


class Message(NamedTuple):
    """What one rank sends to another at once: a long segment, or short ones that are packed."""

    place: int  # in the piece
    end: int
    segments: list[Placed]
    long: bool


def messages_of(piece: Piece, least: float) -> Iterator[Message]:
    """A piece as messages; segments of at least so many elements are long."""
    for long, run in groupby(piece.segments, lambda one: one.size >= least):
        segments = [*run]
        for some in [[one] for one in segments] if long else [segments]:
            yield Message(some[0].place, some[-1].end, some, long)


class Bucket(NamedTuple):
    """Piece b of every rank, and the places in a buffer for all of them."""

    pieces: list[Piece]
    begins: list[int]  # of each rank's piece, in elements
    size: int
    tensor: int | None  # the one in which all of it lies

    @classmethod
    def of(cls, pieces: list[Piece], unit: int) -> Bucket:
        begins, size = [], 0
        for piece in pieces:
            begins.append(size)
            size = up(size + piece.length, unit)
        single = all(len(piece.segments) <= 1 for piece in pieces)
        tensors = {one.tensor for piece in pieces for one in piece.segments}
        return cls(pieces, begins, size, tensors.pop() if single and len(tensors) == 1 else None)

    def places(self, itemsize: int) -> Places:
        """Of what is packed."""
        return [
            (begin * itemsize, (begin + piece.length) * itemsize)
            for begin, piece in zip(self.begins, self.pieces, strict=True)
        ]

    def own_places(self, itemsize: int) -> Places:
        """Where the pieces lie in the one tensor."""
        return [
            (piece.segments[0].first * itemsize, piece.segments[0].stop * itemsize)
            if piece.segments
            else (0, 0)
            for piece in self.pieces
        ]


def buckets_of(ranks: list[list[Placed]], itemsize: int, limit: int) -> list[Bucket]:
    """Cut what is packed of all ranks into buckets of at most about `limit` bytes."""
    unit = max(LINE // itemsize, 1)
    longest = max(segments[-1].end if segments else 0 for segments in ranks)
    if longest == 0:
        return []
    count = -(-longest * itemsize * len(ranks) // limit)
    columns = zip(*(pieces_of(segments, count, unit) for segments in ranks), strict=True)
    return [Bucket.of([*pieces], unit) for pieces in columns]


def line_of_memory(count: int, dtype: Any) -> Array:
    """Zeros that begin at a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    raw = np.zeros(count * kind.itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + count * kind.itemsize].view(kind)


def as_bytes(array: Array) -> Array:
    """The memory of an array without gaps."""
    return array.reshape(-1).view(np.uint8)


class Memory:
    """Buffers that plans share, as only one is under way."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def reserve(self, name: str, sizes: list[int]) -> None:
        """Have two buffers of this name that are enough for all of these."""
        for parity in range(2):
            self.buffer(f"{name} {parity}", max(sizes, default=0))

    def buffer(self, name: str, size: int) -> Array:
        """So many bytes; those of before that had this name, if they were enough."""
        found = self._buffers.get(name)
        if found is None or found.size < size:
            found = self._buffers[name] = line_of_memory(size, np.uint8)
        return found[:size]


def overlapped(steps: Sequence[tuple[Callable[[], Any], Callable[[Any], None]]]) -> None:
    """Begin and end exchanges, of which two are under way at once."""
    under_way: list[tuple[Callable[[Any], None], Any]] = []
    for begin, end in steps:
        under_way.append((end, begin()))
        if len(under_way) == 2:
            finish, begun = under_way.pop(0)
            finish(begun)
    for finish, begun in under_way:
        finish(begun)

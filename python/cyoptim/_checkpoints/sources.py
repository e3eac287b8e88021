"""Arrays of a large file that stay there until they are read into their places.

(a) Such an array is at first a read-only view of the mapped file. It takes no memory, and has dtype
    and shape, which is what the objects to restore are compared with.
(b) Its elements are then read from the file into the memory of the object, and not copied from the
    view: if the disk fails, or another program cuts the file short, a read raises OSError, where
    the view would end the process.
(c) A file below `LEAST_FILE` is read before anything changes, and an array below `LEAST_ARRAY` of a
    larger one: the first keeps loading all or nothing whatever the disk does, the second keeps the
    number of reads low.
"""

from __future__ import annotations

import bisect
import math
import mmap
import os
from typing import IO, Any

import numpy as np

from cyoptim._checkpoints.places import CheckpointError
from cyoptim._engine import memory_bounds
from cyoptim._types import Array

LEAST_FILE = 64 << 20
LEAST_ARRAY = 1 << 16


class Sources:
    """The arrays of a file that have not been read yet, by the identity of their views."""

    path = ""  # for errors

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_large = file.seek(0, os.SEEK_END) >= LEAST_FILE
        self._map: mmap.mmap | None = None
        self._views: dict[int, tuple[Array, int]] = {}  # the view, and where it begins in the file
        self._own: dict[int, Array] = {}  # the array of an object that gets the elements
        self._new: set[int] = set()  # those of them that are no object's yet
        self._begins: list[int] = []  # addresses that are read into, in order
        self._ends: list[int] = []
        self._placed: list[tuple[int, int]] = []  # views, and the addresses that they are read into

    def view(
        self, begin: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: Any = "C"
    ) -> Array | None:
        """A view of elements in the file; None if they are to be read at once."""
        count = math.prod(shape)
        if not self._is_large or count * dtype.itemsize < LEAST_ARRAY or not dtype.isnative:
            return None
        try:
            self._map = self._map or mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, OverflowError):  # no such file system, or no addresses left
            self._is_large = False
            return None
        array: Array = np.frombuffer(self._map, dtype, count, begin).reshape(shape, order=order)
        self._views[id(array)] = array, begin
        return array

    def part(self, source: Array, first: int, stop: int, shape: tuple[int, ...]) -> Array:
        """The elements [first, stop) of an array, counted in C order: of a view a view, too, if
        they are together in the file."""
        if source not in self or not source.flags.c_contiguous:
            whole = self._read(source) if source in self else source
            return whole.reshape(-1)[first:stop].reshape(shape).copy()
        view: Array = source.reshape(-1)[first:stop].reshape(shape)
        if view.size:
            begin = self._views[id(source)][1] + first * source.itemsize
            self._views[id(view)] = view, begin
        return view

    def __contains__(self, array: object) -> bool:
        return id(array) in self._views

    def place(self, target: Array, source: Array) -> tuple[Array, IO[bytes], int] | None:
        """The bytes of `target`, and from where in which file to read them; None if the elements of
        `source` cannot be read into `target` as they are."""
        if source not in self or not _alike(target, source):
            return None
        low, high = memory_bounds(target)
        at = bisect.bisect_right(self._begins, low)
        before = self._ends[at - 1] if at else low
        after = self._begins[at] if at < len(self._begins) else high
        if before > low or after < high:  # another array is read into this: the last must win
            return None
        self._begins.insert(at, low)
        self._ends.insert(at, high)
        self._placed.append((id(source), low))
        self._own[id(source)] = target
        return _bytes_of(target), self._file, self._views[id(source)][1]

    @property
    def placed(self) -> int:
        """How many arrays have got a place."""
        return len(self._placed)

    def displace(self, count: int) -> None:
        """Take back all places but the first `count`, as an object has refused its state."""
        while len(self._placed) > count:
            view, low = self._placed.pop()
            at = bisect.bisect_left(self._begins, low)
            del self._begins[at], self._ends[at], self._own[view]

    def read_into(self, target: Array, source: Array) -> None:
        """Read the elements of a view into new memory, which an object will get."""
        self._own[id(source)] = target
        if not _alike(target, source):
            target[...] = self._read(source)
            return
        self._fill(target, source)

    def read(self, array: Any) -> Any:
        """The elements of a view in new memory, the same each time; other values as they are."""
        if array not in self:
            return array
        if id(array) not in self._own:
            new = self._own[id(array)] = self._read(array)
            self._new.add(id(new))
        return self._own[id(array)]

    def given(self, array: Array) -> Array:
        """The elements of an array from the file in memory that an object may keep."""
        read: Array = self.read(array)
        return read if id(read) in self._new else read.copy(order="K")

    def _read(self, source: Array) -> Array:
        array: Array = np.empty_like(source, order="K", subok=False)
        self._fill(array, source)
        return array

    def _fill(self, target: Array, source: Array) -> None:
        count = target.nbytes
        self._file.seek(self._views[id(source)][1])
        if self._file.readinto(_bytes_of(target)) != count:  # type: ignore[attr-defined]
            raise CheckpointError(f"{self.path}: damaged: cut short while it was being read")

    def settled(self, value: Any) -> Any:
        """A value from the file without views: in their places are the arrays that have, or will
        have, their elements, of the object that they were restored into or new ones."""
        if isinstance(value, dict):
            for key, item in value.items():
                value[key] = self.settled(item)
        elif isinstance(value, list):
            value[:] = [self.settled(item) for item in value]
        elif type(value) is tuple:
            return tuple(self.settled(item) for item in value)
        return self.read(value)


def _alike(target: Array, source: Array) -> bool:
    """Whether the elements of both are the same bytes in the same order, without gaps."""
    t, s = target.flags, source.flags
    return (
        target.shape == source.shape
        and target.dtype == source.dtype
        and ((t.c_contiguous and s.c_contiguous) or (t.f_contiguous and s.f_contiguous))
    )


def _bytes_of(array: Array) -> Array:
    flat: Array = array.reshape(-1, order="C" if array.flags.c_contiguous else "F")
    return flat.view(np.uint8)

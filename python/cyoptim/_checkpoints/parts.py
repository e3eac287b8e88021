"""Arrays of which several processes have parts, in a file that each of them writes its part into.

A format leaves a gap for the elements of such an array, and asks for all gaps to be filled when
everything else is in the file.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cyoptim._checkpoints.dtypes import as_integers
from cyoptim._types import Array

PIECE = 1 << 20  # bytes that are converted and written at a time
POLYNOMIAL = 0xEDB88320  # of CRC-32: the coefficient of x**0 is the highest bit
ONE = 1 << 31

ByteOrder: TypeAlias = Literal["<", "="]  # of the file: little, or that of the machine


class Parts:
    """An array of which each process has consecutive elements, in C order.

    Parameters
    ----------
    shape, dtype
        Those of the whole array.
    spans : list of (int, int)
        The first element of each process, and the one after its last. Spans do not overlap; where
        they are not empty, they are in order, and nothing is between them.
    own : ndarray
        This process's elements, in any shape.
    is_tensor : bool
        Whether it stands for a torch tensor.
    fortran : bool
        Whether the array would lie in memory in Fortran's order if it were in one place.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        spans: list[tuple[int, int]],
        own: Array,
        *,
        is_tensor: bool = False,
        fortran: bool = False,
    ) -> None:
        self.shape, self.dtype, self.spans, self._own = shape, dtype, spans, own
        self.is_tensor, self.fortran = is_tensor, fortran
        self.source = self  # of which it is a view
        self.size = math.prod(shape)
        self.itemsize = dtype.itemsize
        self.nbytes = self.size * dtype.itemsize
        self.ndim = len(shape)

    @property
    def own(self) -> Array:
        """This process's elements, in one axis."""
        return np.ascontiguousarray(self._own).reshape(-1)

    def numel(self) -> int:
        """The number of elements, as of a torch tensor."""
        return self.size

    def reshape(self, *shape: int) -> Parts:
        """The same elements in another shape, of which one extent may be -1."""
        known = math.prod(extent for extent in shape if extent != -1)
        full = tuple(self.size // max(known, 1) if extent == -1 else extent for extent in shape)
        view = Parts(full, self.dtype, self.spans, self._own, is_tensor=self.is_tensor)
        view.source = self.source
        return view

    def as_reals(self) -> Parts:
        """Complex numbers as pairs of real ones, in a last axis."""
        spans = [(2 * first, 2 * stop) for first, stop in self.spans]
        real = np.empty(0, self.dtype).real.dtype
        view = Parts((*self.shape, 2), real, spans, self.own.view(real), is_tensor=self.is_tensor)
        view.source = self.source
        return view


class Gap(NamedTuple):
    """The place of an array's elements in a file."""

    array: Parts
    begin: int  # the first byte
    byte_order: ByteOrder
    is_checked: bool  # whether the file has a checksum of them
    fortran: bool  # whether they are in Fortran's order


Fill: TypeAlias = Callable[[Sequence[Gap]], list[int]]
"""Fills gaps, and returns the CRC-32 of the bytes in each, where it is checked."""


def nowhere(gaps: Sequence[Gap]) -> list[int]:
    """Fill no gap, as a process that is alone has whole arrays."""
    assert not gaps
    return []


def write_elements(file: IO[bytes], elements: Array, gap: Gap) -> int:
    """Write elements of a gap where the file is; return their CRC-32, or 0 if it is not needed."""
    checksum = 0
    for piece in pieces_of(elements, gap.byte_order):
        file.write(piece)
        if gap.is_checked:
            checksum = zlib.crc32(piece, checksum)
    return checksum


def pieces_of(elements: Array, byte_order: ByteOrder) -> Iterator[bytes]:
    """The bytes of an array in C order, in pieces, to avoid a second copy of a large one."""
    elements = as_integers(elements)
    dtype = elements.dtype.newbyteorder(byte_order)
    pieces = np.nditer(
        elements,
        flags=["external_loop", "buffered", "zerosize_ok"],
        buffersize=max(1, PIECE // max(elements.itemsize, 1)),
        order="C",
    )
    return (np.asarray(piece).astype(dtype, copy=False).tobytes() for piece in pieces)


# --- CRC-32 ---------------------------------------------------------------------------------------


def joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of bytes that are followed by others, from the CRC-32 of each; `length` is the
    number of the others.

    A CRC is a polynomial of bits, modulo another: bytes behind it multiply it by a power of x.
    """
    power, square, count = ONE, ONE >> 1, 8 * length
    while count:
        if count & 1:
            power = _product(power, square)
        square = _product(square, square)
        count >>= 1
    return _product(first, power) ^ second


def _product(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product

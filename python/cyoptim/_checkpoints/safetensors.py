"""A ``.safetensors``: arrays that torch and many others read by name.

The length of a header, the header in JSON, and the elements of all arrays. The arrays of the
objects ``model`` and ``params`` have their own names, and all others their paths
(``optimizer/state/0/exp_avg``), as in a ``.npz``. The rest is text under ``__metadata__``:
``cyoptim.json``, and in ``cyoptim.complex`` the names of the complex arrays, which are stored as
real arrays with a last axis of 2, as by ``torch.view_as_real``. Its first entry,
``cyoptim.checksum``, is the CRC-32 of all bytes before the elements, with zeros in its own place:
it detects every changed byte there. A file with none of these entries comes from another program:
all of its arrays are one object, ``model`` or ``params``, depending on which is given.

The ``safetensors`` package is not used: its writer replaces the temporary file by its own,
without the lock and ``fsync``.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from typing import IO, Any

import numpy as np

from cyoptim._checkpoints.dtypes import INTEGERS, SAFETENSORS, beyond_numpy
from cyoptim._checkpoints.packing import (
    BUFFER_SIZE,
    FORMAT,
    LONGEST_JSON,
    STRUCTURE,
    VERSION,
    Format,
    Reader,
    Share,
    check_length,
    read_json,
)
from cyoptim._checkpoints.parts import Fill, Gap, Parts, nowhere, pieces_of
from cyoptim._checkpoints.places import CheckpointError, Place, listed, short, text
from cyoptim._checkpoints.sources import Sources
from cyoptim._engine import DTYPES as ENGINE_DTYPES
from cyoptim._engine import dtype_beyond_numpy
from cyoptim._types import Array

METADATA = "__metadata__"
COMPLEX = "cyoptim.complex"
CHECKSUM = "cyoptim.checksum"
ZEROS = "00000000"
BEFORE_CHECKSUM = f'{{"{METADATA}": {{"{CHECKSUM}": "'.encode()  # the beginning of our headers
PLAIN = ("model", "params")  # objects whose arrays have their own names
MOST_AXES = 64
# By the format's names; those that NumPy lacks with the integers that have their bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    **{code: INTEGERS[name] for name, code in SAFETENSORS.items()},
    "C64": np.dtype("<c8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_BEYOND_NUMPY = {code: name for name, code in SAFETENSORS.items()}
_COMPLEXES = tuple(dtype.complex for dtype in ENGINE_DTYPES.values() if dtype.complex is not None)
_OF_PAIRS = frozenset(d.safetensors for d in ENGINE_DTYPES.values() if d.complex is not None)
# Some readers do not support complex numbers.
WRITTEN = {
    dtype: code for code, dtype in DTYPES.items() if code != "C64" and code not in _BEYOND_NUMPY
}


class Safetensors(Format):
    def names(self, place: Place) -> list[str]:
        full = _joined(place)
        if place[0] in PLAIN and len(place) > 1 and type(place[1]) is str:
            return [_joined(place[1:]), full]
        return [full]

    def folded(self, name: str) -> str:
        return name

    def refusal(self, array: Any) -> str | None:
        dtype = array.dtype
        if beyond_numpy(dtype):
            return None
        if dtype.newbyteorder("<") in WRITTEN or dtype.newbyteorder("=") in _COMPLEXES:
            kept = dtype.isnative
            return None if kept else f"dtype {dtype} in a .safetensors file; a .npz file keeps it"
        return f"dtype {dtype!s:.1000} in a .safetensors file; a .npz file keeps most"

    def write(
        self, structure: str, arrays: dict[str, Any], file: IO[bytes], fill: Fill = nowhere
    ) -> None:
        reals = {name: _as_reals(array) for name, array in arrays.items()}
        # Largest elements first: then each array begins at a multiple of its element's size.
        order = sorted(reals, key=lambda name: -reals[name].itemsize)
        header: dict[str, Any] = {
            METADATA: {
                CHECKSUM: ZEROS,  # first, where the reader expects it
                # Half a surrogate pair is not valid UTF-8, but its escape in the inner JSON is.
                STRUCTURE: structure.encode("utf-8", "backslashreplace").decode("utf-8"),
                COMPLEX: json.dumps([n for n in order if arrays[n].dtype.kind == "c"]),
            }
        }
        end = 0
        for name in order:
            array = reals[name]
            begin, end = end, end + array.nbytes
            beyond = beyond_numpy(array.dtype)
            code = SAFETENSORS[beyond] if beyond else WRITTEN[array.dtype.newbyteorder("<")]
            header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [begin, end]}
        encoded = json.dumps(header, ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        check_length(encoded)
        length = struct.pack("<Q", len(encoded))
        file.write(length + _with_checksum(encoded, _checksum(length, encoded)))
        gaps = []
        for name in order:
            if isinstance(arrays[name], Parts):
                gaps.append(Gap(arrays[name], file.tell(), "<", is_checked=False, fortran=False))
                file.seek(arrays[name].nbytes, os.SEEK_CUR)
            else:
                _write_elements(reals[name], file)
        fill(gaps)

    def open(self, file: IO[bytes], wanted: tuple[str, ...], share: Share) -> Reader:
        return _Tensors(file, next((name for name in PLAIN if name in wanted), PLAIN[0]))


def _checksum(length: bytes, header: bytes) -> bytes:
    """Eight digits for the length and the header, independent of the digits already in it."""
    blank = _with_checksum(header, ZEROS.encode())
    return f"{zlib.crc32(blank, zlib.crc32(length)):08x}".encode()


def _with_checksum(header: bytes, digits: bytes) -> bytes:
    begin = len(BEFORE_CHECKSUM)
    return header[:begin] + digits + header[begin + len(ZEROS) :]


def _joined(place: Place) -> str:
    name = "/".join(text(key, str) for key in place).encode("utf-8", "replace").decode("utf-8")
    return f"{name}~1" if name == METADATA else name


def _as_reals(array: Any) -> Any:
    if array.dtype.kind != "c":
        return array
    if isinstance(array, Parts):
        return array.as_reals()
    array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes 0 axes 1
    return array[..., np.newaxis].view(array.real.dtype)


def _write_elements(array: Array, file: IO[bytes]) -> None:
    for piece in pieces_of(array, "<"):
        file.write(piece)


class _Tensors(Reader):
    """An open file with a checked header."""

    def __init__(self, file: IO[bytes], foreign_name: str) -> None:
        self.sources = Sources(file)
        self._file = file
        size = file.seek(0, os.SEEK_END)
        header, metadata, self._start = _read_header(file, size)
        self._entries = {name: _Entry(name, entry) for name, entry in header.items()}
        self._check_offsets(size)
        self._complex: set[str] = set()
        if metadata is None:
            nodes = {name: {"array": name} for name in header}
            objects = {foreign_name: {"dict": nodes}}
            self.structure = {"format": FORMAT, "version": VERSION, "objects": objects}
        else:
            self.structure = _text_of(metadata, STRUCTURE)
            self._complex = self._complex_names(_text_of(metadata, COMPLEX))

    def _complex_names(self, names: Any) -> set[str]:
        if not isinstance(names, list):
            raise CheckpointError(f"damaged: {COMPLEX} is no list of names")
        for name in names:
            entry = self._entries.get(name) if isinstance(name, str) else None
            if entry is None or entry.code not in _OF_PAIRS or entry.shape[-1:] != (2,):
                raise CheckpointError(
                    f"damaged: {short(name)} in {COMPLEX} does not hold pairs of real numbers"
                )
        return set(names)

    def _check_offsets(self, size: int) -> None:
        end = 0
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.begin, entry.end)):
            if entry.begin != end:
                raise CheckpointError(f"damaged: {short(entry.name)} does not begin at byte {end}")
            end = entry.end
        if end != size - self._start:
            raise CheckpointError(
                f"damaged: cut short or overwritten: it holds {size - self._start} bytes of "
                f"elements, its header needs {end}"
            )

    def read(self, name: str, dtype: str | None) -> Array:
        if dtype is not None:
            raise CheckpointError(f"damaged: {STRUCTURE} says a type of {short(name)}")
        if name not in self._entries:
            raise CheckpointError(f"damaged: the array {short(name)} is missing")
        entry = self._entries[name]
        view = self._view(entry)
        if view is not None:
            return view
        array = self._read_elements(entry)
        if name in self._complex:
            array = array.view(f"<c{2 * array.itemsize}")[..., 0]
        elif entry.code in _BEYOND_NUMPY:
            return array.view(dtype_beyond_numpy(_BEYOND_NUMPY[entry.code]))
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _view(self, entry: _Entry) -> Array | None:
        shape, dtype = entry.shape, entry.dtype
        if entry.name in self._complex:
            shape, dtype = shape[:-1], np.dtype(f"<c{2 * dtype.itemsize}")
        elif entry.code in _BEYOND_NUMPY:
            dtype = dtype_beyond_numpy(_BEYOND_NUMPY[entry.code])
        return self.sources.view(self._start + entry.begin, shape, dtype)

    def _read_elements(self, entry: _Entry) -> Array:
        array: Array = np.empty(entry.shape, entry.dtype)
        if array.nbytes:
            self._file.seek(self._start + entry.begin)
            target = array.reshape(-1).view(np.uint8).data
            for start in range(0, array.nbytes, BUFFER_SIZE):
                part = target[start : start + BUFFER_SIZE]
                part[:] = self._file.read(len(part))
        return array


class _Entry:
    """One array in the header."""

    __slots__ = ("begin", "code", "dtype", "end", "name", "shape")

    def __init__(self, name: str, entry: Any) -> None:
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"damaged: {short(name)} is described by {short(entry)}")
        self.name, self.code = name, entry["dtype"]
        if not isinstance(self.code, str) or self.code not in DTYPES:
            code = short(self.code).strip("'")
            raise CheckpointError(
                f"{short(name)} has the dtype {code}, which NumPy lacks; "
                f"cyoptim reads {listed(list(DTYPES), 20)}"
            )
        self.dtype = DTYPES[self.code]
        self.shape = _counts(name, "shape", entry["shape"], MOST_AXES)
        offsets = _counts(name, "offsets", entry["data_offsets"], 2)
        if len(offsets) != 2:
            raise CheckpointError(f"damaged: {short(name)} has the offsets {offsets}")
        self.begin, self.end = offsets
        needed = math.prod(self.shape) * self.dtype.itemsize
        if self.end - self.begin != needed:  # before memory is asked for
            raise CheckpointError(
                f"damaged: {short(name)} has {self.end - self.begin} bytes of elements, its dtype "
                f"{self.code} and shape {self.shape} need {needed}"
            )


def _counts(name: str, what: str, counts: Any, most: int) -> tuple[int, ...]:
    if not isinstance(counts, list) or len(counts) > most:
        raise CheckpointError(
            f"damaged: {short(name)} has as {what} {short(counts)}, expected up to {most} numbers"
        )
    if not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        shown = ", ".join(short(n) for n in counts)
        raise CheckpointError(f"damaged: {short(name)} has the {what} ({shown})")
    return tuple(counts)


def _text_of(metadata: dict[str, Any], key: str) -> Any:
    """The JSON in a text of the metadata."""
    inner = metadata.get(key)
    if not isinstance(inner, str):
        raise CheckpointError(f"damaged: its header has no text {key}")
    return read_json(inner.encode("utf-8", "surrogatepass"), key, "surrogatepass")


def _read_header(file: IO[bytes], size: int) -> tuple[dict[str, Any], dict[str, Any] | None, int]:
    """The entries of the header, our metadata if it has any, and where the elements begin."""
    file.seek(0)
    beginning = file.read(9)
    if not beginning:
        raise CheckpointError("not a checkpoint: it is empty")
    length = int.from_bytes(beginning[:8], "little")
    if beginning[8:] != b"{" or length > LONGEST_JSON:
        raise CheckpointError(
            f"not a checkpoint: it begins with {beginning[:7]!r}, which is not a safetensors file"
        )
    if 8 + length > size:  # before memory is asked for
        raise CheckpointError("damaged: cut short within its header")
    encoded = b"{" + file.read(length - 1)
    header = read_json(encoded, "its header")
    if not isinstance(header, dict):
        raise CheckpointError("damaged: its header is no JSON object")
    metadata = header.pop(METADATA, None)
    if not isinstance(metadata, dict | None):
        raise CheckpointError(f"damaged: {METADATA} in its header is no JSON object")
    if metadata is None or {STRUCTURE, COMPLEX, CHECKSUM}.isdisjoint(metadata):
        return header, None, 8 + length
    _check_checksum(beginning[:8], encoded)
    return header, metadata, 8 + length


def _check_checksum(length: bytes, header: bytes) -> None:
    begin = len(BEFORE_CHECKSUM)
    found, expected = header[begin : begin + len(ZEROS)], _checksum(length, header)
    if found != expected:
        raise CheckpointError(
            "damaged: its header is not the one that was saved: a byte has changed, or another "
            "program has written it again"
        )

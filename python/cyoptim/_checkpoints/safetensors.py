"""A ``.safetensors``: arrays that torch and many others read by name.

The length of a header, the header in JSON, and the elements of all arrays. The arrays of the
objects ``model`` and ``params`` go by their own names, and all others by their places
(``optimizer/state/0/exp_avg``), as in a ``.npz``. The rest is text under ``__metadata__``:
``cyoptim.json``, and in ``cyoptim.complex`` the names of the complex arrays, which are kept as
reals with a last axis of 2, as by ``torch.view_as_real``. A file without ``cyoptim.json`` is one
that another program wrote: all of its arrays are one object, ``model`` or ``params``, whichever is
asked for.

The ``safetensors`` package is not used: its writer puts a file of its own in the place of the
temporary, past the lock and ``fsync``, and its reader has no bfloat16 for NumPy.
"""

from __future__ import annotations

import json
import math
import os
import struct
from typing import IO, Any

import numpy as np

from cyoptim._checkpoints.packing import CHUNK, FORMAT, STRUCTURE, VERSION, Format, Reader
from cyoptim._checkpoints.places import CheckpointError, Place, listed, text
from cyoptim._doors import Array

METADATA = "__metadata__"
COMPLEX = "cyoptim.complex"
PLAIN = ("model", "params")  # objects whose arrays go by their own names
LONGEST_HEADER = 100_000_000  # as in other readers
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32
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
# Some readers know no complex numbers.
WRITTEN = {dtype: code for code, dtype in DTYPES.items() if code not in ("BF16", "C64")}


class Safetensors(Format):
    def names(self, place: Place) -> list[str]:
        full = _joined(place)
        if place[0] in PLAIN and len(place) > 1 and type(place[1]) is str:
            return [_joined(place[1:]), full]
        return [full]

    def folded(self, name: str) -> str:
        return name

    def refusal(self, dtype: np.dtype[Any]) -> str | None:
        if dtype.newbyteorder("<") in WRITTEN or dtype.char in "FD":
            native = dtype.isnative
            return None if native else f"{dtype} in a .safetensors file; a .npz file keeps it"
        return f"{dtype} in a .safetensors file; a .npz file keeps most"

    def write(self, structure: str, arrays: dict[str, Array], file: IO[bytes]) -> None:
        reals = {name: _as_reals(array) for name, array in arrays.items()}
        # Large elements first: each array then begins at a multiple of its element's size.
        order = sorted(reals, key=lambda name: -reals[name].itemsize)
        header: dict[str, Any] = {
            METADATA: {
                # Half a surrogate pair is no UTF-8, and its escape in the inner JSON is.
                STRUCTURE: structure.encode("utf-8", "backslashreplace").decode("utf-8"),
                COMPLEX: json.dumps([n for n in order if np.iscomplexobj(arrays[n])]),
            }
        }
        end = 0
        for name in order:
            array = reals[name]
            begin, end = end, end + array.nbytes
            code = WRITTEN[array.dtype.newbyteorder("<")]
            header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [begin, end]}
        encoded = json.dumps(header, ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in order:
            _write_elements(reals[name], file)

    def open(self, file: IO[bytes], wanted: tuple[str, ...]) -> Reader:
        return _Tensors(file, next((name for name in PLAIN if name in wanted), PLAIN[0]))


def _joined(place: Place) -> str:
    name = "/".join(text(key, str) for key in place).encode("utf-8", "replace").decode("utf-8")
    return f"{name}~1" if name == METADATA else name


def _as_reals(array: Array) -> Array:
    if not np.iscomplexobj(array):
        return array
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes 0 axes 1
    return array[..., np.newaxis].view(array.real.dtype)


def _write_elements(array: Array, file: IO[bytes]) -> None:
    """In C order, and a piece at a time: no second copy of a large array."""
    little = array.dtype.newbyteorder("<")
    pieces = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        buffersize=max(1, CHUNK // array.itemsize),
        order="C",
    )
    for piece in pieces:
        file.write(np.asarray(piece).astype(little, copy=False).tobytes())


class _Tensors(Reader):
    """An open file, whose header has been checked."""

    def __init__(self, file: IO[bytes], foreign_name: str) -> None:
        self.widened = {}
        self._file = file
        header, self._start = _read_header(file)
        metadata = header.pop(METADATA, {})
        self._entries = {name: _Entry(name, entry) for name, entry in header.items()}
        self._check_offsets(file.seek(0, os.SEEK_END))
        self._complex = set(json.loads(metadata.get(COMPLEX, "[]")))
        if STRUCTURE in metadata:
            self.structure = json.loads(metadata[STRUCTURE])
        else:
            nodes = {name: {"array": name} for name in header}
            objects = {foreign_name: {"dict": nodes}}
            self.structure = {"format": FORMAT, "version": VERSION, "objects": objects}

    def _check_offsets(self, size: int) -> None:
        end = 0
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.begin, entry.end)):
            if entry.begin != end:
                raise CheckpointError(f"damaged: {entry.name!r} does not begin at byte {end}")
            end = entry.end
        if end != size - self._start:
            raise CheckpointError(
                f"damaged: cut short or overwritten: it holds {size - self._start} bytes of "
                f"elements, its header needs {end}"
            )

    def read(self, name: str) -> Array:
        if name not in self._entries:
            raise CheckpointError(f"damaged: the array {name!r} is missing")
        entry = self._entries[name]
        array = self._read_elements(entry)
        if name in self._complex:
            array = array.view(f"<c{2 * array.itemsize}")[..., 0]
        elif entry.code == "BF16":
            array = (array.astype("u4") << 16).view("f4")
            self.widened[id(array)] = "bfloat16"
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _read_elements(self, entry: _Entry) -> Array:
        array: Array = np.empty(entry.shape, entry.dtype)
        if array.nbytes:
            self._file.seek(self._start + entry.begin)
            target = array.reshape(-1).view(np.uint8).data
            for start in range(0, array.nbytes, CHUNK):
                part = target[start : start + CHUNK]
                part[:] = self._file.read(len(part))
        return array


class _Entry:
    """One array in the header."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self.name, self.code, self.shape = name, entry["dtype"], tuple(entry["shape"])
        if self.code not in DTYPES:
            raise CheckpointError(
                f"{name!r} has the dtype {self.code}, which NumPy lacks; "
                f"cyoptim reads {listed(list(DTYPES), 20)}"
            )
        self.dtype = DTYPES[self.code]
        self.begin, self.end = entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*self.shape, self.begin, self.end)):
            raise CheckpointError(f"damaged: {name!r} has the shape {self.shape}")
        needed = math.prod(self.shape) * self.dtype.itemsize
        if self.end - self.begin != needed:  # before memory is asked for
            raise CheckpointError(
                f"damaged: {name!r} has {self.end - self.begin} bytes of elements, its dtype "
                f"{self.code} and shape {self.shape} need {needed}"
            )


def _read_header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The header, and where the elements begin."""
    beginning = file.read(9)
    if not beginning:
        raise CheckpointError("not a checkpoint: it is empty")
    length = int.from_bytes(beginning[:8], "little")
    if beginning[8:] != b"{" or length > LONGEST_HEADER:
        raise CheckpointError(
            f"not a checkpoint: it begins with {beginning[:7]!r}, which is not a safetensors file"
        )
    file.seek(8)
    encoded = file.read(length)
    if len(encoded) < length:
        raise CheckpointError("damaged: cut short within its header")
    header = json.loads(encoded)
    if not isinstance(header, dict):
        raise CheckpointError("damaged: its header is no JSON object")
    return header, 8 + length

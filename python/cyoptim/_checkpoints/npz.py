"""A ``.npz``: a zip archive that ``numpy.load(path, allow_pickle=False)`` reads.

One ``.npy`` member for each array, named after its place (``optimizer/state/0/exp_avg``), and
``cyoptim.json`` for all the rest. The zip archive's checksums find changed bytes.
"""

from __future__ import annotations

import ast
import json
import math
import re
import struct
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from cyoptim._checkpoints.packing import CHUNK, STRUCTURE, Format, Reader
from cyoptim._checkpoints.places import CheckpointError, Place, names, text
from cyoptim._doors import Array


class Npz(Format):
    def names(self, place: Place) -> list[str]:
        return ["/".join(_name_part(key) for key in place)]

    def folded(self, name: str) -> str:
        # Without regard to case: the members may be unpacked into files.
        return name.casefold()

    def refusal(self, dtype: np.dtype[Any]) -> str | None:
        return None if _npy_keeps(dtype) else str(dtype)

    def write(self, structure: str, arrays: dict[str, Array], file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            with _new_member(archive, STRUCTURE) as member:
                # A string may hold half a surrogate pair, which strict UTF-8 refuses.
                member.write(structure.encode("utf-8", "surrogatepass"))
            for name, array in arrays.items():
                with _new_member(archive, name + ".npy") as member:
                    npy.write_array(member, array, _npy_version(array.dtype), allow_pickle=False)

    def open(self, file: IO[bytes], wanted: tuple[str, ...]) -> Reader:
        return _Archive(file)


def _name_part(key: object) -> str:
    """A key as one readable part of a member name that is safe to unpack as a file."""
    part = re.sub(r"[^\w.\-]", "_", text(key, str))[:80]
    if part.strip(".") == "":
        return "_" * max(len(part), 1)
    # numpy.load takes ".npy" at the end of a member's name for the extension.
    return re.sub(r"\.npy$", "_npy", part)


def _npy_keeps(dtype: np.dtype[Any]) -> bool:
    """Whether a .npy header holds the dtype: no objects, no overlapping fields, no extensions."""
    if dtype.hasobject:
        return False
    try:
        kept = npy.descr_to_dtype(npy.dtype_to_descr(dtype))
    except (TypeError, ValueError):
        return False
    return kept == dtype and kept.type is dtype.type


def _npy_version(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The oldest that holds the dtype; left to choose, NumPy warns unless it is the first."""
    header = repr(npy.dtype_to_descr(dtype))
    if not all(ord(character) < 256 for character in header):
        return (3, 0)
    return (1, 0) if len(header) < 32_000 else (2, 0)


def _new_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # A ZipInfo of our own carries no clock: the same objects give the same bytes.
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


class _Archive(Reader):
    """An open zip archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self.widened = {}
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise CheckpointError(_describe_beginning(file, error)) from error
        self._members = {info.filename: info for info in self._zip.infolist()}
        # Cut short just behind an array that holds a zip archive, a file ends like a zip archive.
        if min((info.header_offset for info in self._members.values()), default=0) != 0:
            raise CheckpointError("damaged: its beginning is not that of its zip archive")
        if STRUCTURE not in self._members:
            raise CheckpointError(
                f"not a checkpoint: a zip without {STRUCTURE}, found {names(self._members)}"
            )
        with self._zip.open(self._members[STRUCTURE]) as member:
            self.structure = json.loads(member.read().decode("utf-8", "surrogatepass"))

    def read(self, name: str) -> Array:
        name += ".npy"
        if name not in self._members:
            raise CheckpointError(f"damaged: the member {name!r} is missing")
        info = self._members[name]
        try:
            with self._zip.open(info) as member:
                return _read_npy(member, info.file_size)
        except (MemoryError, OSError, CheckpointError):
            raise
        except Exception as error:
            raise CheckpointError(
                f"damaged: the member {name!r} cannot be read: {error}"
            ) from error


def _describe_beginning(file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    beginning = file.read(7)
    if not beginning:
        return "not a checkpoint: it is empty"
    if beginning.startswith(b"PK"):
        return f"damaged: it begins as a zip archive but is cut short or overwritten: {error}"
    return f"not a checkpoint: it begins with {beginning!r}, which is not a zip archive"


def _read_npy(member: IO[bytes], size: int) -> Array:
    """Read straight into new memory: numpy.load would return views of arrays it keeps."""
    shape, order, dtype, header = _read_npy_header(member)
    if dtype.hasobject:  # reading bytes into it would forge pointers
        raise CheckpointError(f"damaged: the member {member.name!r} holds Python objects")
    if size != header + math.prod(shape) * dtype.itemsize:  # before memory is asked for
        raise CheckpointError(
            f"damaged: the member {member.name!r} has {size - header} bytes of elements, "
            f"its dtype {dtype} and shape {shape} need {math.prod(shape) * dtype.itemsize}"
        )
    array: Array = np.empty(shape, dtype, order)
    if array.nbytes:
        target = array.reshape(-1, order=order).view(np.uint8).data
        for start in range(0, array.nbytes, CHUNK):
            part = target[start : start + CHUNK]
            part[:] = member.read(len(part))  # zipfile compares the checksum with the last byte
    return array


def _read_npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], Any, np.dtype[Any], int]:
    """Shape, order, dtype and length in bytes; numpy's own readers refuse long headers."""
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise CheckpointError(f"damaged: the member {member.name!r} has .npy version {version}")
    field = "<H" if version == (1, 0) else "<I"
    (length,) = struct.unpack(field, member.read(struct.calcsize(field)))
    text = member.read(length).decode("utf-8" if version == (3, 0) else "latin-1")
    header = ast.literal_eval(text.strip())
    shape, order = tuple(header["shape"]), "F" if header["fortran_order"] else "C"
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise CheckpointError(f"damaged: the member {member.name!r} has the shape {shape}")
    dtype = npy.descr_to_dtype(header["descr"])
    return shape, order, dtype, npy.MAGIC_LEN + struct.calcsize(field) + length

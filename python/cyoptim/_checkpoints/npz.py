"""A ``.npz``: a zip archive that ``numpy.load(path, allow_pickle=False)`` reads.

One ``.npy`` member for each array, named after its place (``optimizer/state/0/exp_avg``), and
``cyoptim.json`` for all the rest. Types that NumPy lacks, such as bfloat16, are members of unsigned
integers, whose type the JSON says. The zip archive's checksums find changed bytes.

(a) Memory is allocated only after checking that the file contains as much data. Stored members
    are bytes of the file, and no two members share bytes. Compressed members, which other programs
    may have made, unpack to at most `MOST_UNPACKED` bytes more than the file has.
(b) Parsed text takes more memory than its bytes. So JSON and the headers of arrays
    together have at most `MOST_UNPACKED_TEXT` bytes more than the file.
(c) A header is accepted only in the form in which NumPy writes it. Python's own parser gets only
    text without operators and with little depth, as it is not safe for hostile text.
"""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from cyoptim._checkpoints.dtypes import INTEGERS, as_integers, beyond_numpy
from cyoptim._checkpoints.packing import (
    BUFFER_SIZE,
    LONGEST_JSON,
    STRUCTURE,
    Format,
    Reader,
    Share,
    check_length,
    read_json,
)
from cyoptim._checkpoints.parts import Fill, Gap, Parts, joined, nowhere
from cyoptim._checkpoints.places import CheckpointError, Place, names, short, text
from cyoptim._checkpoints.sources import Sources
from cyoptim._engine import dtype_beyond_numpy
from cyoptim._types import Array

MOST_UNPACKED = 64 << 20
MOST_UNPACKED_TEXT = 1 << 20
LONGEST_HEADER = 1 << 17  # of an array: enough for structured dtypes of some thousand fields
MOST_AXES = 64
MOST_EMPTY = 1_000_000  # elements of no bytes; nothing else limits their number

# The forms that NumPy writes: strings, whole numbers, tuples and lists; and primary dtype names.
# No unit of time of zero seconds: NumPy accepts it, and aborts the process when it divides by it.
_ESCAPE = r"\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
_STRING = rf"""(?:'(?:[^'\\\n]++|{_ESCAPE})*+'|"(?:[^"\\\n]++|{_ESCAPE})*+")"""
_LITERAL = re.compile(rf"(?:{_STRING}|[0-9]{{1,10}}+|[\[\](), ]++)*+")
_STRINGS = re.compile(_STRING)
_DTYPE = re.compile(
    r"[<>|][biufcSUVO][0-9]{0,10}|[<>][mM]8(?:\[(?:[1-9][0-9]{0,9})?[A-Za-z]{1,2}\])?"
)
_HEADER = re.compile(
    r"\{'descr': (.+), 'fortran_order': (True|False), 'shape': (\([0-9, ]*\)), \} *\n?"
)
_SHAPE = re.compile(r"\((?:[0-9]{1,20},|[0-9]{1,20}(?:, [0-9]{1,20})+)?\)")
_DEEPEST = 32  # levels of brackets


class Npz(Format):
    def names(self, place: Place) -> list[str]:
        return ["/".join(_name_part(key) for key in place)]

    def folded(self, name: str) -> str:
        # Ignoring case, as the members may be unpacked into files.
        return name.casefold()

    def refusal(self, array: Any) -> str | None:
        if beyond_numpy(array.dtype):
            return None
        if not _npy_keeps(array.dtype):
            return f"dtype {array.dtype!s:.1000}"
        if array.size > MOST_EMPTY and not array.itemsize:
            return f"dtype {array.dtype} and over {MOST_EMPTY} elements"
        return None

    def described(self, name: str, array: Any) -> Any:
        dtype = beyond_numpy(array.dtype)
        return name if dtype is None else [name, dtype]

    def write(
        self, structure: str, arrays: dict[str, Any], file: IO[bytes], fill: Fill = nowhere
    ) -> None:
        # A string may hold half a surrogate pair, which strict UTF-8 refuses.
        encoded = structure.encode("utf-8", "surrogatepass")
        check_length(encoded)
        archive = zipfile.ZipFile(file, "w")
        try:
            with _new_member(archive, STRUCTURE) as member:
                member.write(encoded)
            gaps = []
            for name, array in arrays.items():
                if isinstance(array, Parts):
                    gaps.append(_gap(archive, name + ".npy", array))
                    continue
                stored = as_integers(array)
                with _new_member(archive, name + ".npy") as member:
                    npy.write_array(member, stored, _npy_version(stored.dtype), allow_pickle=False)
            _fill(gaps, file, fill)
            archive.close()
        except BaseException:
            # Do not close the archive: that would raise another error instead of the interrupt.
            archive.fp = None
            raise

    def open(self, file: IO[bytes], wanted: tuple[str, ...], share: Share) -> Reader:
        return _Archive(file, share)


def _name_part(key: object) -> str:
    """A key as one readable part of a member name that is safe to unpack as a file."""
    part = re.sub(r"[^\w.\-]", "_", text(key, str))[:80]
    if part.strip(".") == "":
        return "_" * max(len(part), 1)
    # numpy.load removes ".npy" from the end of a member's name.
    return re.sub(r"\.npy$", "_npy", part)


def _npy_keeps(dtype: np.dtype[Any]) -> bool:
    """Whether a .npy header can express the dtype: no objects, overlapping fields or extensions."""
    if dtype.hasobject:
        return False
    try:
        descr = npy.dtype_to_descr(dtype)
        kept = _read_dtype(repr(descr))
    except (TypeError, ValueError):
        return False
    # The rest of a header is shorter than 2,000 bytes.
    fits = len(repr(descr).encode()) <= LONGEST_HEADER - 2000
    return fits and kept == dtype and kept.type is dtype.type


def _npy_version(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The oldest version that can express the dtype; NumPy would warn of all but the first."""
    header = repr(npy.dtype_to_descr(dtype))
    if not all(ord(character) < 256 for character in header):
        return (3, 0)
    return (1, 0) if len(header) < 32_000 else (2, 0)


def _new_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # Our own ZipInfo has a fixed date: the same objects give the same bytes.
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def _gap(archive: zipfile.ZipFile, name: str, array: Parts) -> tuple[zipfile.ZipInfo, Gap]:
    """A member without its elements, and the place that is left for them behind it."""
    descr = npy.dtype_to_descr(INTEGERS.get(beyond_numpy(array.dtype) or "", array.dtype))
    header = {"descr": descr, "fortran_order": array.fortran, "shape": array.shape}
    with _new_member(archive, name) as member:
        npy.write_array_header_1_0(member, header)
    begin = archive.start_dir
    archive.start_dir += array.nbytes
    gap = Gap(array, begin, "=", is_checked=True, fortran=array.fortran)
    return archive.getinfo(name), gap


def _fill(gaps: list[tuple[zipfile.ZipInfo, Gap]], file: IO[bytes], fill: Fill) -> None:
    """Let the gaps be filled, and write the headers of their members again."""
    checksums = fill([gap for _, gap in gaps])
    for (info, gap), checksum in zip(gaps, checksums, strict=True):
        size = gap.array.nbytes
        info.CRC = joined(info.CRC, checksum, size)
        info.file_size = info.compress_size = info.file_size + size
        file.seek(info.header_offset)
        file.write(info.FileHeader(zip64=True))


class _Archive(Reader):
    """An open zip archive."""

    def __init__(self, file: IO[bytes], share: Share) -> None:
        self.sources = Sources(file)
        self._share = share
        self._viewed = 0  # members whose elements stay in the file for now
        size = file.seek(0, os.SEEK_END)
        self._text_left = size + MOST_UNPACKED_TEXT
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise CheckpointError(_describe_beginning(file, error)) from error
        self._file = file
        _check_end(file, size, len(self._zip.comment))
        self._members = _members_by_name(self._zip.infolist())
        self._ends = _ends(self._zip.infolist(), self._zip.start_dir)
        if STRUCTURE not in self._members:
            raise CheckpointError(
                f"not a checkpoint: a zip without {STRUCTURE}, found {names(self._members)}; use "
                "numpy.load for files of numpy.savez"
            )
        _check_sizes(self._zip.infolist(), size)
        self.structure = read_json(self._read_structure(), STRUCTURE, "surrogatepass")

    def _read_structure(self) -> bytes:
        info = self._members[STRUCTURE]
        if info.file_size > LONGEST_JSON:
            raise CheckpointError(
                f"{STRUCTURE} has {info.file_size} bytes, at most {LONGEST_JSON} are read"
            )
        self._take_text(info.file_size)
        _check_local_header(self._file, info, self._ends[STRUCTURE])
        with self._zip.open(info) as member:
            # In parts: a read of everything at once unpacks more than the member's size.
            parts = iter(lambda: member.read(BUFFER_SIZE), b"")
            return b"".join(parts)

    def _take_text(self, count: int) -> None:
        self._text_left -= count
        if self._text_left < 0:
            raise CheckpointError(
                f"its text unpacks to over {MOST_UNPACKED_TEXT} bytes more than the file has: "
                "unpack it, and pack it without compression"
            )

    def read(self, name: str, dtype: str | None) -> Array:
        name += ".npy"
        if name not in self._members:
            raise CheckpointError(f"damaged: the member {short(name)} is missing")
        info = self._members[name]
        try:
            begin = _check_local_header(self._file, info, self._ends[name])
            with self._zip.open(info) as member:
                stored = info.compress_type == zipfile.ZIP_STORED
                place = begin if stored else None
                return self._read_npy(member, info.file_size, place, dtype)
        except (MemoryError, OSError, CheckpointError):
            raise
        except Exception as error:
            reason = short(str(error), 300).strip("'\"")
            raise CheckpointError(
                f"damaged: the member {short(name)} cannot be read: {reason}"
            ) from error

    def _read_npy(self, member: IO[bytes], size: int, begin: int | None, said: str | None) -> Array:
        """Read into new memory: numpy.load would return views of arrays that it keeps. If the bytes
        of a large member `begin` in the file as they are, only check them."""
        text, header = _read_npy_header(member, size)
        self._take_text(header)
        shape, order, dtype = _parse_npy_header(text)
        if dtype.hasobject:  # reading bytes into it would forge pointers
            raise CheckpointError(f"damaged: the member {short(member.name)} holds Python objects")
        if said is not None:
            dtype = _dtype_of_integers(said, dtype)
        count = math.prod(shape)
        if size != header + count * dtype.itemsize:  # before memory is asked for
            raise CheckpointError(
                f"damaged: the member {short(member.name)} has {size - header} bytes of elements, "
                f"its dtype {dtype!s:.80} and shape {shape} need {count * dtype.itemsize}"
            )
        if not dtype.itemsize:
            return _without_bytes(shape, dtype, order)
        if begin is not None:
            view = self.sources.view(begin + header, shape, dtype, order)
            if view is not None:
                self._viewed += 1
                if self._viewed % self._share.size == self._share.rank:  # others check the others
                    _read_through(member, view.nbytes)
                return view
        array: Array = np.empty(shape, dtype, order)
        if array.nbytes:
            target = array.reshape(-1, order=order).view(np.uint8).data
            for start in range(0, array.nbytes, BUFFER_SIZE):
                part = target[start : start + BUFFER_SIZE]
                part[:] = member.read(len(part))  # zipfile compares the checksum with the last byte
        return array


# The archive -----------------------------------------------------------------


def _check_end(file: IO[bytes], size: int, comment: int) -> None:
    """Nothing may follow the archive: another reader could find another archive there."""
    file.seek(max(0, size - 22 - comment))
    end = file.read(22)
    if end[:4] != b"PK\5\6" or end[20:] != struct.pack("<H", comment):
        raise CheckpointError("damaged: the zip archive does not end where the file ends")


def _members_by_name(members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    by_name: dict[str, zipfile.ZipInfo] = {}
    for info in members:
        if info.filename in by_name:
            raise CheckpointError(f"damaged: it has the member {short(info.filename)} twice")
        by_name[info.filename] = info
    return by_name


def _ends(members: list[zipfile.ZipInfo], start_of_directory: int) -> dict[str, int]:
    """The last possible end of each member: no byte of the file may belong to two members."""
    ends: dict[str, int] = {}
    limit = start_of_directory
    for info in sorted(members, key=lambda info: -info.header_offset):
        least = 30 + len(info.orig_filename) + info.compress_size
        if info.header_offset + least > limit:
            raise CheckpointError(
                f"damaged: the member {short(info.filename)} overlaps the next one"
            )
        ends[info.filename], limit = limit, info.header_offset
    # A file truncated right after an array that contains a zip archive ends like a zip archive.
    if members and limit != 0:
        raise CheckpointError("damaged: it does not begin with its zip archive")
    return ends


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(
                f"the member {short(info.filename)} is compressed by method "
                f"{info.compress_type}; stored and deflated ones are read"
            )
        # Allowed flags: the level of compression, a checksum after the member, UTF-8 in its name.
        if info.flag_bits & ~0x80E:
            raise CheckpointError(
                f"the member {short(info.filename)} is encrypted, or packed in another way that "
                "is not read"
            )
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise CheckpointError(
                f"damaged: the member {short(info.filename)} has {info.compress_size} bytes in "
                f"the file and {info.file_size} outside of it"
            )
    unpacked = sum(info.file_size for info in members)
    if unpacked > size + MOST_UNPACKED:
        raise CheckpointError(
            f"its members unpack to {unpacked} bytes, over {MOST_UNPACKED} more than the file's "
            f"{size}: unpack it, and pack it without compression"
        )


def _check_local_header(file: IO[bytes], info: zipfile.ZipInfo, limit: int) -> int:
    """Where a member's bytes begin; its own header must agree with the directory."""
    file.seek(info.header_offset)
    fixed = file.read(30)
    if len(fixed) < 30 or fixed[:4] != b"PK\3\4":
        raise CheckpointError(f"damaged: the member {short(info.filename)} has no header")
    flags, method, crc, packed, unpacked, name, extra = struct.unpack("<6xHH4xIIIHH", fixed)
    sizes = (packed, unpacked)
    if 0xFFFFFFFF in sizes:
        file.seek(name, os.SEEK_CUR)
        sizes = _long_sizes(file.read(extra), packed, unpacked)
    said = (info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size)
    behind = bool(flags & 8)  # sizes and checksum then follow the member
    if (flags, method) != said[:2] or not (behind or (crc, *sizes) == said[2:]):
        raise CheckpointError(
            f"damaged: the member {short(info.filename)} differs from its entry in the directory"
        )
    begin: int = info.header_offset + 30 + name + extra
    if begin + info.compress_size > limit:
        raise CheckpointError(f"damaged: the member {short(info.filename)} overlaps the next one")
    return begin


def _long_sizes(extra: bytes, packed: int, unpacked: int) -> tuple[int, int]:
    """Both sizes; those above 32 bits are in the extra field of type 1."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            count = [packed, unpacked].count(0xFFFFFFFF)
            long = iter(struct.unpack_from(f"<{count}Q", extra, 4))
            # The unpacked size comes first in the field.
            unpacked = next(long) if unpacked == 0xFFFFFFFF else unpacked
            return next(long) if packed == 0xFFFFFFFF else packed, unpacked
        extra = extra[4 + length :]
    return packed, unpacked


def _describe_beginning(file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    beginning = file.read(7)
    if not beginning:
        return "not a checkpoint: it is empty"
    if beginning.startswith(b"PK"):
        return f"damaged: it begins as a zip archive but is cut short or overwritten: {error}"
    return f"not a checkpoint: it begins with {beginning!r}, which is not a zip archive"


# A member --------------------------------------------------------------------


def _read_through(member: IO[bytes], left: int) -> None:
    """Read what is left of a member without keeping it, for its checksum."""
    while left:
        part = len(member.read(min(left, BUFFER_SIZE)))
        if not part:
            raise CheckpointError(f"damaged: the member {short(member.name)} is cut short")
        left -= part


def _read_npy_header(member: IO[bytes], size: int) -> tuple[str, int]:
    """The text of a header, and the number of bytes before the elements."""
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise CheckpointError(
            f"damaged: the member {short(member.name)} has .npy version {version}"
        )
    field = "<H" if version == (1, 0) else "<I"
    (length,) = struct.unpack(field, member.read(struct.calcsize(field)))
    before = npy.MAGIC_LEN + struct.calcsize(field) + length
    if length > LONGEST_HEADER or before > size:
        raise CheckpointError(
            f"damaged: the member {short(member.name)} of {size} bytes has a header of {length}; "
            f"at most {LONGEST_HEADER} are read"
        )
    text = member.read(length).decode("utf-8" if version == (3, 0) else "latin-1")
    return text, before


def _parse_npy_header(header: str) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    """Shape, order and dtype; ValueError unless the header is as NumPy writes it."""
    match = _HEADER.fullmatch(header)
    if match is None or not _SHAPE.fullmatch(match[3]):
        raise ValueError("its header is not as NumPy writes it")
    shape = tuple(int(extent) for extent in re.findall("[0-9]+", match[3]))
    if len(shape) > MOST_AXES or max(shape, default=0) >= 2**63 or repr(shape) != match[3]:
        raise ValueError("the shape in its header is not as NumPy writes it")
    return shape, "F" if match[2] == "True" else "C", _read_dtype(match[1])


def _read_dtype(text: str) -> np.dtype[Any]:
    """The dtype of a description; ValueError unless NumPy writes the same description for it."""
    if text[:1] + text[-1:] == "''" and _DTYPE.fullmatch(text, 1, len(text) - 1):
        descr: Any = text[1:-1]
    else:
        if not _LITERAL.fullmatch(text) or _depth(_STRINGS.sub("", text)) > _DEEPEST:
            raise ValueError("the dtype in its header is not as NumPy writes it")
        descr = ast.literal_eval(text)
        _check_names_of_dtypes(descr)
    dtype: np.dtype[Any] = npy.descr_to_dtype(descr)
    if npy.dtype_to_descr(dtype) != descr or repr(descr) != text:
        raise ValueError("the dtype in its header is not as NumPy writes it")
    return dtype


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]]", text):
        depth += 1 if bracket in "([" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_names_of_dtypes(descr: Any) -> None:
    """np.dtype accepts more strings than it writes: deprecated names, and lists in a string."""
    if isinstance(descr, str):
        if not _DTYPE.fullmatch(descr):
            raise ValueError(f"NumPy writes no dtype as {short(descr)}")
    elif isinstance(descr, tuple) and len(descr) == 2 and isinstance(descr[1], tuple):
        _check_names_of_dtypes(descr[0])  # a subarray dtype: base and shape
    elif isinstance(descr, list):
        for field in descr:
            if not isinstance(field, tuple) or len(field) not in (2, 3) or not _is_name(field[0]):
                raise ValueError(f"NumPy writes no field as {short(field)}")
            _check_names_of_dtypes(field[1] if len(field) == 2 else field[1:])
    else:
        raise ValueError(f"NumPy writes no dtype as {short(descr)}")


def _is_name(name: Any) -> bool:
    """A field's name, or its title and name."""
    words = name if isinstance(name, tuple) and len(name) == 2 else (name,)
    return all(isinstance(word, str) for word in words)


def _dtype_of_integers(said: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type, as the JSON says, of a member of unsigned integers."""
    if said not in INTEGERS or dtype != INTEGERS[said]:
        raise ValueError(f"{STRUCTURE} says {short(said)} of its elements, which are {dtype}")
    return dtype_beyond_numpy(said)


def _without_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], order: Any) -> Array:
    """An array of elements without bytes. numpy.empty would give strings one or four bytes each."""
    if math.prod(shape) > MOST_EMPTY:
        raise CheckpointError(
            f"an array of dtype {dtype} and shape {shape} has over {MOST_EMPTY} elements without "
            "a byte"
        )
    array: Array = np.ndarray(shape, dtype, order=order)
    return array

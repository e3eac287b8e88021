"""Checkpoints: parameters, optimizers, schedulers and plain values in one ``.npz``, without pickle.

(a) The file. A zip archive that ``numpy.load(path, allow_pickle=False)`` reads: one ``.npy`` member
    for each array, named after its place (``optimizer/state/0/exp_avg``), and ``cyoptim.json`` for
    all the rest. In the JSON, ``null``, booleans, strings, finite floats, small integers and lists
    stand for themselves; everything else is an object of one key, a tag:
    ``{"array": "optimizer/state/0/exp_avg"}``, ``{"tuple": [0.9, 0.999]}``.
(b) Saving. Everything is checked and named before the file is opened. The bytes go to a temporary
    file beside the target, which takes the target's place in one step when they are on the disk.
    The writer holds a lock on its temporary, and the operating system lets go of it however the
    writer ends: a temporary that nobody holds is a dead writer's, and the next save removes it.
(c) Loading. Whatever is wrong with the file is a :class:`CheckpointError`. Restoring first fits
    every object to what was saved for it and only then changes the first byte.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import errno
import functools
import json
import math
import os
import re
import stat
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import NoneType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from cyoptim._doors import Array, is_tensor, type_name
from cyoptim._engine import is_self_overlapping

if sys.platform != "win32":
    import fcntl

__all__ = ["CheckpointError", "load", "save"]

Place = tuple[Any, ...]  # the name of an object, then the keys that lead into it

FORMAT = "cyoptim checkpoint"
VERSION = 1
STRUCTURE = "cyoptim.json"
MAX_DEPTH = 100  # keeps the JSON reader and writer far from Python's recursion limit
CHUNK = 1 << 20
TEMPORARY = re.compile(r"\.cyoptim-[0-9a-f]{16}\.tmp")


class CheckpointError(ValueError):
    """The file is not a whole checkpoint that this version can read.

    Examples
    --------
    >>> import cyoptim
    >>> with open("notes.npz", "w") as file:
    ...     _ = file.write("no checkpoint")
    >>> try:
    ...     cyoptim.load("notes.npz")
    ... except cyoptim.CheckpointError as error:
    ...     print(error)
    notes.npz: not a checkpoint: it begins with b'no chec', which is not a zip archive
    """


def save(path: str | os.PathLike[str], /, **objects: object) -> None:
    """Save named objects to one file, which replaces an older one whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file, under exactly this name: no extension is added. A symbolic link is followed. An
        older file keeps its permissions.
    **objects
        What to save, by name: arrays, NumPy scalars, parameters, CPU torch tensors, whatever has a
        ``state_dict()`` (optimizers and schedulers), plain values (None, bool, int, float, complex,
        str, bytes), and dicts, lists and tuples of these to any depth up to 100.

    Raises
    ------
    TypeError
        If something cannot be saved; the message gives the place and the type. Nothing is written.
    ValueError
        If there is nothing to save, or the objects are nested too deeply.
    OSError
        If the file cannot be written. An older file is still there, whole.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> cyoptim.save("run.npz", weights={"W": np.ones((2, 3)), "b": np.zeros(3)}, epoch=7)
    >>> with np.load("run.npz", allow_pickle=False) as file:
    ...     file["weights/W"].shape
    (2, 3)
    """
    if not objects:
        raise ValueError("nothing to save: give objects by name, such as optimizer=optimizer")
    packing = _Packing()
    nodes = {name: packing.pack(value, (name,)) for name, value in objects.items()}
    structure = {"format": FORMAT, "version": VERSION, "objects": nodes}
    text = json.dumps(structure, ensure_ascii=False, allow_nan=False)
    _replace_file(os.fsdecode(path), functools.partial(_write, text, packing.arrays))


def load(path: str | os.PathLike[str], /, **objects: object) -> dict[str, Any]:
    """Load what :func:`save` wrote, and restore the given objects in place.

    Parameters
    ----------
    path : str or path-like
        The file.
    **objects
        What to restore, under the names it was saved by. Arrays, parameters and tensors must have
        the shape and dtype that were saved; dicts, lists and tuples are matched item by item;
        whatever has a ``load_state_dict()`` gets the saved state. Nothing changes unless everything
        fits.

    Returns
    -------
    dict
        Everything in the file by name, restored or not: parameters and tensors as arrays,
        optimizers and schedulers as their state dicts. The arrays are new and writable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is not a checkpoint, is damaged, or needs a newer version.
    ValueError
        If the file has no object of a given name, or an object does not fit what was saved.
    TypeError
        If an object cannot be restored in place, such as a number.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> cyoptim.save("run.npz", W=np.ones((2, 3)), epoch=7)
    >>> W = np.zeros((2, 3))
    >>> cyoptim.load("run.npz", W=W)["epoch"]
    7
    >>> float(W.sum())
    6.0
    """
    shown = os.fsdecode(path)
    with open(path, "rb") as file:
        with _damage_reported(shown):
            archive = _Archive(file)
        for name in objects:
            if name not in archive.objects:
                raise ValueError(f"{shown} has no {name!r}; it holds {_names(archive.objects)}")
        with _damage_reported(shown):
            saved = {name: archive.unpack(node) for name, node in archive.objects.items()}
    restore = _Restore(shown, archive.tensors)
    for name, target in objects.items():
        restore.fit(target, saved[name], (name,))
    restore.commit()
    return saved


# What an object is -----------------------------------------------------------


def _memory(value: Any, place: Place) -> Array | None:
    """The elements of an array, parameter or tensor, without a copy; None for anything else."""
    if is_tensor(value):
        return _tensor_memory(value, place)
    # A `grad` beside it tells a parameter's `data` from, say, a sparse matrix's.
    data = value.data if hasattr(value, "grad") and hasattr(value, "data") else value
    # Of the subclasses only memmap: a mask or a matrix product would be lost.
    return data if type(data) in (np.ndarray, np.memmap) else None


def _tensor_memory(tensor: Any, place: Place) -> Array:
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise TypeError(
            f"{_show(place)}: a tensor must be dense and on the CPU, "
            f"found {tensor.layout} on {tensor.device}"
        )
    try:
        memory: Array = tensor.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{_show(place)}: a tensor of {tensor.dtype} has no array: {error}"
        ) from error
    return memory


def _has_methods(value: object, *names: str) -> bool:
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in names
    )


def _is_plain(value: object) -> bool:
    return type(value) in _TO_JSON or isinstance(value, np.generic)


def _show(place: Place) -> str:
    return str(place[0]) + "".join(f"[{_text(key)}]" for key in place[1:])


def _text(key: object, form: Callable[[object], str] = repr) -> str:
    try:
        return form(key)
    except ValueError:  # Python refuses to write ints of over 4300 digits
        return f"a long {type_name(key)}"


def _names(names: Iterable[object], most: int = 20) -> str:
    every = [_text(name) for name in names]
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return ", ".join(every[:most] + more) or "nothing"


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict with the keys {_names(value)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a value of type {type_name(value)}"


# Objects to JSON and arrays --------------------------------------------------


def _int_to_json(value: int) -> Any:
    # Beyond 64 bits in hexadecimal: Python refuses to read or write thousands of decimal digits.
    return value if -(2**63) <= value < 2**63 else {"int": hex(value)}


def _float_to_json(value: float) -> Any:
    return value if math.isfinite(value) else {"float": repr(value)}


def _bytes_to_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_KEYS: dict[type, Callable[[Any], Any]] = {
    NoneType: lambda value: value,
    bool: lambda value: value,
    str: lambda value: value,
    int: _int_to_json,
    float: _float_to_json,
}
_TO_JSON: dict[type, Callable[[Any], Any]] = {
    **_KEYS,
    complex: lambda value: {"complex": [repr(value.real), repr(value.imag)]},
    bytes: lambda value: {"bytes": _bytes_to_text(value)},
    # An array, and NumPy's own str(), would drop the zeros at their ends.
    np.str_: lambda value: {"np.str_": str.__str__(value)},
    np.bytes_: lambda value: {"np.bytes_": _bytes_to_text(value)},
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "np.str_": np.str_,
    "np.bytes_": lambda text: np.bytes_(base64.b64decode(text, validate=True)),
}
_DICTS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
}
_DICT_TYPES = (dict, OrderedDict, Counter)


class _Packing:
    """Turns objects into JSON and keeps their arrays by member name."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._taken: Counter[str] = Counter([STRUCTURE.casefold()])

    def pack(self, value: Any, place: Place) -> Any:
        if len(place) > MAX_DEPTH:
            raise ValueError(
                f"{_show(place[:4])}... is over {MAX_DEPTH} levels deep; does it contain itself?"
            )
        if type(value) in _TO_JSON:
            return _TO_JSON[type(value)](value)
        if type(value) in _DICT_TYPES:
            return self._pack_dict(value, place)
        if type(value) in (list, tuple):
            items = [self.pack(item, (*place, index)) for index, item in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        if isinstance(value, np.generic):
            return {"scalar": self._add(np.asarray(value), place)}
        return self._pack_object(value, place)

    def _pack_object(self, value: Any, place: Place) -> Any:
        memory = _memory(value, place)
        if memory is not None:
            return {"tensor" if is_tensor(value) else "array": self._add(memory, place)}
        if _has_methods(value, "state_dict"):
            return self.pack(value.state_dict(), place)
        raise TypeError(f"{_show(place)}: cannot save an object of type {type_name(value)}")

    def _pack_dict(self, value: dict[Any, Any], place: Place) -> Any:
        pairs = [
            [_key_to_json(key, place), self.pack(item, (*place, key))]
            for key, item in value.items()
        ]
        if all(type(key) is str for key in value):
            return {type(value).__name__: dict(pairs)}
        return {type(value).__name__: pairs}

    def _add(self, array: Array, place: Place) -> str:
        if not _npy_keeps(array.dtype):
            raise TypeError(f"{_show(place)}: cannot save an array of dtype {array.dtype}")
        name = self._free_name("/".join(_name_part(key) for key in place))
        self.arrays[name] = array
        return name

    def _free_name(self, wanted: str) -> str:
        # Without regard to case: the members may be unpacked into files.
        name = wanted
        while self._taken[name.casefold()]:
            self._taken[wanted.casefold()] += 1
            name = f"{wanted}~{self._taken[wanted.casefold()]}"
        self._taken[name.casefold()] += 1
        return name


def _key_to_json(key: Any, place: Place) -> Any:
    if type(key) in _KEYS:
        return _KEYS[type(key)](key)
    if type(key) is tuple:
        return {"tuple": [_key_to_json(item, place) for item in key]}
    raise TypeError(
        f"{_show(place)}: cannot save a dict key of type {type_name(key)}: {_text(key)}"
    )


def _name_part(key: object) -> str:
    """A key as one readable part of a member name that is safe to unpack as a file."""
    part = re.sub(r"[^\w.\-]", "_", _text(key, str))[:80]
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


# Writing ---------------------------------------------------------------------


def _write(structure: str, arrays: dict[str, Array], file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with _new_member(archive, STRUCTURE) as member:
            # A string may hold half a surrogate pair, which strict UTF-8 refuses.
            member.write(structure.encode("utf-8", "surrogatepass"))
        for name, array in arrays.items():
            with _new_member(archive, name + ".npy") as member:
                npy.write_array(member, array, _npy_version(array.dtype), allow_pickle=False)


def _npy_version(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The oldest that holds the dtype; left to choose, NumPy warns unless it is the first."""
    header = repr(npy.dtype_to_descr(dtype))
    if not all(ord(character) < 256 for character in header):
        return (3, 0)
    return (1, 0) if len(header) < 32_000 else (2, 0)


def _new_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # A ZipInfo of our own carries no clock: the same objects give the same bytes.
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def _replace_file(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Give the file new contents at once: a reader, or a crash, finds the old or the new ones."""
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    mode = _mode_to_keep(target)
    _remove_abandoned(directory)
    file, temporary = _open_temporary(directory, path, 0o666 if mode is None else 0o600)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.chmod(temporary, mode)
            if sys.platform == "win32":
                file.close()  # Windows renames no open file; elsewhere the lock lasts until then
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(directory)


def _mode_to_keep(target: str) -> int | None:
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{target} is no regular file, and a checkpoint must not replace it")
    return stat.S_IMODE(found.st_mode)


def _open_temporary(directory: str, path: str, mode: int) -> tuple[IO[bytes], str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(directory, f".cyoptim-{os.urandom(8).hex()}.tmp")
        try:
            descriptor = os.open(temporary, flags, mode)
        except OSError as error:
            error.filename = path  # the temporary's name would tell the caller nothing
            raise
        if _hold(descriptor):
            return os.fdopen(descriptor, "wb"), temporary
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    """Lock a new temporary; False if another save took it for abandoned before the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: nothing is ever taken for abandoned on it
        return os.fstat(descriptor).st_nlink > 0
    return True


def _remove_abandoned(directory: str) -> None:
    with contextlib.suppress(OSError):
        for name in filter(TEMPORARY.fullmatch, os.listdir(directory)):
            with contextlib.suppress(OSError):
                _remove_unless_held(os.path.join(directory, name))


def _remove_unless_held(temporary: str) -> None:
    if sys.platform != "win32":
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(temporary)
        finally:
            os.close(descriptor)
    else:
        os.unlink(temporary)  # refused while a writer has it open


def _sync_directory(directory: str) -> None:
    if sys.platform != "win32":
        # The new file is in place; a file system that cannot sync a directory is no failure.
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# Reading ---------------------------------------------------------------------


@contextlib.contextmanager
def _damage_reported(path: str) -> Iterator[None]:
    """Turn whatever a damaged or foreign file makes the readers raise into a CheckpointError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # A wrong offset or length in the file also gives an OSError, but none with another number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{path}: {error}") from error.__cause__
        raise CheckpointError(f"{path}: damaged: {type_name(error)}: {error}") from error


class _Archive:
    """An open checkpoint: its structure, and the values that the structure leads to."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise CheckpointError(_describe_beginning(file, error)) from error
        self._members = {info.filename: info for info in self._zip.infolist()}
        # Cut short just behind an array that holds a zip archive, a file ends like a zip archive.
        if min((info.header_offset for info in self._members.values()), default=0) != 0:
            raise CheckpointError("damaged: its beginning is not that of its zip archive")
        self.objects = self._read_structure()
        self.tensors: set[int] = set()  # ids of the arrays that were torch tensors

    def _read_structure(self) -> dict[str, Any]:
        if STRUCTURE not in self._members:
            raise CheckpointError(
                f"not a checkpoint: a zip without {STRUCTURE}, found {_names(self._members)}"
            )
        with self._zip.open(self._members[STRUCTURE]) as member:
            structure = json.loads(member.read().decode("utf-8", "surrogatepass"))
        found, version = structure["format"], structure["version"]
        if found != FORMAT:
            raise CheckpointError(f"not a checkpoint: its format is {found!r}, expected {FORMAT!r}")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise CheckpointError(
                f"found format version {version!r}, this version of cyoptim reads up to {VERSION}"
            )
        return dict(structure["objects"].items())

    def unpack(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.unpack(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((tag, content),) = node.items()
        if tag in _FROM_JSON:
            return _FROM_JSON[tag](content)
        if tag in _DICTS:
            pairs = content.items() if isinstance(content, dict) else content
            return _DICTS[tag]({self.unpack(key): self.unpack(item) for key, item in pairs})
        if tag == "tuple":
            return tuple(self.unpack(item) for item in content)
        return self._unpack_array(tag, content)

    def _unpack_array(self, tag: str, name: str) -> Any:
        if tag not in ("array", "scalar", "tensor"):
            raise CheckpointError(f"damaged: {STRUCTURE} holds the unknown tag {tag!r}")
        array = self._read_array(name + ".npy")
        if tag == "tensor":
            self.tensors.add(id(array))
        return array[()] if tag == "scalar" else array

    def _read_array(self, name: str) -> Array:
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


# Restoring -------------------------------------------------------------------


class _Restore:
    """Fits objects to what was saved for them; :meth:`commit` then changes them all."""

    def __init__(self, path: str, tensors: set[int]) -> None:
        self._path = path
        self._tensors = tensors
        self._commits: list[Callable[[], None]] = []  # none of these can fail
        self._foreign: list[tuple[Place, Any, Any, Any]] = []  # place, object, old and new state

    def fit(self, target: Any, saved: Any, place: Place, holder: Any = None) -> None:
        """`holder` is the list or dict that a plain value would be put into."""
        memory = _memory(target, place)
        if memory is not None:
            self._fit_array(target, memory, saved, place)
        elif isinstance(target, _DICT_TYPES):
            self._fit_dict(target, saved, place)
        elif isinstance(target, (list, tuple)):
            self._fit_sequence(target, saved, place)
        elif _has_methods(target, "load_state_dict", "state_dict"):
            self._fit_state(target, saved, place)
        elif _is_plain(target) and holder is not None:
            if not _is_plain(saved):
                raise self._misfit(place, saved, target)
            self._commits.append(functools.partial(holder.__setitem__, place[-1], saved))
        else:
            raise TypeError(
                f"{_show(place)}: {type_name(target)} cannot be restored in place; "
                "take it from the dict that load returns"
            )

    def _misfit(self, place: Place, saved: object, target: object) -> ValueError:
        return ValueError(
            f"{self._path}: {_show(place)}: found {_describe(saved)}, expected {_describe(target)}"
        )

    def _fit_array(self, target: Any, memory: Array, saved: Any, place: Place) -> None:
        if type(saved) is not np.ndarray:
            raise self._misfit(place, saved, memory)
        if (saved.shape, saved.dtype) != (memory.shape, memory.dtype):
            raise self._misfit(place, saved, memory)
        if not memory.flags.writeable:
            raise ValueError(f"{_show(place)} is read-only and cannot be restored in place")
        if is_self_overlapping(memory):
            raise ValueError(f"{_show(place)} is a view whose elements overlap in memory")
        if is_tensor(target):
            self._fit_tensor(target, saved, place)
        else:
            self._commits.append(functools.partial(np.copyto, memory, saved))

    def _fit_tensor(self, target: Any, saved: Array, place: Place) -> None:
        torch = sys.modules["torch"]
        if target.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{_show(place)} is an inference tensor and cannot be changed here")

        def commit() -> None:
            with torch.no_grad():
                target.copy_(torch.from_numpy(saved))

        self._commits.append(commit)

    def _fit_dict(self, target: dict[Any, Any], saved: Any, place: Place) -> None:
        if not isinstance(saved, dict) or saved.keys() != target.keys():
            raise self._misfit(place, saved, target)
        for key, item in target.items():
            self.fit(item, saved[key], (*place, key), target)

    def _fit_sequence(self, target: Any, saved: Any, place: Place) -> None:
        if not isinstance(saved, (list, tuple)) or len(saved) != len(target):
            raise self._misfit(place, saved, target)
        holder = target if isinstance(target, list) else None
        for index, item in enumerate(target):
            self.fit(item, saved[index], (*place, index), holder)

    def _fit_state(self, target: Any, saved: Any, place: Place) -> None:
        if not _has_methods(target, "_prepare_load"):
            old = copy.deepcopy(target.state_dict())
            self._foreign.append((place, target, old, self._state_for(target, saved)))
            return
        with self._refusal_named(place):
            self._commits.append(target._prepare_load(saved))

    @contextlib.contextmanager
    def _refusal_named(self, place: Place) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            message = f"{self._path}: {_show(place)} refuses the saved state: {error}"
            raise ValueError(message) from error

    def _state_for(self, target: object, saved: Any) -> Any:
        """A copy of a saved state, with tensors where there were tensors or torch needs them."""
        if isinstance(saved, dict):
            return type(saved)({key: self._state_for(target, item) for key, item in saved.items()})
        if isinstance(saved, (list, tuple)):
            return type(saved)(self._state_for(target, item) for item in saved)
        if not isinstance(saved, np.ndarray):
            return saved
        copied = saved.copy(order="K")
        torch = sys.modules.get("torch")
        if torch is None:
            return copied
        of_torch = isinstance(target, (torch.nn.Module, torch.optim.Optimizer))
        return torch.from_numpy(copied) if of_torch or id(saved) in self._tensors else copied

    def commit(self) -> None:
        changed: list[tuple[Any, Any]] = []
        try:
            for place, target, old, new in self._foreign:
                changed.append((target, old))
                with self._refusal_named(place):
                    target.load_state_dict(new)
        except BaseException:
            for target, old in changed:
                target.load_state_dict(old)
            raise
        for change in self._commits:
            change()

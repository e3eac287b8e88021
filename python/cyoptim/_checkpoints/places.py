"""Types of objects, their places in a checkpoint, and their names in messages."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cyoptim._arrays.containers import entries_of, is_record
from cyoptim._arrays.doors import is_buffer, is_distributed, is_tensor, type_name
from cyoptim._engine import name_of_dtype
from cyoptim._types import Array

Place = tuple[Any, ...]  # the name of an object, then the keys that lead into it

DICT_TYPES = (dict, OrderedDict, Counter)


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

    __module__ = "cyoptim.checkpoint"


def memory(value: Any, place: Place) -> Array | None:
    """The elements of an array, parameter or tensor, without a copy; None for anything else."""
    if is_tensor(value):
        return _tensor_memory(value, place)
    if is_buffer(value):
        return np.asarray(value)
    # A `grad` distinguishes a parameter from, for instance, a sparse matrix, which has `data`, too.
    data = value.data if hasattr(value, "grad") and hasattr(value, "data") else value
    # No subclass except memmap: a mask or a matrix product would be lost.
    return data if type(data) in (np.ndarray, np.memmap) else None


def _tensor_memory(tensor: Any, place: Place) -> Array:
    torch = sys.modules["torch"]
    if is_distributed(tensor):
        raise TypeError(
            f"{show(place)} is a DTensor, of which each process may have a part: save and load it "
            "with torch.distributed.checkpoint"
        )
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise TypeError(
            f"{show(place)}: a tensor must be dense and on the CPU, "
            f"found {tensor.layout} on {tensor.device}"
        )
    from cyoptim._libraries.torch import elements_of

    try:
        return elements_of(tensor)
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{show(place)}: a tensor of {tensor.dtype} has no array: {error}"
        ) from error


def has_methods(value: object, *names: str) -> bool:
    # A list, as an interrupt at the end of a generator would be lost.
    found = [callable(getattr(value, name, None)) for name in names]
    return not isinstance(value, type) and all(found)


def show(place: Place) -> str:
    return str(place[0]) + "".join(f"[{text(key)}]" for key in place[1:])


def short(value: object, most: int = 80) -> str:
    """A value from a file, shortened for a message."""
    if isinstance(value, (dict, list, tuple, np.ndarray)):
        return describe(value)
    shown = text(value[: most + 1] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= most + 2 else f"{shown[:most]}..."


def text(key: object, form: Callable[[object], str] = repr) -> str:
    try:
        return form(key)
    except ValueError:  # Python refuses to write ints of over 4300 digits
        return f"a long {type_name(key)}"


def names(every: Iterable[object], most: int = 20) -> str:
    return listed([short(name) for name in every], most)


def listed(every: list[str], most: int) -> str:
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return ", ".join(every[:most] + more) or "nothing"


def describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {dtype_text(value.dtype)} and shape {value.shape}"
    if isinstance(value, Mapping) or is_record(value):
        keys = [key for key, _ in entries_of(value)]
        return f"a {type(value).__name__} with the keys {names(keys)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a value of type {type_name(value)}"


def dtype_text(dtype: np.dtype[Any]) -> str:
    """A type as messages show it, with its byte order if that is not the machine's."""
    return str(dtype) if dtype.metadata is None else name_of_dtype(dtype)

"""Types of elements that NumPy lacks, in files and in the objects to restore."""

from __future__ import annotations

from operator import is_
from typing import Any

import numpy as np

from cyoptim._arrays.rounding import rounded
from cyoptim._engine import dtype_beyond_numpy, name_of_dtype, widened
from cyoptim._types import Array

# Each with the integers that have its bits, and its name in the safetensors format.
INTEGERS: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype("<u2"), "float8_e4m3fn": np.dtype("u1")}
SAFETENSORS = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}


def beyond_numpy(dtype: np.dtype[Any]) -> str | None:
    """The name of a type that NumPy lacks and files may hold; None for any other."""
    name = name_of_dtype(dtype)
    return name if name in INTEGERS else None


def as_integers(array: Array) -> Array:
    """An array of a type that NumPy lacks as the integers of its bits; any other as it is."""
    name = beyond_numpy(array.dtype)
    return array if name is None else array.view(INTEGERS[name].newbyteorder("="))


def is_same(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether two types are one, also where integers stand for a type that NumPy lacks."""
    return found == wanted and name_of_dtype(found) == name_of_dtype(wanted)


def is_castable(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether NumPy casts one type to the other as ``same_kind``, or would if it had both."""
    if "float8_e4m3fn" in (beyond_numpy(found), beyond_numpy(wanted)):  # a scale may belong to it
        return False
    return np.can_cast(_near(found), _near(wanted), "same_kind")


def _near(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type of NumPy's that is cast as this one is."""
    return np.dtype(np.float16) if beyond_numpy(dtype) else dtype


def converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array in a type that it is castable to, by way of float32 if NumPy lacks either."""
    found, wanted = beyond_numpy(array.dtype), beyond_numpy(dtype)
    values = array if found in (None, wanted) else widened(array)
    if wanted is None or found == wanted:
        return values.astype(dtype, copy=False)
    return rounded(np.asarray(values, np.float32), dtype)


def readable(value: Any) -> Any:
    """What a file holds with float32 for bfloat16 where no package has that type: the integers that
    stand for it would be taken as numbers. The state of an optimizer stays, to be loaded."""
    if dtype_beyond_numpy("bfloat16").kind == "V":
        return value
    if isinstance(value, (dict, list)):  # in place: a copy of all lists would take much memory
        if not (isinstance(value, dict) and "param_groups" in value):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                value[key] = readable(item)
        return value
    if type(value) is tuple:
        items = tuple(readable(item) for item in value)
        return value if all(map(is_, items, value)) else items
    is_narrow = isinstance(value, np.ndarray) and beyond_numpy(value.dtype) == "bfloat16"
    return widened(value) if is_narrow else value

"""Arrays in other types, also in those that NumPy lacks, whose elements it could not convert."""

from __future__ import annotations

from typing import Any

import numpy as np

from cyoptim._engine import (
    DTYPES,
    encode_array,
    is_dtype,
    name_of_dtype,
    supported_dtypes,
    widened,
)
from cyoptim._spelling import nearest
from cyoptim._types import Array

_SIXTEEN_BITS = [name for name, row in DTYPES.items() if row.arithmetic != name]


def rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    """The elements of an array in another type, to nearest; the array itself if it is of that."""
    if array.dtype == dtype:
        return array
    array = widened(array) if name_of_dtype(array.dtype) in _SIXTEEN_BITS else array
    name = name_of_dtype(dtype)
    if name not in _SIXTEEN_BITS:
        return array.astype(dtype, copy=False)
    result = np.empty(array.shape, dtype)
    encode_array(_in_float32(array), result, None, name)
    return result


def _in_float32(array: Array) -> Array:
    """In C order and float32; float64 numbers that it does not have are rounded to odd, so that
    rounding once more, to fewer bits, gives what rounding once would."""
    if array.dtype == np.float32:
        return np.asarray(array, order="C")
    with np.errstate(over="ignore"):
        near = np.array(array, np.float32, order="C", subok=False)
    bits = near.view(np.uint32)
    bits[np.abs(near) > np.abs(array)] -= 1
    bits[near != array] |= 1
    return near


def converted(array: Array, dtype: Any) -> Array:
    """A new array of a type that optimizers take, rounded to nearest."""
    new = _dtype_named(dtype)
    if array.dtype.kind == "c" and new.kind != "c":
        raise TypeError(f"dtype={dtype!r} for an array of {array.dtype}: write its .real")
    result = rounded(array, new)
    return result.copy(order="K") if result is array else result


def _dtype_named(dtype: Any) -> np.dtype[Any]:
    """A type that optimizers take, and with which NumPy can compute."""
    try:
        new: np.dtype[Any] = DTYPES[dtype].numpy if dtype in DTYPES else np.dtype(dtype)
    except TypeError:
        close = nearest(str(dtype).rpartition(".")[2], DTYPES)
        hint = f"; did you mean {close!r}?" if close else ""
        raise TypeError(f"dtype={dtype!r}: NumPy has no such type{hint}") from None
    if new.metadata is not None:  # integers that stand for it, as no package has it
        raise ImportError(f'dtype="{dtype}" needs the package ml_dtypes: pip install ml_dtypes')
    if not is_dtype(new):
        raise TypeError(f"dtype={dtype!r}, expected one that optimizers take: {supported_dtypes()}")
    return new.newbyteorder("=")

"""Numbers in any form: Python's, NumPy's, arrays and tensors of one element."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cyoptim._arrays.doors import class_of, is_tensor, type_name


def plain(value: Any) -> Any:
    """A value with its numbers converted to Python types that JSON supports."""
    if isinstance(value, (np.generic, np.ndarray)):
        return of_numpy(value)
    if is_tensor(value):
        return value.item() if value.numel() == 1 else value
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) in (dict, Counter):
        return type(value)({plain(key): plain(item) for key, item in value.items()})
    return value


def of_numpy(value: Any) -> Any:
    """A NumPy number, or an array of one element, as a Python number; other values unchanged."""
    if value.size != 1 or is_masked(value):
        return value
    item = value.item()
    # A long double is its own item.
    return float(item) if isinstance(item, np.floating) else item


def is_masked(value: Any) -> bool:
    """Whether this is an array with a masked element."""
    return isinstance(value, class_of("numpy.ma", "MaskedArray")) and bool(
        np.ma.getmaskarray(value).any()
    )


def number(name: str, value: Any) -> Any:
    """An argument that must be one real number, as a Python int, float or bool."""
    found = plain(value)
    if hasattr(found, "__array__") and not isinstance(found, np.ndarray) and not is_tensor(found):
        found = plain(np.asarray(found))  # of another library
    if isinstance(found, bool):
        return found
    for kind in (int, float):
        if isinstance(found, kind):
            return kind(found)
    if getattr(found, "shape", ()):
        raise TypeError(f"{name} is an array of shape {tuple(found.shape)}, expected one number")
    if hasattr(found, "__float__") and not isinstance(found, np.ndarray):
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"{name} must be a number, got {type_name(value)}: {value!r}")

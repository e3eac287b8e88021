"""Converts one value between the forms of a state and of a state dict."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, loaded_array
from cyoptim._types import Array


def array_like(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> Array:
    """A loaded array or tensor of this shape, with a dtype that torch would cast to this one, too:
    floats of any precision, integers and booleans."""
    array = loaded_array(value, what)
    if array.dtype.kind not in ("f", "i", "u", "b", dtype.kind):
        raise TypeError(f"{what} has dtype {array.dtype}, expected {dtype}")
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")
    return array


def as_it_is(param: Any, value: Any, name: str = "", is_stored_apart: bool = False) -> Any:
    """A copy of a parameter's value; tensors of a torch tensor get its dtype, as in torch, unless
    its state may be of other types."""
    if not is_tensor(param):
        return copy.deepcopy(value)
    from cyoptim._libraries.torch import copied_state

    return copied_state(param, value, name, is_stored_apart)


def arrays_in(value: Any, dtype: np.dtype[Any], what: str) -> Any:
    """A copy with an array of this dtype for every array or tensor of floats."""
    if isinstance(value, (list, tuple)):
        return type(value)(arrays_in(item, dtype, what) for item in value)
    if isinstance(value, dict):
        return {key: arrays_in(item, dtype, what) for key, item in value.items()}
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = loaded_array(value, what)
    if not isinstance(value, np.ndarray):
        return copy.deepcopy(value)
    return np.array(value, dtype=dtype if value.dtype.kind in "fc" else None, subok=False)

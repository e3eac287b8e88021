"""Parameters and states that are stored in fewer bits."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import cyoptim
from tests.support.cards import DENSE, MATRICES, NATIVE, Card, Options

FORMATS = ("bfloat16", "float16", "float8_e4m3fn", "dynamic8")
"""Of a state."""


def takes_narrow(card: Card) -> bool:
    """Whether its parameters may have 16 bits: native rules step all of them."""
    return NATIVE(card) and DENSE(card) and not MATRICES(card) and not card.cls._has_update()


def bfloat16() -> Any:
    """The dtype."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def narrowed(arrays: Any, dtype: Any) -> list[Any]:
    """Copies, each rounded to nearest; None stays."""
    return [None if array is None else array.astype(dtype) for array in arrays]


def optimizer_of(card: Card, params: list[Any], options: Options, **storage: Any) -> Any:
    with warnings.catch_warnings():  # of rounding to nearest
        warnings.simplefilter("ignore", UserWarning)
        return card.cls([{"params": params, **storage}], **options)


def full(optimizer: Any, param: Any) -> Any:
    """The float32 values of a parameter that has a remainder or a master."""
    state = optimizer.state[param]
    array = param if isinstance(param, np.ndarray) else param.data
    bits = np.array(array, order="C").view(np.uint16).astype(np.uint32) << 16
    if "param_remainder" in state:
        rest = state["param_remainder"].astype(np.int32).astype(np.uint32)
        return (bits + rest).astype(np.uint32).view(np.float32)
    if "param_master" in state:
        return state["param_master"]
    return np.asarray(array).astype(np.float32)


def stored(card: Card, start: Any, grads: Any, options: Options, **storage: Any) -> Any:
    """An optimizer and its parameters after these gradients."""
    params = [cyoptim.Parameter(array.copy()) for array in start]
    optimizer = optimizer_of(card, params, options, **storage)
    for step in grads:
        optimizer.step(grads=[card.form(grad) for grad in step])
    return optimizer, params

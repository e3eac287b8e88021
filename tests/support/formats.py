"""States stored in 16 and 8 bits: optimizers that have them, and a slow reference of their numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import cyoptim
from cyoptim._engine import NONNEGATIVE

PLAIN = "float32"
SIXTEEN = ("bfloat16", "float16")
EIGHT = ("float8_e4m3fn", "dynamic8")
FORMATS = (PLAIN, *SIXTEEN, *EIGHT)
"""What state_dtype may be, for float32 and narrower parameters."""

BLOCK = 256
"""Elements that share a scale."""


def dtype_of(name: str) -> Any:
    """The dtype of a format."""
    import ml_dtypes

    if name == "dynamic8":
        return np.dtype(np.uint8)
    return np.dtype(getattr(ml_dtypes, name, name))


def book(signed: bool) -> Any:
    """The numbers of the codes of dynamic8: SCALE.md, after bitsandbytes' create_dynamic_map."""
    codes = np.zeros(256)
    codes[255] = 1.0
    for decade in range(7):
        count = 2**decade if signed else 2 ** (decade + 1)
        for j in range(count):
            number = 10.0 ** (decade - 6) * (0.1 + 0.9 * (j + 0.5) / count)
            codes[127 + count + j if signed else count - 1 + j] = number
            if signed:
                codes[127 - count - j] = -number
    return codes.astype(np.float32)


def numbers(name: str, stored: Any, scale: Any = None) -> Any:
    """The numbers that an array of the state of this name stands for, in float64."""
    import ml_dtypes

    flat = np.ravel(stored)
    if stored.dtype == np.uint8:
        wide = book(name not in NONNEGATIVE)[flat].astype(np.float64)
    else:
        wide = flat.astype(np.float64)
    if stored.dtype in (np.uint8, ml_dtypes.float8_e4m3fn):
        wide *= np.repeat(scale.astype(np.float64), BLOCK)[: flat.size]
    return wide.reshape(stored.shape)


def least_error(name: str, kind: str, values: Any) -> Any:
    """How far the nearest number that a format has is from each of these."""
    if kind not in EIGHT:
        return np.abs(values.astype(np.float32).astype(dtype_of(kind)).astype(float) - values)
    if kind == "dynamic8":
        codes = book(name not in NONNEGATIVE).astype(np.float64)
    else:
        codes = np.arange(256, dtype=np.uint8).view(dtype_of(kind)).astype(np.float64)
        codes = codes[np.isfinite(codes)]
    flat, least = np.ravel(values), np.empty(values.size)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        scale = np.float32(np.abs(block).max()) / np.float32(1 if kind == "dynamic8" else 448)
        least[start : start + BLOCK] = np.abs(codes * np.float64(scale) - block[:, None]).min(1)
    return least.reshape(values.shape)


def optimizer_with(cls: Any, params: list[Any], options: Any = None, **storage: Any) -> Any:
    """An optimizer of one group whose state is stored so."""
    if storage.get("state_dtype") == PLAIN:
        storage = {name: value for name, value in storage.items() if name != "state_dtype"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return cls([{"params": params, **storage}], **(options or {}))


def trained(
    shape: Any, dtype: Any, kind: str, seed: int = 0, cls: Any = cyoptim.AdamW, **more: Any
) -> tuple[Any, Any]:
    """A parameter, and its optimizer after a few steps."""
    rng = np.random.default_rng(seed)
    param = np.asarray(rng.normal(size=shape), dtype)
    optimizer = optimizer_with(cls, [param], state_dtype=kind, **more)
    for _ in range(3):
        optimizer.step(grads=[rng.normal(size=shape).astype(np.float32)])
    return param, optimizer


def twin_of(optimizer: Any, param: Any, kind: str, **more: Any) -> tuple[Any, Any]:
    """A copy of a parameter, and a new optimizer for it."""
    copy = np.array(param, order="K")
    return copy, optimizer_with(type(optimizer), [copy], state_dtype=kind, **more)

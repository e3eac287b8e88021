"""The dtypes that are optimized, and what is within tolerance in each."""

from __future__ import annotations

from typing import Any

import numpy as np

REALS = (np.float32, np.float64)
COMPLEXES = (np.complex64, np.complex128)

# By the size of a real, in bytes, relative to max(1, |p|).
# float64: the same operations in another order, 60 times, differ by some 1e-14.
# float32: each step rounds to 6e-8 of values of size 1; 60 steps of that, and the steps' own
# rounding errors that momentum carries on, stay below 3e-5.
_AFTER_60_STEPS = {4: 3e-5, 8: 1e-10}
# One rounding more or less a step, at the gradient: a few units of its last place, which 20 steps
# carry on.
_AFTER_20_ROUNDINGS = {4: 2e-5, 8: 1e-12}
# Without cancellation a unit of the last place a step, in float64; what is promised, in float32.
_OF_THE_LARGEST_VALUE = {4: 3e-5, 8: 1e-12}


def real_size(dtype: Any) -> int:
    """Of a real of this dtype, in bytes."""
    kind = np.dtype(dtype)
    return kind.itemsize // (2 if kind.kind == "c" else 1)


def tolerance(dtype: Any) -> float:
    """Of parameters after 60 steps: what contract 1 promises."""
    return _AFTER_60_STEPS[real_size(dtype)]


def rounding_tolerance(dtype: Any) -> float:
    """Of parameters after 20 steps along gradients that were rounded once more."""
    return _AFTER_20_ROUNDINGS[real_size(dtype)]


def reach_tolerance(dtype: Any) -> float:
    """Of an element after a few dozen steps, relative to the largest value that it has had."""
    return _OF_THE_LARGEST_VALUE[real_size(dtype)]


def assert_close(found: list[np.ndarray], expected: list[Any], dtype: Any) -> None:
    """Arrays of this dtype within the tolerance of 60 steps."""
    for a, b in zip(found, expected, strict=True):
        b = np.asarray(b)
        assert a.dtype == dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance(dtype), atol=tolerance(dtype))

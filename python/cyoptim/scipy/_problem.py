"""The problem: a function and its gradient within bounds, with counts of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds

from cyoptim._arrays.doors import check_unmasked
from cyoptim._types import Array

# --- bounds ---------------------------------------------------------------------------------------


@dataclass
class Box:
    """The bounds of every element."""

    lower: Array
    upper: Array

    @classmethod
    def of(cls, bounds: Any, x: Array) -> Box:
        """The box of ``minimize(bounds=)``, in the dtype of `x`."""
        if bounds is None:
            bounds = Bounds()
        pairs = (bounds.lb, bounds.ub) if isinstance(bounds, Bounds) else _columns(bounds, x.size)
        try:
            lower, upper = (
                np.broadcast_to(np.asarray(side, np.float64), x.shape) for side in pairs
            )
        except ValueError:
            raise _misfit(x.size) from None
        wrong = np.flatnonzero(~(lower <= upper))
        if wrong.size:
            i = wrong[0]
            raise ValueError(
                f"bounds of x[{i}] are ({lower[i]}, {upper[i]}), expected lower <= upper"
            )
        return cls(*_rounded_inwards(lower, upper, x.dtype))

    def project(self, x: Array) -> None:
        """Clip a point to the box, in place."""
        np.clip(x, self.lower, self.upper, out=x)

    def slope(self, x: Array, gradient: Array) -> float:
        """The largest element of the projected gradient."""
        # Not x - clip(x - gradient, lower, upper), which would round to the precision of x.
        return float(abs(np.clip(gradient, x - self.upper, x - self.lower)).max(initial=0.0))


def _misfit(size: int) -> ValueError:
    return ValueError(f"bounds do not fit x0, which has {size} elements")


def _columns(bounds: Any, size: int) -> tuple[list[float], list[float]]:
    pairs = [tuple(pair) for pair in bounds]
    if len(pairs) != size:
        raise _misfit(size)
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"bounds of x[{i}] are {pair}, expected a pair (lower, upper)")
    return (
        [-np.inf if lower is None else lower for lower, _ in pairs],
        [np.inf if upper is None else upper for _, upper in pairs],
    )


def _rounded_inwards(lower: Array, upper: Array, dtype: Any) -> tuple[Array, Array]:
    low, high = _cast(lower, dtype), _cast(upper, dtype)
    within_low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    within_high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    empty = within_low > within_high  # no number of this dtype lies between the two
    return np.where(empty, low, within_low), np.where(empty, low, within_high)


def _cast(values: Any, dtype: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype)


# --- the function ---------------------------------------------------------------------------------


@dataclass
class Point:
    """A point with the value and the gradient there."""

    x: Array
    fun: float
    jac: Array

    def is_finite(self) -> bool:
        return bool(np.isfinite(self.fun)) and bool(np.isfinite(self.jac).all())


class Problem:
    """The function and its gradient; counts evaluations."""

    def __init__(
        self,
        fun: Callable[..., Any],
        jac: Callable[..., Any] | None,
        args: tuple[Any, ...],
        box: Box,
        finite_diff: str,
    ) -> None:
        self._fun, self._jac, self._args = fun, jac, args
        self.box = box
        self._finite_diff = finite_diff
        self._coarse: Any = None  # the dtype of the computation of values, if not that of x
        self.nfev = self.njev = 0

    def at(self, x: Array) -> Point:
        """Value and gradient at a point. The user's functions see copies, which they may keep."""
        if not np.isfinite(x).all():
            return Point(x.copy(), np.nan, np.full_like(x, np.nan))
        fun = self._value(x)
        self.njev += 1
        if self._jac is None:
            return Point(x.copy(), fun, self._differences(x, fun))
        returned = self._jac(x.copy(), *self._args)
        check_unmasked(returned, "what jac returned")
        gradient = _cast(returned, x.dtype).ravel()
        if gradient.size != x.size:
            raise ValueError(f"jac returned {gradient.size} elements, expected {x.size}")
        return Point(x.copy(), fun, gradient)

    def _value(self, x: Array) -> float:
        self.nfev += 1
        returned = self._fun(x.copy(), *self._args)
        check_unmasked(returned, "what fun returned")
        value = np.asarray(returned)
        if value.size != 1:
            raise ValueError(f"fun returned an array of shape {value.shape}, expected one number")
        if value.dtype.kind == "c":
            raise TypeError(f"fun returned a complex number, {value.item()}, expected a real one")
        if value.dtype.kind == "f" and value.dtype.itemsize < _precision(self._coarse, x).itemsize:
            self._coarse = value.dtype
        return float(value.item())

    def _differences(self, x: Array, fun: float) -> Array:
        """The gradient by finite differences, with steps that suit the precision of the values."""
        dtype = _precision(self._coarse, x)
        gradient, values = self._slopes(x, fun, dtype)
        # A function may compute in a lower precision than that of the number that it returns.
        for coarser in (np.dtype(np.float32), np.dtype(np.float16)):
            if coarser.itemsize < dtype.itemsize and fun != 0 and _are_of(coarser, values):
                trial, others = self._slopes(x, fun, coarser)
                if trial.any() and _are_of(coarser, others):
                    self._coarse, gradient = coarser, trial
        return _cast(gradient, x.dtype)

    def _slopes(self, x: Array, fun: float, dtype: Any) -> tuple[Array, list[float]]:
        """Differences within the box, 0 along a side of no length; and the values used."""
        central = self._finite_diff == "3-point"
        # As SciPy's own, which depends on the dtypes of x and of the value.
        width = np.finfo(dtype).eps ** (1 / 3 if central else 1 / 2) * np.maximum(1, abs(x))
        gradient = np.zeros(x.shape)
        values = [fun]
        for i in range(x.size):
            above, below = x.copy(), x.copy()
            above[i] = min(x[i] + width[i], self.box.upper[i])
            below[i] = max(x[i] - width[i], self.box.lower[i])
            if not central:  # towards the farther bound
                if above[i] - x[i] >= x[i] - below[i]:
                    below = x
                else:
                    above = x
            if above[i] > below[i]:
                ends = [fun if end[i] == x[i] else self._value(end) for end in (above, below)]
                gradient[i] = (ends[0] - ends[1]) / (float(above[i]) - float(below[i]))
                values += ends
        return gradient, values


def _precision(coarse: Any, x: Array) -> np.dtype[Any]:
    return x.dtype if coarse is None else coarse


def _are_of(dtype: np.dtype[Any], values: list[float]) -> bool:
    """Whether all values are finite numbers of this lower precision: numbers computed in a
    higher precision rarely are."""
    with np.errstate(over="ignore"):
        rounded = np.array(values).astype(dtype)
    return bool(np.isfinite(rounded).all() and (rounded == np.array(values)).all())

"""Curves of schedules."""

from __future__ import annotations

import math
from typing import Any, Literal

from cyoptim._schedulers.values import Scalar


def strategy_of(function: Any) -> Literal["cos", "linear"] | None:
    """The curve of a function in a state saved by an older version of torch."""
    name = getattr(function, "__name__", str(function))
    return "linear" if "linear" in name else "cos" if "cos" in name else None


def ramp(epoch: float, length: float, start: float, end: float = 1.0) -> float:
    """From `start` to `end` in a straight line over `length` epochs, then `end`."""
    return end if epoch >= length else start + (end - start) * epoch / length


def cosine(start: Scalar, end: Scalar, progress: float) -> Scalar:
    """From `start` to `end` on half a cosine wave while `progress` goes from 0 to 1."""
    weight = (1 + math.cos(math.pi * progress)) / 2
    return start * weight + end * (1 - weight)

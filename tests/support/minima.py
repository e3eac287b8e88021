"""A function to minimize, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np


def bowl(x: Any) -> float:
    return float(((x - [1.0, -2.0]) ** 2).sum())


def bowl_der(x: Any) -> Any:
    return 2 * (x - np.array([1.0, -2.0], dtype=x.dtype))

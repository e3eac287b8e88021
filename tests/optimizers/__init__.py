"""Slow, obvious float64 NumPy, line for line from the papers."""

from __future__ import annotations

from typing import Any

import numpy as np

# How much of a squared gradient a step adds to the average that divides it, of the options.
GAINS: dict[str, Any] = {
    "Adam": lambda o: 1 - o.get("betas", (0.9, 0.999))[1],
    "AdamW": lambda o: 1 - o.get("betas", (0.9, 0.999))[1],
    "NAdam": lambda o: 1 - o.get("betas", (0.9, 0.999))[1],
    "RAdam": lambda o: 1 - o.get("betas", (0.9, 0.999))[1],
    "SparseAdam": lambda o: 1 - o.get("betas", (0.9, 0.999))[1],
    "RMSprop": lambda o: 1 - o.get("alpha", 0.99),
    "Adagrad": lambda o: 1.0,
    "Adadelta": lambda o: 1 - o.get("rho", 0.9),
    "Adamax": lambda o: 1.0,
}
SQUARED = ("Adadelta", "Adamax")  # whose eps is of the size of what is flushed, not of its root


def least_eps(name: str, options: dict[str, Any], dtype: Any) -> float:
    """What a smaller eps counts as, so that squares that are flushed to zero do no harm."""
    gain = GAINS[name](options)
    least = float(np.finfo(dtype).tiny) / (gain if gain > 0 else 1)
    return least if name in SQUARED else float(np.sqrt(least))

"""Random options, for the fuzzer of trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np

Rng = np.random.Generator
Options = dict[str, Any]


def pick(rng: Rng, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def power(rng: Rng, low: float, high: float) -> float:
    """A number whose logarithm to base 10 is uniform."""
    return float(10 ** rng.uniform(low, high))


def beta(rng: Rng) -> float:
    """In [0, 1), often near either end."""
    return float(
        pick(rng, 0.0, 0.9, 0.999, rng.random(), power(rng, -8, -1), 1 - power(rng, -7, -1))
    )


def eps(rng: Rng) -> float:
    return float(pick(rng, 1e-8, 1e-8, 1e-6, power(rng, -10, 0), 1e-30, 1e-300, 0.0))


def decay(rng: Rng, kept: float = 1.0) -> float:
    """A penalty, unless the divisor keeps little of its last value."""
    return float(pick(rng, 0, 0, 0.01, rng.random())) if kept >= 0.5 else 0.0


def averages(rng: Rng) -> Options:
    first, second = beta(rng), beta(rng)
    betas = min(first, second) if second < 0.5 else first, second
    return {"betas": betas, "eps": eps(rng), "weight_decay": decay(rng, second)}


def adam(rng: Rng) -> Options:
    return {**averages(rng), "amsgrad": chance(rng, 0.4)}


def decoupled(rng: Rng) -> Options:
    return {"decoupled_weight_decay": chance(rng, 0.4)}

"""Arrays and gradients for averages, and the comparison of their bits."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPES = [(), (0,), (1,), (7,), (33,), (3, 5), (2047,), (2048,), (2049,), (16385,), (40_000,)]
TABLES = [(1, 1), (3, 5), (40, 30)]
DECAY = 0.9


def plain_arrays(rng: np.random.Generator, shapes: Any = SHAPES, dtype: Any = "f4") -> list[Any]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def gradients(rng: np.random.Generator, params: list[Any], missing: float = 0.2) -> list[Any]:
    return [
        None if rng.random() < missing else rng.standard_normal(p.shape).astype(p.dtype)
        for p in params
    ]


def same_bits(found: Any, expected: Any) -> None:
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), k

"""The line search of L-BFGS along one direction: what it evaluates, and what it accepts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyoptim.optimizers._lbfgs.line_search import Point, strong_wolfe
from tests.optimizers import lbfgs as reference


@pytest.mark.parametrize("first", [1e-3, 0.3, 1.0, 20.0, 100.0])
@pytest.mark.parametrize(
    ("phi", "slope"),
    [
        (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
        (lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),
        (
            lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
            lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3,
        ),
        (lambda t: math.cosh(min(t, 300) - 2), lambda t: math.sinh(min(t, 300) - 2)),
    ],
)
def test_line_search_satisfies_the_conditions(phi: Any, slope: Any, first: float) -> None:
    def evaluate(t: float) -> Point:
        return Point(t, phi(t), slope(t), np.zeros(0))

    point = strong_wolfe(evaluate, evaluate(0.0), first, 60, lambda width: width < 1e-12)
    assert reference.satisfies_strong_wolfe(phi, slope, point.length)


# What the closure answers, whatever the step length: few values, so that some are equal, some on
# either side of the thresholds, and some not finite.
LOSSES = st.sampled_from(
    [-2.0, -0.3, -1e-3, -3e-4, -1e-4, -5e-5, 0.0, 1e-5, 0.4, 3.0, math.nan, math.inf, -math.inf]
)
SLOPES = st.sampled_from(
    [-4.0, -1.0, -0.95, -0.9, -0.85, -0.3, 0.0, 0.2, 0.9, 0.95, 5.0, math.nan, math.inf]
)


def lengths_of_torch(
    answers: list[tuple[float, float]], first: float, most: int
) -> tuple[list[float], float]:
    """The lengths that torch's line search evaluates, and the one that it returns."""
    import torch
    from torch.optim.lbfgs import _strong_wolfe as search

    lengths = []
    replies = iter(answers)

    def evaluate(x: Any, t: Any, d: Any) -> Any:
        lengths.append(float(t))
        loss, slope = next(replies)
        return loss, torch.tensor([slope], dtype=torch.float64)

    one = torch.ones(1, dtype=torch.float64)
    length = search(
        evaluate, one, first, one, 0.0, -one, -one[0], tolerance_change=1e-2, max_ls=most
    )[2]
    return lengths, float(length)


def lengths_of_ours(
    answers: list[tuple[float, float]], first: float, most: int
) -> tuple[list[float], float]:
    lengths = []
    replies = iter(answers)

    def evaluate(length: float) -> Point:
        lengths.append(length)
        return Point(length, *next(replies), np.zeros(0))

    start = Point(0.0, 0.0, -1.0, np.zeros(0))
    point = strong_wolfe(evaluate, start, first, most, lambda width: width < 1e-2)
    return lengths, point.length


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(
    answers=st.lists(st.tuples(LOSSES, SLOPES), min_size=1, max_size=12),
    first=st.sampled_from([1.0, 1e-2, 30.0]),
    most=st.integers(0, 11),
)
def test_evaluates_where_torch_does(
    answers: list[tuple[float, float]], first: float, most: int
) -> None:
    pytest.importorskip("torch")
    answers = list(itertools.islice(itertools.cycle(answers), 12))
    try:
        expected = lengths_of_torch(answers, first, most)
    except (IndexError, ZeroDivisionError):
        lengths_of_ours(answers, first, most)  # fails in torch alone
        return
    found = lengths_of_ours(answers, first, most)
    unknown = np.flatnonzero(np.isnan(expected[0]))
    if unknown.size:
        # Between two points of one loss and slope 0 there is no cubic: the length is NaN, here as
        # there, and chance what comes after it.
        count = unknown[0] + 1
        np.testing.assert_allclose(found[0][:count], expected[0][:count], rtol=1e-12)
    else:
        np.testing.assert_allclose(np.hstack(found), np.hstack(expected), rtol=1e-12)

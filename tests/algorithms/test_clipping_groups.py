"""Groups of one optimizer that clip by the norm of all gradients, and groups that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim


def stepped(others: list[Any], grads: list[Any]) -> np.ndarray:
    """A parameter whose group does not clip, after steps beside groups that do."""
    w = np.array([1.0, -2.0, 0.5])
    groups = [{"params": [w], "max_grad_norm": None}, *others]
    optimizer = cyoptim.Lamb(groups, lr=0.1)
    for k in range(3):
        optimizer.step(grads=[np.array([3.0, 1.0, -2.0]) + k, *grads])
    return w


@pytest.mark.parametrize("value", [1.0, 100.0, np.inf, np.nan])
def test_a_group_without_a_bound_is_not_clipped(value: float) -> None:
    alone = stepped([], [])
    beside = stepped([{"params": [np.ones(4)], "max_grad_norm": 0.5}], [np.full(4, value)])
    np.testing.assert_array_equal(beside, alone)
    assert np.isfinite(beside).all()


def test_the_norm_is_that_of_all_groups() -> None:
    # A group's bound holds for the norm of all gradients, those of groups without a bound included.
    grads = [np.array([3.0, 0.0]), np.array([0.0, 4.0])]
    a, b, c = np.ones(2), np.ones(2), np.ones(2)
    optimizer = cyoptim.Lamb([{"params": [a], "max_grad_norm": None}, {"params": [b]}], lr=0.1)
    scaled = cyoptim.Lamb([c], lr=0.1, max_grad_norm=None)
    for factor in (1.0, 2.0):
        optimizer.step(grads=[g * factor for g in grads])
        scaled.step(grads=[grads[1] * factor / (5.0 * factor)])
    np.testing.assert_allclose(b, c, rtol=1e-14)


def test_the_norm_is_that_of_scaled_and_clipped_gradients() -> None:
    grad = np.array([30.0, 40.0])
    a, b = np.ones(2), np.ones(2)
    both, one = cyoptim.Lamb([a], lr=0.1), cyoptim.Lamb([b], lr=0.1)
    for factor in (1.0, 0.5):
        both.step(grads=[grad * factor], grad_scale=10.0, max_norm=2.0)
        norm = 5.0 * factor
        one.step(grads=[grad * factor / 10.0 * min(1.0, 2.0 / (norm + 1e-6))])
    np.testing.assert_allclose(a, b, rtol=1e-14)

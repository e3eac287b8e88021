"""Steps along signs: SignSGD, Grams, and the average of Yogi, which moves by a sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import ADAPTIVE, CLOSURE, Card, takes
from tests.support.parametrize import every_card, every_real

ZERO = np.array([0.0, -0.0])


@every_real
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_element_moves_by_the_rate(dtype: Any, momentum: float) -> None:
    w = np.zeros(5, dtype)
    optimizer = cyoptim.SignSGD([w], lr=0.25, momentum=momentum)
    optimizer.step(grads=[np.array([1e30, -1e-30, 3.0, 0.0, -0.0], dtype)])
    np.testing.assert_array_equal(w, [-0.25, 0.25, -0.25, 0, 0])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decay_without_a_gradient(momentum: float) -> None:
    start = np.array([1.0, -3.0])
    w = start.copy()
    optimizer = cyoptim.SignSGD([w], lr=0.1, momentum=momentum, weight_decay=0.3)
    optimizer.step(grads=[ZERO])
    np.testing.assert_array_equal(w, (1 - 0.1 * 0.3) * start)
    w = start.copy()
    coupled = {"weight_decay": 0.3, "weight_decouple": False}
    cyoptim.SignSGD([w], lr=0.1, momentum=momentum, **coupled).step(grads=[ZERO])
    np.testing.assert_array_equal(w, start - 0.1 * np.sign(start))


@every_card(takes("weight_decay"), ~CLOSURE, ~ADAPTIVE)  # these in test_distance.py
def test_every_decay_moves_a_parameter_without_a_gradient(card: Card) -> None:
    # Some do nothing in their first steps.
    w = np.full((2, 3), 2.0)
    optimizer = card.cls([w], lr=0.1, weight_decay=0.1)
    for _ in range(10):
        optimizer.step(grads=[card.form(np.zeros((2, 3)))])
    assert (np.abs(w) < 2).all()


def test_momentum_is_state_and_may_begin_late() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SignSGD([w], lr=1.0, momentum=0)
    optimizer.step(grads=[np.array([1.0, -1.0])])
    assert not optimizer.state[w]
    optimizer.param_groups[0]["momentum"] = 0.75
    optimizer.step(grads=[np.array([4.0, 0.0])])
    np.testing.assert_array_equal(optimizer.state[w]["momentum_buffer"], [1, 0])
    np.testing.assert_array_equal(w, [-2, 1])


@every_real
def test_grams_goes_with_the_gradient(dtype: Any) -> None:
    w = np.zeros(3, dtype)
    optimizer = cyoptim.Grams([w], lr=0.1, weight_decay=0.0)
    optimizer.step(grads=[np.array([1.0, 1.0, 1.0], dtype)])
    before, grad = w.copy(), np.array([-1e-3, 0.0, 1e-3], dtype)
    optimizer.step(grads=[grad])
    # The average still points downwards.
    assert (optimizer.state[w]["exp_avg"] > 0).all()
    np.testing.assert_array_equal(np.sign(w - before), [1, 0, -1])
    np.testing.assert_array_equal(grad, np.array([-1e-3, 0.0, 1e-3], dtype))


def test_the_average_of_yogi_moves_by_a_share_of_the_square() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.Yogi([w], betas=(0.9, 0.75), initial_accumulator=4.0)
    optimizer.step(grads=[np.array([1.0, 2.0, 100.0])])
    np.testing.assert_array_equal(optimizer.state[w]["exp_avg_sq"], [3.75, 4, 2504])

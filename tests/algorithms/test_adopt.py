"""ADOPT: its first step, its bound, and states of the authors' package."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim

FIRST = np.array([3.0, -4.0, 0.5])


@pytest.mark.parametrize("decouple", [False, True])
def test_the_first_step_begins_the_squares_alone(decouple: bool) -> None:
    w = np.ones(3)
    optimizer = cyoptim.ADOPT([w], lr=0.1, weight_decay=0.5, decouple=decouple)
    optimizer.step(grads=[FIRST])
    np.testing.assert_array_equal(w, np.ones(3))
    np.testing.assert_array_equal(optimizer.state[w]["exp_avg"], np.zeros(3))
    d = FIRST if decouple else FIRST + 0.5
    np.testing.assert_array_equal(optimizer.state[w]["exp_avg_sq"], d * d)


def test_a_gradient_is_scaled_by_those_before_it() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.ADOPT([w], lr=1.0, betas=(0.0, 0.5), clip_lambda=None)
    for grad in (FIRST, 6 * FIRST):
        optimizer.step(grads=[grad])
    np.testing.assert_allclose(w, -6 * np.sign(FIRST), rtol=1e-15)


@pytest.mark.parametrize(("power", "bounds"), [(0.25, [1, 2**0.25]), (0.0, [1, 1]), (1, [1, 2])])
def test_a_bound_grows_with_the_steps_before(power: float, bounds: list[float]) -> None:
    w = np.zeros(3)
    optimizer = cyoptim.ADOPT([w], lr=1.0, betas=(0.0, 0.9), clip_lambda=power)
    optimizer.step(grads=[FIRST])
    for bound in bounds:
        before = w.copy()
        optimizer.step(grads=[1e6 * FIRST])
        np.testing.assert_allclose(before - w, bound * np.sign(FIRST), rtol=1e-15)


def test_a_parameter_that_joins_late_has_its_own_first_step() -> None:
    early, late = np.zeros(3), np.zeros(3)
    optimizer = cyoptim.ADOPT([early, late], lr=1.0)
    for grad in (None, None, FIRST, FIRST):
        optimizer.step(grads=[FIRST, grad])
    alone = np.zeros(3)
    fresh = cyoptim.ADOPT([alone], lr=1.0)
    for _ in range(2):
        fresh.step(grads=[FIRST])
    np.testing.assert_array_equal(late, alone)


def test_bounds_of_groups() -> None:
    a, b = np.zeros(3), np.zeros(3)
    groups = [{"params": [a]}, {"params": [b], "clip_lambda": None}]
    optimizer = cyoptim.ADOPT(groups, lr=1.0, betas=(0.0, 0.9))
    for size in (1, 10):
        optimizer.step(grads=[size * FIRST, size * FIRST])
    np.testing.assert_allclose(a, -np.sign(FIRST), rtol=1e-15)
    np.testing.assert_allclose(b, -10 * np.sign(FIRST), rtol=1e-15)


def test_a_state_dict_of_the_package_has_no_bound(torch: Any) -> None:
    # It is in no group there: the optimizer keeps its own.
    w = torch.zeros(3, requires_grad=True)
    optimizer = cyoptim.ADOPT([w], clip_lambda=0.5)
    w.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["clip_lambda"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["clip_lambda"] == 0.5

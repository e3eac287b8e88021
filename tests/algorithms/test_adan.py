"""Adan: the differences of gradients, its clipping, and states as the authors' code keeps them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim


def draws(count: int, seed: int = 0) -> list[np.ndarray]:
    return [*np.random.default_rng(seed).standard_normal((count, 20))]


def test_the_first_difference_is_nothing() -> None:
    w, (g, h) = np.zeros(20), draws(2)
    optimizer = cyoptim.Adan([w])
    optimizer.step(grads=[g])
    state = optimizer.state[w]
    np.testing.assert_array_equal(state["exp_avg_diff"], np.zeros(20))
    np.testing.assert_array_equal(state["neg_pre_grad"], -g)
    optimizer.step(grads=[h])
    np.testing.assert_allclose(state["exp_avg_diff"], (1 - 0.92) * (h - g), rtol=1e-13)
    np.testing.assert_array_equal(state["neg_pre_grad"], -h)


@pytest.mark.parametrize("door", [np.ndarray, cyoptim.Parameter])
def test_gradients_in_one_buffer_are_fresh_ones(door: Any) -> None:
    expected, w = np.ones(20), np.ones(20)
    fresh = cyoptim.Adan([expected])
    param = w if door is np.ndarray else cyoptim.Parameter(w)
    optimizer, buffer = cyoptim.Adan([param]), np.empty(20)
    for g in draws(5):
        fresh.step(grads=[g])
        buffer[...] = g
        if door is np.ndarray:
            optimizer.step(grads=[buffer])
        else:
            param.grad = buffer
            optimizer.step(zero_grad=True)
            assert not buffer.any()
    np.testing.assert_array_equal(w, expected)


def test_a_parameter_without_a_gradient_keeps_the_one_before() -> None:
    # The step in which it has none is no step to it.
    w, expected, other = np.ones(20), np.ones(20), np.ones(20)
    gaps, whole = cyoptim.Adan([w, other]), cyoptim.Adan([expected])
    for number, g in enumerate(draws(8)):
        gaps.step(grads=[None if number % 3 == 1 else g, g])
        if number % 3 != 1:
            whole.step(grads=[g])
    np.testing.assert_array_equal(w, expected)


def test_a_parameter_that_joins_late_is_new() -> None:
    early, late, expected = np.ones(20), np.ones(20), np.ones(20)
    optimizer, fresh = cyoptim.Adan([early, late]), cyoptim.Adan([expected])
    for number, g in enumerate(draws(6)):
        optimizer.step(grads=[g, g if number > 2 else None])
        if number > 2:
            fresh.step(grads=[g])
    np.testing.assert_array_equal(late, expected)


def test_clipping_is_that_of_all_groups_by_their_own_bounds() -> None:
    g, h = draws(2)
    norm = float(np.linalg.norm([g, h]))
    params = [np.ones(20) for _ in range(3)]
    groups = [{"params": [params[0]], "max_grad_norm": 0.5}, {"params": [params[1]]}]
    optimizer = cyoptim.Adan(groups)
    grads = [g.copy(), h.copy()]
    optimizer.step(grads=grads)
    np.testing.assert_allclose(
        optimizer.state[params[0]]["neg_pre_grad"], -g * 0.5 / (norm + 1e-8), rtol=1e-14
    )
    np.testing.assert_array_equal(optimizer.state[params[1]]["neg_pre_grad"], -h)
    for found, given in zip(grads, (g, h), strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("bound", [0, 0.0, None, float("inf"), 1e300])
def test_without_a_bound_nothing_is_clipped(bound: Any) -> None:
    w, expected = np.ones(20), np.ones(20)
    optimizer, plain = cyoptim.Adan([w], max_grad_norm=bound), cyoptim.Adan([expected])
    for g in draws(3):
        for one in (optimizer, plain):
            one.step(grads=[1e3 * g])
    np.testing.assert_array_equal(w, expected)


def test_a_kernel_does_not_clip() -> None:
    from cyoptim.kernel import Kernel

    assert Kernel(cyoptim.Adan, max_grad_norm=0.0).state_names[-1] == "neg_pre_grad"
    with pytest.raises(TypeError, match="Adan has no kernel: it is not element-wise"):
        Kernel(cyoptim.Adan, max_grad_norm=1.0)


def test_fused_and_foreach_go_together() -> None:
    # Of the authors' default, foreach=True, fused=True is a kind.
    optimizer = cyoptim.Adan([np.ones(3)], fused=True)
    assert optimizer.param_groups[0]["foreach"] is True
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": [np.ones(3)], "foreach": True})


@pytest.mark.parametrize("steps", [1, 4])
def test_a_state_of_the_authors_code_is_continued(steps: int) -> None:
    w = np.ones(20)
    optimizer = cyoptim.Adan([w], lr=0.01)
    *before, after = draws(steps + 1)
    for g in before:
        optimizer.step(grads=[g])
    saved = copy.deepcopy(optimizer.state_dict())
    # Their count is the group's, and what they lack they do without.
    del saved["state"][0]["step"], saved["param_groups"][0]["maximize"]
    assert saved["param_groups"][0]["step"] == steps
    again = w.copy()
    other = cyoptim.Adan([again])
    other.load_state_dict(saved)
    for one in (optimizer, other):
        one.step(grads=[after])
    np.testing.assert_array_equal(w, again)

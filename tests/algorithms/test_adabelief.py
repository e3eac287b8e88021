"""AdaBelief: eps adds up in the variance, which is small where gradients are as predicted."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.parametrize import every_real


def steps(optimizer: Any, grad: np.ndarray, count: int) -> None:
    for _ in range(count):
        optimizer.step(grads=[grad])


@every_real
@pytest.mark.parametrize("eps", [1e-16, 1e-8])
def test_the_variance_of_a_constant_gradient_settles(dtype: Any, eps: float) -> None:
    w = np.zeros(4, dtype)
    optimizer = cyoptim.AdaBelief([w], lr=1e-6, betas=(0.9, 0.99), eps=eps)
    steps(optimizer, np.array([1e-3, -1.0, 1e4, 0.0], dtype), 10_000)
    variance = optimizer.state[w]["exp_avg_var"]
    # What rounding leaves between a gradient and its average is less than eps, or than 1e-14 of the gradient.
    least = np.float64(eps) / 0.01
    assert (variance >= least * 0.999).all()
    np.testing.assert_allclose(variance[[0, 3]], least, rtol=1e-3)
    assert np.isfinite(w).all()
    assert w[3] == 0


@every_real
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-45, 1e-30])
def test_a_tiny_eps_divides_nothing_by_nothing(dtype: Any, eps: float, rectify: bool) -> None:
    w = np.zeros(3, dtype)
    optimizer = cyoptim.AdaBelief([w], lr=0.1, eps=eps, rectify=rectify)
    tiny = np.finfo(dtype).tiny
    grad = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal], dtype)
    steps(optimizer, grad, 10)
    assert not w.any()
    w = np.zeros(2, dtype)
    optimizer = cyoptim.AdaBelief([w], lr=0.1, eps=eps, rectify=rectify)
    steps(optimizer, np.array([tiny, np.sqrt(tiny)], dtype), 10)
    assert np.isfinite(w).all()


def test_the_variance_is_kept_where_no_step_is_made() -> None:
    w, alone = np.ones(3), np.ones(3)
    grad = np.array([1.0, 2.0, -3.0])
    optimizer = cyoptim.AdaBelief([w], lr=0.1, weight_decay=0.5, degenerated_to_sgd=False)
    for _ in range(5):
        optimizer.step(grads=[grad])
        alone *= 1 - 0.1 * 0.5
    np.testing.assert_array_equal(w, alone)
    assert int(optimizer.state[w]["step"]) == 5
    np.testing.assert_allclose(optimizer.state[w]["exp_avg"], (1 - 0.9**5) * grad)
    grad = np.array([np.inf, np.nan, 1.0])
    optimizer.step(grads=[np.zeros(3)])  # from here on it steps
    assert not np.array_equal(w, alone)
    w = np.ones(3)
    cyoptim.AdaBelief([w], degenerated_to_sgd=False).step(grads=[grad])
    np.testing.assert_array_equal(w, 1)


def test_states_are_of_use_to_the_package(torch: Any) -> None:
    package = pytest.importorskip("adabelief_pytorch")
    ours, theirs = torch.ones(3), torch.ones(3)
    optimizer = cyoptim.AdaBelief([ours], lr=0.1)
    other = package.AdaBelief([theirs], lr=0.3, print_change_log=False)
    for p, grad in ((ours, [1.0, 2.0, 3.0]), (theirs, [0.0, 0.0, 1.0])):
        p.grad = torch.tensor(grad)
    optimizer.step()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    theirs[:] = ours
    ours.grad = theirs.grad.clone()
    optimizer.step()
    other.step()
    torch.testing.assert_close(ours, theirs)
    optimizer.load_state_dict(other.state_dict())
    assert "buffer" not in optimizer.param_groups[0]

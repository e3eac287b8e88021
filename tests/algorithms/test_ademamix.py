"""AdEMAMix: its warm-ups, Adam as its limit, and states as the authors' code keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim

BETAS = (0.9, 0.999, 0.9999)


def stepped(steps: int, cls: Any = cyoptim.AdEMAMix, **options: Any) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(1)
    w = rng.standard_normal(20)
    optimizer = cls([w], lr=0.01, **options)
    for _ in range(steps):
        optimizer.step(grads=[rng.standard_normal(20)])
    return optimizer, w


def slow_average(optimizer: Any, w: np.ndarray) -> np.ndarray:
    return np.array(optimizer.state[w]["exp_avg_slow"])


@pytest.mark.parametrize("steps", [1, 5])
def test_without_the_slow_average_it_is_adamw(steps: int) -> None:
    _, w = stepped(steps, alpha=0.0, weight_decay=0.1)
    _, expected = stepped(steps, cyoptim.AdamW, weight_decay=0.1)
    np.testing.assert_allclose(w, expected, rtol=1e-14)


def test_a_warm_up_of_one_step_is_none() -> None:
    _, expected = stepped(4)
    _, w = stepped(4, beta3_warmup=1, alpha_warmup=1)
    np.testing.assert_array_equal(w, expected)


def test_a_slow_average_whose_beta_has_been_warmed_up() -> None:
    # Half-lives, less one step, in the middle of those of beta1 and beta3.
    ends = np.log(0.5) / np.log(np.array([BETAS[0], BETAS[2]]) + 1e-8) - 1
    beta = 0.5 ** (1 / (ends.mean() + 1))
    w = np.zeros(1)
    optimizer = cyoptim.AdEMAMix([w], beta3_warmup=2)
    optimizer.step(grads=[np.ones(1)])
    np.testing.assert_allclose(slow_average(optimizer, w), 1 - beta, rtol=1e-14)
    for _ in range(2):  # at its end, and after it
        before = slow_average(optimizer, w)
        optimizer.step(grads=[np.zeros(1)])
        np.testing.assert_allclose(slow_average(optimizer, w), BETAS[2] * before, rtol=1e-14)


def test_a_weight_that_is_warmed_up() -> None:
    # The moves are (1 + alpha_t (1 - beta3^t)) lr, as the gradient is 1.
    w, moves = np.zeros(1), []
    optimizer = cyoptim.AdEMAMix([w], lr=1.0, betas=(0.9, 0.999, 0.5), alpha=8.0, alpha_warmup=4)
    for _ in range(6):
        before = w.copy()
        optimizer.step(grads=[np.ones(1)])
        moves.append(float(before[0] - w[0]))
    expected = [1 + 8 * min(t / 4, 1) * (1 - 0.5**t) for t in range(1, 7)]
    np.testing.assert_allclose(moves, expected, rtol=1e-7)


@pytest.mark.parametrize("beta", [1 - 1e-8, 1 - 1e-9, float(np.nextafter(1, 0))])
def test_a_beta_that_is_nearly_one_is_warmed_up(beta: float) -> None:
    w = np.zeros(1)
    optimizer = cyoptim.AdEMAMix([w], betas=(0.9, 0.999, beta), beta3_warmup=10)
    optimizer.step(grads=[np.ones(1)])
    assert 0 < 1 - slow_average(optimizer, w)[0] < 1


def test_a_warm_up_may_be_changed_between_steps() -> None:
    optimizer, w = stepped(3, beta3_warmup=100)
    group = optimizer.param_groups[0]
    group["beta3_warmup"] = group["alpha_warmup"] = None
    before = slow_average(optimizer, w)
    optimizer.step(grads=[np.zeros(20)])
    np.testing.assert_allclose(slow_average(optimizer, w), BETAS[2] * before, rtol=1e-14)


@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_a_state_of_the_authors_code_is_continued(torch: Any, beta1: float) -> None:
    options = {"betas": (beta1, 0.999, 0.99), "beta3_warmup": 9}
    optimizer, w = stepped(3, **options)
    saved = optimizer.state_dict()
    state = {
        name: torch.from_numpy(np.array(saved["state"][0][name]))
        for name in ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")
    }
    if beta1 == 0:
        state["exp_avg_fast"] = None  # which that code then does without
    theirs = {
        "state": {0: {"step": 3, **state}},
        "param_groups": [{k: v for k, v in saved["param_groups"][0].items() if k != "maximize"}],
    }
    again = w.copy()
    other = cyoptim.AdEMAMix([again])
    other.load_state_dict(theirs)
    for one, p in ((optimizer, w), (other, again)):
        one.step(grads=[np.linspace(-1, 1, 20)])
        assert p.all()
    np.testing.assert_array_equal(w, again)


def test_the_step_count_of_a_tensors_state_is_an_int(torch: Any) -> None:
    w = torch.zeros(3, requires_grad=True)
    optimizer = cyoptim.AdEMAMix([w])
    w.grad = torch.ones(3)
    optimizer.step()
    assert type(optimizer.state_dict()["state"][0]["step"]) is int

"""Simplified AdEMAMix: Adam as its limit, and the sums of weights in the authors' states."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME

CARD = BY_NAME["SimAdEMAMix"]


def stepped(steps: int, cls: Any, **options: Any) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(1)
    w = rng.standard_normal(20)
    optimizer = cls([w], **options)
    for _ in range(steps):
        optimizer.step(grads=[rng.standard_normal(20)])
    return optimizer, w


@pytest.mark.parametrize("steps", [1, 6])
def test_with_both_corrections_it_is_adam(steps: int) -> None:
    options = {"lr": 0.01, "betas": (0.9, 0.95)}
    _, w = stepped(steps, cyoptim.SimAdEMAMix, bias_correction1=True, **options)
    _, expected = stepped(steps, cyoptim.Adam, **options)
    np.testing.assert_allclose(w, expected, rtol=1e-14)


@pytest.mark.parametrize("options", CARD.variants, ids=str)
@pytest.mark.parametrize("steps", [1, 39, 40, 70])
def test_sums_of_weights(options: dict[str, Any], steps: int) -> None:
    optimizer, _ = stepped(steps, cyoptim.SimAdEMAMix, **options)
    reference = CARD.reference(**options)
    for _ in range(steps):
        reference.step([np.zeros(1)], [np.ones(1)])
    saved = optimizer.state_dict()["state"][0]
    np.testing.assert_allclose([saved["num_sum"], saved["den_sum"]], reference.weights[0], 1e-12)
    assert type(saved["num_sum"]) is type(saved["den_sum"]) is float


def test_sums_of_a_long_warm_up_do_not_take_long() -> None:
    optimizer, w = stepped(1, cyoptim.SimAdEMAMix, beta1_warmup=10**15)
    optimizer.state[w]["step"][...] = 10**14
    saved = optimizer.state_dict()["state"][0]
    # The beta of that step, as the weights change slowly.
    half_lives = np.log(0.5) / np.log(np.array([0.9, 0.99]) + 1e-8) - 1
    beta = 0.5 ** (1 / (half_lives @ [0.9, 0.1] + 1))
    np.testing.assert_allclose(saved["num_sum"], 1 / (1 - beta), rtol=1e-6)


def test_a_state_of_the_authors_code_is_continued(torch: Any) -> None:
    options = {"lr": 0.01, "beta1_warmup": 9}
    optimizer, w = stepped(3, cyoptim.SimAdEMAMix, **options)
    saved = copy.deepcopy(optimizer.state_dict())
    for name in ("maximize", "bias_correction1", "bias_correction2"):
        del saved["param_groups"][0][name]  # which are not in its groups
    state = saved["state"][0]
    state |= {name: torch.from_numpy(state[name]) for name in ("exp_avg", "exp_avg_sq")}
    state["step"] = 3
    again = w.copy()
    other = cyoptim.SimAdEMAMix([again], **options)
    other.load_state_dict(saved)
    assert {*other.state[again]} == {"step", "exp_avg", "exp_avg_sq"}
    for one in (optimizer, other):
        one.step(grads=[np.linspace(-1, 1, 20)])
    np.testing.assert_array_equal(w, again)


def test_a_file_is_loaded_without_sums(tmp_path: Any) -> None:
    optimizer, w = stepped(3, cyoptim.SimAdEMAMix)
    path = tmp_path / "run.npz"
    cyoptim.save(path, w=w, optimizer=optimizer)
    again = w.copy()
    other = cyoptim.SimAdEMAMix([again])
    cyoptim.load(path, w=again, optimizer=other)
    assert {*other.state[again]} == {"step", "exp_avg", "exp_avg_sq"}

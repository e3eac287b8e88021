"""What is bound to a plan stays what the kernel needs, whatever options, steps and objects do in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim

MANY = (
    300_000  # elements: new state that does not begin with 0 is filled by the threads of the step
)


class Flips:
    """An option that has one value when it is first asked for it, and another from some time on."""

    def __init__(self, first: float, then: float, times: int) -> None:
        self.first, self.then, self.times = first, then, times

    def __float__(self) -> float:
        self.times -= 1
        return float(self.first if self.times >= 0 else self.then)

    def __bool__(self) -> bool:
        return bool(float(self))


def steps_or_refuses(optimizer: Any, params: list[np.ndarray]) -> bool:
    """Make a step, which changes all parameters or raises and changes none."""
    before = [param.copy() for param in params]
    try:
        optimizer.step(grads=[np.full_like(param, 0.1) for param in params])
    except (RuntimeError, ValueError):
        for param, kept in zip(params, before, strict=True):
            np.testing.assert_array_equal(param, kept)
        return False
    assert all(np.isfinite(param).all() for param in params)
    return True


FILLED: dict[str, Callable[[Any], Any]] = {
    "Prodigy": cyoptim.Prodigy,
    "DAdaptSGD": cyoptim.DAdaptSGD,
    "SGDScheduleFree": cyoptim.SGDScheduleFree,
    "AdamWScheduleFree": cyoptim.AdamWScheduleFree,
    "Yogi": cyoptim.Yogi,
    "Rprop": cyoptim.Rprop,
    "AdamAtan2": lambda params: cyoptim.AdamAtan2(params, regen_reg_rate=0.1),
}
"""Optimizers with a state that does not begin with 0."""


@pytest.mark.parametrize("name", FILLED)
def test_a_failed_step_leaves_nothing_to_be_filled(name: str) -> None:
    large, small = np.ones(MANY), np.ones(10)
    optimizer = FILLED[name]([large, small])
    if hasattr(optimizer, "train"):
        optimizer.train()
    entry = {"Rprop": "prev", "DAdaptSGD": "s", "Yogi": "exp_avg"}.get(name, "exp_avg_sq")
    optimizer.state[small]["z" if name == "SGDScheduleFree" else entry] = np.zeros(7)
    with pytest.raises(ValueError, match=r"has shape \(7,\)"):
        optimizer.step(grads=[np.ones(MANY), np.ones(10)])
    optimizer.step(grads=[None, None])
    assert (large == 1).all()
    assert (small == 1).all()


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_units_that_change_around_a_step_that_is_not_made(nonfinite: Any) -> None:
    w, grad = np.ones((2000, 64)), np.full((2000, 64), 0.1)
    optimizer = cyoptim.AdamMini([{"params": [w], "unit": "tensor"}])
    twin_of = np.ones((2000, 64))
    twin = cyoptim.AdamMini([{"params": [twin_of], "unit": "tensor"}])
    for each in (optimizer, twin):
        each.step(grads=[grad])
    optimizer.param_groups[0]["unit"] = "row"
    bad = grad.copy()
    bad[0, 0] = np.nan
    if nonfinite == "skip":
        optimizer.step(grads=[bad], nonfinite="skip")
    else:
        with pytest.raises(FloatingPointError):
            optimizer.step(grads=[bad], nonfinite="raise")
    optimizer.param_groups[0]["unit"] = "tensor"
    for each in (optimizer, twin):
        each.step(grads=[grad])
    np.testing.assert_array_equal(w, twin_of)
    assert optimizer.state[w]["vmean"] == twin.state[twin_of]["vmean"]


@pytest.mark.parametrize("times", range(14))
def test_an_option_whose_value_changes_while_a_step_is_prepared(times: int) -> None:
    w = np.ones(MANY)
    adam = cyoptim.Adam([w])
    adam.param_groups[0]["amsgrad"] = Flips(0, 1, times)
    steps_or_refuses(adam, [w])
    p = np.ones(MANY)
    prodigy = cyoptim.Prodigy([p])
    prodigy.param_groups[0]["slice_p"] = Flips(1000, 1, times)
    steps_or_refuses(prodigy, [p])
    q = np.ones((40, 40))
    heads = cyoptim.AdamMini([("wq.weight", q)], dim=40, n_heads=1)
    heads.param_groups[0]["head_numel"] = Flips(1600, 1, times)
    steps_or_refuses(heads, [q])


def test_numbers_of_a_group_that_code_of_another_number_moves() -> None:
    a, b = np.ones(100), np.ones(100)
    optimizer = cyoptim.SGDScheduleFree([{"params": [a]}, {"params": [b]}])
    optimizer.train()
    optimizer.step(grads=[np.ones(100), np.ones(100)])
    before = a.copy(), b.copy()

    class Mover:
        def __float__(self) -> float:
            optimizer.param_groups[0]["weight_sum"].resize((200_000,), refcheck=False)
            return 1.0

    optimizer.param_groups[1]["weight_sum"] = Mover()
    with pytest.raises(RuntimeError, match="changed in size or place"):
        optimizer.step(grads=[np.ones(100), np.ones(100)])
    np.testing.assert_array_equal((a, b), before)


@pytest.mark.parametrize("size", [9000, 16_384])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda params: cyoptim.Adam(params, caution=True),
        lambda params: cyoptim.Lamb(params, caution=True),
        cyoptim.NovoGrad,
        cyoptim.StableAdamW,
        cyoptim.Prodigy,
        lambda params: cyoptim.Lars(params, momentum=0.9, weight_decay=0.1),
    ],
    ids=["caution", "Lamb-caution", "NovoGrad", "StableAdamW", "Prodigy", "Lars"],
)
def test_a_resumed_norm_has_the_same_bits(make: Any, dtype: Any, size: int) -> None:
    # The norm is a sum over chunks, which the rule decides.
    for seed in range(4):
        rng = np.random.default_rng(seed)
        grads = [rng.standard_normal(size).astype(dtype) for _ in range(2)]
        w = np.ones(size, dtype)
        optimizer = make([w])
        optimizer.step(grads=grads[:1], max_norm=1.0)
        resumed_w = w.copy()
        resumed = make([resumed_w])
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each in (optimizer, resumed):
            each.step(grads=grads[1:], max_norm=1.0)
        assert optimizer.last_step.total_norm == resumed.last_step.total_norm
        np.testing.assert_array_equal(w, resumed_w)


def test_a_slice_is_a_whole_number_that_is_exact_as_a_double() -> None:
    w = np.ones(10)
    optimizer = cyoptim.Prodigy([w])
    optimizer.param_groups[0]["slice_p"] = 2**63 - 1024
    with pytest.raises(
        ValueError, match=r"slice_p is .*, expected a whole number from 1 to 2\*\*53"
    ):
        optimizer.step(grads=[np.ones(10)])
    assert (w == 1).all()

"""Adafactor's relatives over arrays of every shape and layout, rows of zeros, and options that meet."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine
from tests.optimizers import BY_NAME

NAMES = ["Adafactor", "AdafactorHF", "CAME", "AdafactorBigVision"]
SHAPES = [
    (3, 4), (4, 3), (5,), (), (2, 3, 2), (30, 2, 40), (40, 30, 2), (100, 200), (3, 40_000), (1, 1),
    (20_000, 3), (4, 4, 4),
]  # fmt: skip


def stepped(name: str, options: Any, order: str, threads: int) -> tuple[Any, Any]:
    """The parameters, and what the reference makes of them."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in SHAPES]
    params = [np.array(array, order=order) for array in start]  # type: ignore[call-overload]
    expected = [array.copy() for array in start]
    card, before = BY_NAME[name], cyoptim.get_num_threads()
    reference, optimizer = card.reference_for(options, np.float64), card.cls(params, **options)
    _engine.take_all_threads(True)
    try:
        cyoptim.set_num_threads(threads)
        for step in range(4):
            grads = [rng.standard_normal(s) if i != step else None for i, s in enumerate(SHAPES)]
            optimizer.step(grads=grads)
            reference.step(expected, grads)
    finally:
        _engine.take_all_threads(False)
        cyoptim.set_num_threads(before)
    return params, expected


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_layouts(name: str, number: int) -> None:
    options = BY_NAME[name].variants[number]
    one, expected = stepped(name, options, "C", 1)
    for a, b in zip(one, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    for threads, order in ((2, "C"), (3, "F")):
        for a, b in zip(stepped(name, options, order, threads)[0], one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_short_axes_are_not_factored() -> None:
    params = [np.ones((20, 15)), np.ones((20, 16)), np.ones((3, 17, 16))]
    optimizer = cyoptim.AdafactorBigVision(params)
    optimizer.step(grads=[np.ones_like(p) for p in params])
    assert [optimizer.state[p].get("exp_avg_sq_r", np.empty(0)).shape for p in params] == [
        (0,),
        (1, 16),
        (3, 1, 16),
    ]
    assert optimizer.state[params[2]]["exp_avg_sq_c"].shape == (3, 17, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_rows_and_columns_of_zeros(name: str, dtype: Any) -> None:
    # The product of both factors is below the smallest number: 0 / 0, if it were divided by.
    params = [np.ones((20, 30), dtype), np.ones(30, dtype), np.ones((20, 30), dtype)]
    optimizer = BY_NAME[name].cls(params)
    grads = [np.ones_like(p) for p in params]
    grads[0][3], grads[0][:, 5], grads[1][4], grads[2][...] = 0, 0, 0, 0
    for _ in range(3):
        optimizer.step(grads=grads)
    assert all(np.isfinite(p).all() for p in params)
    np.testing.assert_array_equal(params[0][3], 1)
    np.testing.assert_array_equal(params[2], 1)


@pytest.mark.parametrize("eps", [(0.0, 0.0), (0.0, 1e-16)])
def test_no_eps(eps: Any) -> None:
    for cls in (cyoptim.AdafactorHF, cyoptim.CAME):
        w = np.ones((3, 4))
        optimizer = cls([w], eps=eps)
        for grad in (np.zeros((3, 4)), np.ones((3, 4))):
            optimizer.step(grads=[grad])
            assert np.isfinite(w).all()


def test_a_rate_decides_on_relative_steps() -> None:
    a, b, c = (np.ones((2, 2)) for _ in range(3))
    optimizer = cyoptim.AdafactorHF(
        [{"params": [a]}, {"params": [b], "lr": 0.5}], scale_parameter=False
    )
    optimizer.step(grads=[np.ones((2, 2))] * 2)
    np.testing.assert_allclose((a[0, 0], b[0, 0]), (0.99, 0.5))
    saved = [group["relative_step"] for group in optimizer.state_dict()["param_groups"]]
    assert saved == [True, False]
    optimizer = cyoptim.AdafactorHF([c], relative_step=True)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match="Cannot combine manual `lr` and `relative_step=True`"):
        optimizer.step(grads=[np.ones((2, 2))])
    np.testing.assert_array_equal(c, 1)


def test_caution_leaves_out_what_disagrees() -> None:
    # An element in a thousand agrees: the step of the others is not made, and its own no more than 1000 times.
    w = np.zeros(10_000)
    optimizer = cyoptim.AdafactorBigVision([w], lr=0.1, caution=True)
    optimizer.step(grads=[np.ones(10_000)])
    before, grad = w.copy(), np.full(10_000, -1e-6)
    grad[0] = 1e-6
    optimizer.step(grads=[grad])
    moved = w - before
    np.testing.assert_array_equal(moved[1:], 0)
    momentum = optimizer.state[w]["exp_avg"][0]
    np.testing.assert_allclose(moved[0], -0.1 * 1000 * momentum)


def test_a_state_of_timm_that_corrects_its_decay_is_refused() -> None:
    w = np.ones((3, 4))
    optimizer = cyoptim.AdafactorBigVision([w])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["corrected_weight_decay"] = True
    with pytest.raises(ValueError, match="corrected_weight_decay=True is not supported"):
        optimizer.load_state_dict(saved)


# --- steps that are kept ----------------------------------------------------------------------------


def twins(name: str, **options: Any) -> tuple[Any, Any, Any, Any]:
    """Two optimizers of equal parameters; the second finds none of its steps again."""
    rng = np.random.default_rng(1)
    start = [
        rng.standard_normal(shape).astype(np.float32) for shape in ((20, 30), (17,), (3, 18, 16))
    ]
    one, other = ([array.copy() for array in start] for _ in range(2))
    cls = BY_NAME[name].cls
    return one, other, cls(one, **options), cls(other, **options)


def step_both(one: Any, other: Any, a: Any, b: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(p.shape).astype(np.float32) for p in one]
    a.step(grads=grads)
    b._kept = _engine.KeptSteps()
    b.step(grads=grads)
    for p, q in zip(one, other, strict=True):
        np.testing.assert_array_equal(p, q)
        assert {*a.state[p]} == {*b.state[q]}
        for entry, value in b.state[q].items():
            np.testing.assert_array_equal(a.state[p][entry], value)


def replace_state(optimizer: Any, params: Any) -> None:
    for entry, value in [*optimizer.state[params[0]].items()]:
        optimizer.state[params[0]][entry] = value * 2 + (entry == "step")


def change_state_in_place(optimizer: Any, params: Any) -> None:
    for value in optimizer.state[params[1]].values():
        value += 1


def forget_state(optimizer: Any, params: Any) -> None:
    del optimizer.state[params[2]]


def load_own_state(optimizer: Any, params: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def change_options(optimizer: Any, params: Any) -> None:
    for option in ("beta1", "momentum"):
        if option in optimizer.param_groups[0]:
            has = optimizer.param_groups[0][option] is not None
            optimizer.param_groups[0][option] = None if has else 0.5
    optimizer.param_groups[0]["weight_decay"] = 0.25
    if "min_dim_size_to_factor" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["min_dim_size_to_factor"] = 40
        optimizer.state.clear()


CHANGES = [replace_state, change_state_in_place, forget_state, load_own_state, change_options]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_kept_see_every_change(name: str, change: Any) -> None:
    one, other, a, b = twins(name)
    for seed in range(2):
        step_both(one, other, a, b, seed)
    change(a, one)
    change(b, other)
    for seed in range(2, 5):
        step_both(one, other, a, b, seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_seen_by_a_parameter_that_gets_its_gradient_later(name: str) -> None:
    one, other, a, b = twins(name)
    step_both(one, other, a, b, 0)
    for optimizer, params in ((a, one), (b, other)):
        replace_state(optimizer, params)
        optimizer.step(grads=[None, *(np.ones_like(p) for p in params[1:])])
    for seed in range(1, 3):
        step_both(one, other, a, b, seed)


@pytest.mark.parametrize("name", NAMES)
def test_steps_that_are_kept_follow_their_parameters(name: str) -> None:
    one, other, a, b = twins(name)
    step_both(one, other, a, b, 0)
    for optimizer, params in ((a, one), (b, other)):
        del optimizer.param_groups[0]["params"][0]
        del params[0]
        params.append(np.full((4, 20), 0.5, np.float32))
        optimizer.add_param_group({"params": [params[-1]], "lr": 0.25})
    for seed in range(1, 4):
        step_both(one, other, a, b, seed)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_get_other_memory(name: str) -> None:
    w, v = (cyoptim.Parameter(np.ones((20, 20))) for _ in range(2))
    a, b = BY_NAME[name].cls([w]), BY_NAME[name].cls([v])
    for number in range(4):
        for param, optimizer in ((w, a), (v, b)):
            param.grad = np.full((20, 20), number + 1.0)
            if number == 2 and param is w:
                param.data = param.data.copy()
            optimizer.step()
        np.testing.assert_array_equal(w.data, v.data)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_let_go(name: str) -> None:
    w = np.ones((20, 20))
    optimizer = BY_NAME[name].cls([w])
    for _ in range(3):
        grad = np.ones((20, 20))
        known = sys.getrefcount(grad)
        optimizer.step(grads=[grad])
        assert sys.getrefcount(grad) == known


@pytest.mark.parametrize("name", NAMES)
def test_large_parameters_are_stepped_as_small_ones(name: str) -> None:
    # By all threads, pass after pass, or by one: blocks are the same.
    rng = np.random.default_rng(5)
    start = rng.standard_normal((700, 300)).astype(np.float32)
    grads = [rng.standard_normal((700, 300)).astype(np.float32) for _ in range(3)]
    found = []
    for limit in (1 << 10, 1 << 20):
        w = start.copy()
        optimizer = BY_NAME[name].cls([w])
        before = _engine.set_stepped_by_one(limit)
        try:
            for grad in grads:
                optimizer.step(grads=[grad])
        finally:
            _engine.set_stepped_by_one(before)
        found.append(w)
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], start)

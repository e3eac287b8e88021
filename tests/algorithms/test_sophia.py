"""Sophia-G: its estimate of the Hessian, through every door, and all or nothing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME
from tests.support.doors import Door
from tests.support.dtypes import tolerance
from tests.support.parametrize import every_door, every_real

SHAPES = [(3, 4), (5,), (), (0, 2)]


def draws(seed: int, dtype: Any = np.float64, shapes: Any = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@every_door
@every_real
def test_as_the_reference(door: Door, dtype: Any) -> None:
    start = draws(0, dtype)
    params = [door.wrap(array.copy()) for array in start]
    options = {"lr": 0.01, "bs": 2, "betas": (0.9, 0.95)}
    optimizer = cyoptim.SophiaG(params, **options)
    reference = BY_NAME["SophiaG"].reference(**options)
    expected = [array.astype(np.float64) for array in start]
    for number in range(1, 31):
        grads: list[Any] = draws(number, dtype)
        grads[number % 4] = None
        wide = [None if g is None else g.astype(np.float64) for g in grads]
        if number % 4 == 1:
            door.step(optimizer, params, [None if g is None else -2 * g for g in grads],
                      "update_hessian")  # fmt: skip
            reference.update_hessian(expected, [None if g is None else -2 * g for g in wide])
        door.step(optimizer, params, grads)
        reference.step(expected, wide)
    for param, array in zip(params, expected, strict=True):
        np.testing.assert_allclose(door.read(param), array, atol=tolerance(np.dtype(dtype).name))


def test_it_is_no_step_and_counts_as_none() -> None:
    w, g = np.ones(3), np.array([1.0, -2.0, 3.0])
    optimizer = cyoptim.SophiaG([w])
    optimizer.update_hessian(grads=[g])
    state = optimizer.state[w]
    np.testing.assert_allclose(state["hessian"], 0.01 * g * g, rtol=1e-14)
    np.testing.assert_array_equal(state["exp_avg"], np.zeros(3))
    assert state["step"] == 0
    np.testing.assert_array_equal(w, np.ones(3))
    optimizer.step(grads=[g])
    assert state["step"] == 1
    optimizer.update_hessian(grads=[g])
    np.testing.assert_allclose(state["hessian"], (1 - 0.99**2) * g * g, rtol=1e-13)
    assert state["step"] == 1
    assert optimizer.state[w] is state


def test_without_an_estimate_steps_are_signs() -> None:
    w, g = np.zeros(3), np.array([1e-6, 0.0, -1e6])
    cyoptim.SophiaG([w], lr=0.5).step(grads=[g])
    np.testing.assert_array_equal(w, [-0.5, 0.0, 0.5])


def test_bs_divides_what_is_not_clipped() -> None:
    moves = []
    for bs in (1000.0, 2000.0):
        w = np.zeros(3)
        optimizer = cyoptim.SophiaG([w], lr=1.0, rho=1.0, bs=bs)
        optimizer.update_hessian(grads=[np.ones(3)])
        optimizer.step(grads=[np.ones(3)])
        moves.append(-w)
    np.testing.assert_allclose(moves[0], 0.035 / (1000 * 0.01), rtol=1e-12)
    np.testing.assert_allclose(moves[0], 2 * moves[1], rtol=1e-12)


def test_a_parameter_without_a_gradient_keeps_its_estimate() -> None:
    w, v = np.ones(3), np.ones(3)
    optimizer = cyoptim.SophiaG([w, v])
    optimizer.update_hessian(grads=[np.ones(3), None])
    assert v not in optimizer.state
    optimizer.update_hessian(grads=[None, np.ones(3)])
    for param in (w, v):
        np.testing.assert_allclose(optimizer.state[param]["hessian"], 0.01)


def test_groups_have_their_own_beta() -> None:
    params = [np.ones(3), np.ones(3)]
    optimizer = cyoptim.SophiaG([{"params": [params[0]]}, {"params": [params[1]], "betas": (0, 0)}])
    optimizer.update_hessian(grads=[np.full(3, 2.0)] * 2)
    for param, hessian in zip(params, (0.04, 4.0), strict=True):
        np.testing.assert_allclose(optimizer.state[param]["hessian"], hessian)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_repeated_parameter_takes_both_gradients_in_turn() -> None:
    w = np.ones(100_000)
    optimizer = cyoptim.SophiaG([{"params": [w, w]}])
    optimizer.update_hessian(grads=[np.full_like(w, 2.0), np.full_like(w, 3.0)])
    expected = 0.99 * (0.01 * 4) + 0.01 * 9
    np.testing.assert_allclose(optimizer.state[w]["hessian"], expected, rtol=1e-14)


@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts(order: Any) -> None:
    base = np.ones((6, 8), order=order)
    w = base[::2, 1:5]
    g = np.asarray(np.arange(12.0).reshape(3, 4), order="F")
    optimizer = cyoptim.SophiaG([w], lr=0.1)
    optimizer.update_hessian(grads=[g])
    optimizer.step(grads=[g])
    np.testing.assert_allclose(optimizer.state[w]["hessian"], 0.01 * g * g)
    optimizer.update_hessian(grads=[g])
    np.testing.assert_allclose(optimizer.state[w]["hessian"], (1 - 0.99**2) * g * g)


def test_complex_gradients_are_pairs() -> None:
    w = np.ones(3, complex)
    optimizer = cyoptim.SophiaG([w])
    optimizer.update_hessian(grads=[np.full(3, 2 - 3j)])
    np.testing.assert_allclose(optimizer.state[w]["hessian"], 0.04 + 0.09j)


def test_gradients_stay_as_they_are() -> None:
    w = cyoptim.Parameter(np.ones(3))
    w.grad = np.array([1.0, -2.0, np.inf])
    optimizer = cyoptim.SophiaG([w])
    optimizer.update_hessian()
    np.testing.assert_array_equal(w.grad, [1.0, -2.0, np.inf])
    np.testing.assert_allclose(optimizer.state[w]["hessian"], [0.01, 0.04, np.inf])
    optimizer.update_hessian()  # infinity stays infinity
    assert optimizer.state[w]["hessian"][2] == np.inf


@pytest.mark.parametrize(
    ("grads", "error"),
    [
        ([np.ones(3), np.ones(4)], ValueError),
        ([np.ones(3)], ValueError),
        ([np.ones(3), "no gradient"], TypeError),
        ([np.ones(3), np.ones(3, complex)], TypeError),
    ],
)
@pytest.mark.parametrize("stepped", [False, True])
def test_all_or_nothing(grads: Any, error: type[Exception], stepped: bool) -> None:
    params = [np.ones(3), np.ones(3)]
    optimizer = cyoptim.SophiaG(params)
    if stepped:
        optimizer.update_hessian(grads=[np.ones(3)] * 2)
        optimizer.step(grads=[np.ones(3)] * 2)
    before = repr((params, optimizer.state_dict()))
    with pytest.raises(error):
        optimizer.update_hessian(grads=grads)
    assert repr((params, optimizer.state_dict())) == before


def test_resume_between_estimate_and_step() -> None:
    grads = [draws(k, shapes=[(20,)]) for k in range(6)]

    def go_on(optimizer: Any, steps: range) -> None:
        for k in steps:
            optimizer.step(grads=grads[k])
            optimizer.update_hessian(grads=grads[k])

    w = np.ones(20)
    whole = cyoptim.SophiaG([w], lr=0.1, bs=3)
    whole.update_hessian(grads=grads[0])
    saved = copy.deepcopy(whole.state_dict())
    again = np.ones(20)
    other = cyoptim.SophiaG([again])
    other.load_state_dict(saved)
    go_on(whole, range(6))
    go_on(other, range(3))
    last = again.copy()
    third = cyoptim.SophiaG([last])
    third.load_state_dict(copy.deepcopy(other.state_dict()))
    go_on(third, range(3, 6))
    np.testing.assert_array_equal(w, last)


def test_the_authors_state_is_loaded(torch: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    optimizer = cyoptim.SophiaG([w], bs=7)
    w.grad = torch.ones(3)
    optimizer.update_hessian()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["step"] == torch.tensor(1.0)
    assert all(torch.is_tensor(value) for value in saved["state"][0].values())
    del saved["param_groups"][0]["bs"]  # which is no option there
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["bs"] == 7


def test_bs_is_no_argument_of_a_step() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'bs'"):
        cyoptim.SophiaG([np.ones(3)]).step(grads=[np.ones(3)], bs=4)  # type: ignore[call-arg]


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, "x"), (0.9, np.nan)])
def test_betas_spoilt_later_are_named(betas: Any) -> None:
    w = np.ones(3)
    optimizer = cyoptim.SophiaG([w])
    optimizer.param_groups[0]["betas"] = betas
    with pytest.raises((TypeError, ValueError), match="options of param group 0: .*beta"):
        optimizer.update_hessian(grads=[np.ones(3)])
    assert not optimizer.state[w]

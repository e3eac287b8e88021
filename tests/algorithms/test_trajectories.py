"""Contract 1: trajectories equal the papers' and torch's, for every option, through every door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME
from tests.support import runs
from tests.support.cards import (
    CLOSURE,
    DENSE,
    ELEMENT_WISE,
    JOINED,
    ONE_GROUP,
    TORCH,
    Card,
    Options,
)
from tests.support.doors import Door, TensorDoor, trajectory_inputs
from tests.support.dtypes import assert_close
from tests.support.parametrize import (
    every_card,
    every_door,
    every_numpy_door,
    every_real,
    every_variant,
)

# Muon takes the matrices among them, Adafactor those that are not empty.
SHAPES: list[tuple[int, ...]] = [
    *((3, 4), (5,), (), (0,), (2, 0, 3), (17, 33), (1,)),
    *((33, 17), (1, 9), (9, 1), (2, 3, 5, 4)),
]
STEPS = 60


def inputs(card: Card, dtype: Any, seed: int) -> Any:
    return trajectory_inputs(card.shapes(SHAPES), dtype, card.steps(STEPS), seed)


# L-BFGS is compared with its reference, which needs a problem to solve, in test_lbfgs.py.
@every_numpy_door
@every_real
@every_variant(~CLOSURE)
def test_follows_the_paper(card: Card, options: Options, dtype: Any, door: Door) -> None:
    start, grads = inputs(card, dtype, seed=1)
    found = runs.run(card, options, start, grads, door)
    assert_close(found, runs.expected(card, options, start, grads), dtype)


@pytest.mark.slow
@every_door
@every_real
@every_variant(TORCH)
def test_equals_torch(torch: Any, card: Card, options: Options, dtype: Any, door: Door) -> None:
    start, grads = inputs(card, dtype, seed=2)
    theirs = runs.run(card, options, start, grads, TensorDoor(), card.torch_class(torch))
    assert_close(runs.run(card, options, start, grads, door), theirs, dtype)


def in_two_groups(cls: Any, card: Card) -> Any:
    def make(params: list[Any]) -> Any:
        first = {"params": params[:2], "lr": 0.02, **card.only(weight_decay=0.1)}
        return cls([first, {"params": params[2:], **card.only(maximize=True)}], lr=0.005)

    return make


@pytest.mark.slow
@every_card(TORCH, ~ONE_GROUP)
def test_groups_of_their_own_options(torch: Any, card: Card) -> None:
    start, grads = inputs(card, np.float64, seed=3)
    theirs = in_two_groups(card.torch_class(torch), card)
    expected = runs.run(card, {}, start, grads, TensorDoor(), theirs)
    found = runs.run(card, {}, start, grads, make=in_two_groups(card.cls, card))
    assert_close(found, expected, np.float64)


@pytest.mark.slow
@every_card(~ONE_GROUP, ~JOINED)
def test_groups_are_optimizers_of_their_own(card: Card) -> None:
    start, grads = inputs(card, np.float64, seed=3)
    found = runs.run(card, {}, start, grads, make=in_two_groups(card.cls, card))
    one = {"lr": 0.02, **card.only(weight_decay=0.1)}
    other = {"lr": 0.005, **card.only(maximize=True)}
    expected = [
        *runs.run(card, one, start[:2], [step[:2] for step in grads]),
        *runs.run(card, other, start[2:], [step[2:] for step in grads]),
    ]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@every_card(~CLOSURE, ~JOINED)
def test_mixed_dtypes_in_one_group(card: Card) -> None:
    shapes = [card.fit((7,)), card.fit((8,))]
    start, grads = trajectory_inputs(shapes, np.float64, 5, seed=4, missing=0)
    start[1] = start[1].astype(np.float32)
    for step in grads:
        step[1] = step[1].astype(np.float32)
    found = runs.run(card, {"lr": 0.01}, start, grads)
    for k, dtype in enumerate((np.float64, np.float32)):
        mine = [step[k : k + 1] for step in grads]
        expected = runs.expected(card, {"lr": 0.01}, start[k : k + 1], mine, dtype)
        assert_close(found[k : k + 1], expected, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_variant(ELEMENT_WISE)
def test_nonfinite_gradients_spread_as_in_the_paper(
    card: Card, options: Options, value: float
) -> None:
    # One element of 40 is spoilt in the middle of the run: the others must not notice.
    start, grads = trajectory_inputs([(40,)], np.float64, 6, seed=5, missing=0)
    grads[2][0][17] = value
    found = runs.run(card, options, start, grads)
    with np.errstate(invalid="ignore"):
        expected = runs.expected(card, options, start, grads)
    clean = np.arange(40) != 17
    np.testing.assert_allclose(found[0][clean], expected[0][clean], rtol=1e-10)
    np.testing.assert_array_equal(np.isfinite(found[0][17]), np.isfinite(expected[0][17]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@every_card(~ELEMENT_WISE, ~CLOSURE, ~JOINED)
def test_nonfinite_gradients_spread_over_their_parameter(card: Card, value: float) -> None:
    # What a parameter's elements share may lose all of it; another parameter is not lost.
    a, b, grad = np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 4))
    grad[1, 2] = value
    with np.errstate(invalid="ignore"):
        card.cls([a, b]).step(grads=[grad, np.ones((3, 4))])
    assert not np.isfinite(a).all()
    assert np.isfinite(b).all()


@every_card(ELEMENT_WISE)
def test_infinite_parameter_leaves_state_finite_without_decay(card: Card) -> None:
    # 0 * inf must not enter the state when weight_decay is 0.
    w = np.array([np.inf, 1.0])
    optimizer = card.cls([w], **card.only(weight_decay=0), **card.history)
    runs.advance(card, optimizer, [w], [np.array([0.5, 0.5])], runs.ARRAYS)
    for name, array in optimizer.state[w].items():
        if name not in card.averages:
            assert np.isfinite(array).all(), name
    assert w[0] == np.inf


@every_card()
def test_empty_parameters(card: Card) -> None:
    for shape in {card.fit(shape) for shape in ((0,), (0, 3), *(((3, 0),) if DENSE(card) else ()))}:
        w = cyoptim.Parameter(np.ones(shape))
        optimizer = card.cls([w])
        for _ in range(2):
            runs.advance(card, optimizer, [w], [np.ones(shape)])
        if "step" in card.states:
            assert int(optimizer.state[w]["step"]) == 2


def test_momentum_buffer_starts_as_the_gradient() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.SGD([w], lr=0.1, momentum=0.9, dampening=0.5)
    g = np.array([1.0, 2.0, 3.0])
    optimizer.step(grads=[g])
    np.testing.assert_array_equal(optimizer.state[w]["momentum_buffer"], g)
    optimizer.step(grads=[g])
    np.testing.assert_array_equal(optimizer.state[w]["momentum_buffer"], 0.9 * g + 0.5 * g)


def test_denormals_flush_but_change_nothing_that_counts() -> None:
    # 1,000 steps of zero gradient: exp_avg dies away; parameters stay the formula's to rounding.
    start, grads = trajectory_inputs([(50,)], np.float32, 1, seed=6, missing=0)
    zeros: list[np.ndarray | None] = [np.zeros(50, np.float32)]
    grads = grads + [zeros] * 1000
    card, options = BY_NAME["Adam"], {"lr": 0.01, "betas": (0.8, 0.9)}
    found = runs.run(card, options, start, grads)
    assert_close(found, runs.expected(card, options, start, grads), np.float32)

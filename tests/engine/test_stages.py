"""Stages: rules that change every gradient, or follow every parameter, in the pass of the step itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import cards
from tests.support.cards import CLOSURE, DENSE, JOINED, MODES, SPARSE, Card
from tests.support.cautious import has_caution
from tests.support.parametrize import every_card, every_real

SHAPES = [(3, 5), (1,), (511,), (513,), (20_000,)]


def precede(optimizer: Any, *stages: tuple[str, tuple[float, ...]]) -> None:
    optimizer._stages = stages
    optimizer._renew_plan()


def arrays(card: Card, dtype: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.array(rng.standard_normal(shape), dtype) for shape in card.shapes(SHAPES)]


@every_real
@every_card(DENSE, ~CLOSURE, ~JOINED)  # whose norm is that of the gradients as they were
def test_gradients_that_are_changed_before_the_rule(card: Card, dtype: Any) -> None:
    check_changed_gradients(card, dtype, {"lr": 0.1})


@every_real
@pytest.mark.parametrize("card", cards(has_caution, ~JOINED), ids=str)
def test_gradients_that_are_changed_before_a_cautious_rule(card: Card, dtype: Any) -> None:
    check_changed_gradients(card, dtype, {"lr": 0.1, "caution": True, **card.only(momentum=0.9)})


def check_changed_gradients(card: Card, dtype: Any, options: Any) -> None:
    params, others = arrays(card, dtype, 0), arrays(card, dtype, 0)
    fused, plain = card.cls(params, **options), card.cls(others, **options)
    averages = None if MODES(card) else (fused.ema(0.5), plain.ema(0.5))
    precede(fused, ("scale", (3.0,)), ("clamp", (-1.0, 0.5)))
    for seed in range(3):
        grads = arrays(card, dtype, seed + 1)
        before = [g.copy() for g in grads]
        fused.step(grads=grads)
        for g, old in zip(grads, before, strict=True):
            np.testing.assert_array_equal(g, old)
            g *= dtype(3)
            np.clip(g, -1, 0.5, out=g)
        plain.step(grads=grads)
    for a, b in zip(params, others, strict=True):
        np.testing.assert_array_equal(a, b)
        if averages is not None:
            np.testing.assert_array_equal(averages[0][a], averages[1][b])


@every_card(SPARSE)
def test_sparse_gradients_that_are_changed(card: Card) -> None:
    fused, plain = np.ones((4, 3)), np.ones((4, 3))
    first, second = card.cls([fused], lr=0.1), card.cls([plain], lr=0.1)
    precede(first, ("clamp", (-1.0, 1.0)))
    rows, values = np.array([1, 3]), np.array([[1.0, -2.0, 0.5], [4.0, 0.0, -9.0]])
    for _ in range(2):
        first.step(grads=[(rows, values)])
        second.step(grads=[(rows, values.clip(-1, 1))])
    np.testing.assert_array_equal(fused, plain)


def test_the_norm_is_that_of_the_gradients_as_they_were() -> None:
    optimizer = cyoptim.SGD([np.zeros(2)], lr=1.0)
    precede(optimizer, ("clamp", (-0.5, 0.5)))
    optimizer.step(grads=[np.array([3.0, 4.0])], max_norm=100.0, zero_grad=True)
    assert optimizer.last_step is not None
    assert optimizer.last_step.total_norm == 5.0


def test_gradients_are_zeroed_after_the_stages() -> None:
    w, g = np.zeros(1000), np.full(1000, 3.0)
    optimizer = cyoptim.SGD([w], lr=1.0)
    precede(optimizer, ("clamp", (-0.5, 0.5)))
    optimizer.step(grads=[g], zero_grad=True)
    np.testing.assert_array_equal(w, -0.5)
    np.testing.assert_array_equal(g, 0.0)


@pytest.mark.parametrize("rule", ["adam", "axpby", "average", "nothing"])
def test_other_rules_are_refused(rule: str) -> None:
    plan = cyoptim.SGD([np.zeros(1)], lr=1.0)._plan
    with pytest.raises(ValueError, match=f"'{rule}' is not a rule of one stream"):
        plan.precede(rule, (1.0,))


def test_as_many_as_there_is_room_for() -> None:
    plan = cyoptim.SGD([np.zeros(1)], lr=1.0)._plan
    for _ in range(3):
        plan.precede("scale", (2.0,))
    with pytest.raises(ValueError, match="3 rules precede that of the group"):
        plan.precede("scale", (2.0,))
    with pytest.raises(TypeError, match="takes 1 scalars, got 2"):
        cyoptim.SGD([np.zeros(1)], lr=1.0)._plan.precede("scale", (2.0, 1.0))


def test_stages_outlive_the_plan() -> None:
    w = cyoptim.Parameter(np.zeros(3))
    optimizer = cyoptim.SGD([w], lr=1.0)
    precede(optimizer, ("clamp", (-0.5, 0.5)))
    for _ in range(2):
        w.data = np.zeros(3)  # which makes another plan
        w.grad = np.full(3, 7.0)
        optimizer.step()
        np.testing.assert_array_equal(w.data, -0.5)

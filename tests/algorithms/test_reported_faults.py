"""Faults that were reported of other implementations, tried with every optimizer: docs/reported_faults.md lists them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import (
    ADAPTIVE,
    CLOSURE,
    DENSE,
    JOINED,
    MODES,
    Card,
    Options,
)
from tests.support.doors import Door, trajectory_inputs
from tests.support.parametrize import every_card, every_door, every_variant
from tests.support.runs import ARRAYS, advance

SHAPES = ((4, 3), (2, 5), (3, 3))


def inputs(card: Card, steps: int, missing: float = 0) -> tuple[list[Any], list[list[Any]]]:
    return trajectory_inputs(card.shapes(SHAPES), np.float64, steps, seed=3, missing=missing)


@every_card(~CLOSURE)
def test_a_closure_is_called_once_and_its_loss_returned(card: Card) -> None:
    w = cyoptim.Parameter(np.ones((2, 3)))
    optimizer = card.cls([w], lr=0.1)
    called = []

    def closure() -> float:
        called.append(w.data.copy())
        w.grad = card.form(np.ones((2, 3)))
        return float(len(called))

    for count in range(1, 4):
        assert optimizer.step(closure) == count
        assert len(called) == count


@every_variant(~CLOSURE)
@every_door
def test_gradients_stay_as_they_are(card: Card, options: Options, door: Door) -> None:
    start, (grads, *_) = inputs(card, 1)
    params = [door.wrap(array.copy()) for array in start]
    optimizer = card.cls(params, **options)
    given = [card.form(grad.copy()) for grad in grads]
    for _ in range(2):
        door.step(optimizer, params, given)
    found = given if door.name == "array" else [param.grad for param in params]
    for grad, before in zip(found, grads, strict=True):
        if DENSE(card):
            values = grad
        else:
            values = grad.coalesce().values() if door.name == "tensor" else grad[1]
        np.testing.assert_array_equal(np.asarray(values), before)


@every_variant(~CLOSURE)
def test_gradients_in_one_buffer_are_as_fresh_ones(card: Card, options: Options) -> None:
    # An optimizer that keeps a gradient must copy it: the next one is written into the same memory.
    start, steps = inputs(card, 5)
    fresh, reused = ([array.copy() for array in start] for _ in range(2))
    a, b = card.cls(fresh, **options), card.cls(reused, **options)
    buffers = [np.empty_like(array) for array in start]
    for grads in steps:
        a.step(grads=[card.form(grad.copy()) for grad in grads])
        for buffer, grad in zip(buffers, grads, strict=True):
            buffer[...] = grad
        b.step(grads=[card.form(buffer) for buffer in buffers])
    for one, other in zip(fresh, reused, strict=True):
        np.testing.assert_array_equal(one, other)


@every_variant(~CLOSURE, ~JOINED, ~ADAPTIVE, ~MODES)  # MODES: in test_schedule_free.py
def test_a_parameter_that_joins_late_is_new(card: Card, options: Options) -> None:
    # The others' counts are 50 by then; what corrects its first steps is its own.
    if card.under(options) is not card:
        pytest.skip("joins all gradients with this option")
    start, steps = inputs(card, 54)
    start, steps = start[:2], [grads[:2] for grads in steps]
    together, alone = ([array.copy() for array in start] for _ in range(2))
    optimizer, fresh = card.cls(together, **options), card.cls(alone[1:], **options)
    for k, (first, second) in enumerate(steps):
        late = k >= 50
        optimizer.step(grads=[card.form(first), card.form(second) if late else None])
        if late:
            fresh.step(grads=[card.form(second)])
    np.testing.assert_array_equal(together[1], alone[1])


@every_variant(~CLOSURE)
@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("grad", [0.0, 1.0])
def test_norms_of_zero_divide_nothing(
    card: Card, options: Options, start: float, grad: float
) -> None:
    shapes = card.shapes([(4, 3), (1, 3), (3, 1)])
    params = [np.full(shape, start) for shape in shapes]
    optimizer = card.cls(params, **options)
    for _ in range(4):
        optimizer.step(grads=[card.form(np.full(shape, grad)) for shape in shapes])
    assert all(np.isfinite(param).all() for param in params)
    for param in params:
        for value in optimizer.state[param].values():
            assert np.isfinite(value).all()


@every_card(DENSE, ~CLOSURE, lambda card: not card.takes("step_sizes"))  # Rprop: at least these
def test_a_rate_of_zero_at_one_step(card: Card) -> None:
    # As where a warm-up begins: nothing divides by a sum of rates, and later steps move.
    start, steps = inputs(card, 6)
    params = [array.copy() for array in start]
    optimizer = card.cls(params, lr=0.0)
    for k, grads in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * k
        if MODES(card):
            optimizer.train()
        advance(card, optimizer, params, grads, door=ARRAYS)
        moved = [not np.array_equal(p, s) for p, s in zip(params, start, strict=True)]
        assert k or not any(moved)
    assert all(moved)
    assert all(np.isfinite(param).all() for param in params)

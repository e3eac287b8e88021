"""A parameter that a group lists twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import ADAPTIVE, CLOSURE, DENSE, MODES, NATIVE, TORCH, Card
from tests.support.narrow import takes_narrow
from tests.support.parametrize import every_card


@every_card(TORCH, NATIVE, DENSE)
def test_duplicate_in_a_group_warns_and_is_stepped_twice(torch: Any, card: Card) -> None:
    t = torch.zeros(3, requires_grad=True)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        theirs = card.torch_class(torch)([t, t], foreach=False)
    p = cyoptim.Parameter(np.zeros(3, np.float32))
    with pytest.warns(UserWarning, match="duplicate parameters") as record:
        ours = card.cls([p, p])
    assert record[0].filename == __file__
    for g in (1.0, -0.5, 2.0):
        t.grad = torch.full((3,), g)
        p.grad = np.full(3, g, np.float32)
        theirs.step()
        ours.step()
    np.testing.assert_allclose(p.data, t.detach().numpy(), rtol=1e-5)


@every_card(ADAPTIVE)
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_duplicate_is_refused_where_it_would_count_twice(card: Card) -> None:
    w = np.ones((2, 3))
    optimizer = card.cls([w, w])
    with pytest.raises(ValueError, match="list each of them once, as one occurs twice"):
        optimizer.step(grads=[np.ones((2, 3))] * 2)
    np.testing.assert_array_equal(w, 1)


@every_card(~CLOSURE, ~ADAPTIVE, ~MODES)  # where a step counts once for the group
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_duplicate_takes_each_step_twice(card: Card) -> None:
    twice, once = np.full((2, 3), 0.5), np.full((2, 3), 0.5)
    ours, plain = card.cls([twice, twice], lr=0.1), card.cls([once], lr=0.1)
    for g in (1.0, -0.5, 2.0):
        grad = card.form(np.full((2, 3), g))
        ours.step(grads=[grad, grad])
        plain.step(grads=[grad])
        plain.step(grads=[grad])
    np.testing.assert_array_equal(twice, once)


PLACES = {"dense": slice(None), "gaps": slice(None, None, 2), "reversed": slice(None, None, -1)}


@every_card(~CLOSURE, ~ADAPTIVE, ~MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_duplicate_whose_first_place_has_no_gradient(card: Card, place: str, dtype: Any) -> None:
    if dtype == np.float16 and not takes_narrow(card):
        pytest.skip("has no rule")
    room = np.full((6, 3), 0.5, dtype)
    twice, rest = room[PLACES[place]], room[1::2]
    once = twice.copy()
    ours, plain = card.cls([twice, twice], lr=0.1), card.cls([once], lr=0.1)
    for g in (1.0, -0.5, 2.0):
        grad = card.form(np.full(once.shape, g, dtype))
        ours.step(grads=[None, grad])
        plain.step(grads=[grad])
    np.testing.assert_array_equal(twice, once)
    assert place != "gaps" or (rest == 0.5).all()

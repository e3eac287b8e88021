"""What each entry of a state must be: said by rules and shapes, and true of what a step leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._state.form import Entry, Form, Kind, entries_of_rules, essential_entries
from tests.optimizers import cards
from tests.support.cards import CHECKED, CLOSURE, NATIVE, Card


class Averaging(cyoptim.Optimizer):
    """A user's own, with an update."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        state["seen"] = [grad.copy()]


class Stepping(cyoptim.Adam):
    """A user's own, with a step."""

    def step(self, closure: Any = None) -> None:
        for param in self.param_groups[0]["params"]:
            self.state[param]["exp_avg"] = "anything"


@pytest.mark.parametrize("card", cards(NATIVE), ids=repr)
def test_essential_is_what_a_rule_keeps_whatever_the_options(card: Card) -> None:
    essential = {*essential_entries(card.cls)}
    if card.cls._essential_state is None:
        assert essential == {*card.states}
    else:
        assert essential < {*card.states}


@pytest.mark.parametrize("card", cards(~NATIVE), ids=repr)
def test_essential_entries_are_there_after_a_step(card: Card) -> None:
    assert {*essential_entries(card.cls)} <= {*card.states}


@pytest.mark.parametrize("own", [Averaging, Stepping])
def test_what_a_user_writes_may_keep_what_it_likes(own: type) -> None:
    assert essential_entries(own) == []


@pytest.mark.parametrize("card", cards(CHECKED, ~CLOSURE), ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_leaves_what_the_form_says(card: Card, dtype: Any) -> None:
    w, grad = np.ones((2, 3), dtype), np.ones((2, 3), dtype)
    optimizer = card.cls([w], **card.history)
    optimizer.step(grads=[card.form(grad)])
    form, state = Form(optimizer), optimizer.state[w]
    assert state
    for key, value in state.items():
        entry = form.entry(key, w)
        expected = {
            Kind.ARRAY: (dtype, entry.shape),
            Kind.NUMBER: (entry.dtype, entry.shape),
            Kind.COUNT: (np.int64, ()),
            Kind.COUNTER: (np.int64, ()),
        }[entry.kind]
        assert (value.dtype, value.shape) == expected, key


@pytest.mark.parametrize(
    ("optimizer", "name", "entry"),
    [
        (cyoptim.Adam, "exp_avg", Entry(Kind.ARRAY, (3, 2), may_be_none=True)),
        (cyoptim.Adam, "max_exp_avg_sq", Entry(Kind.ARRAY, (3, 2), may_be_none=True)),
        (cyoptim.Adam, "mu_product", Entry(Kind.NOTE)),
        (cyoptim.NAdam, "mu_product", Entry(Kind.NUMBER, (), np.dtype(np.float32), True)),
        (cyoptim.SGD, "step", Entry(Kind.COUNT)),
        (cyoptim.Adafactor, "step", Entry(Kind.COUNTER)),
        (cyoptim.Adafactor, "row_var", Entry(Kind.ARRAY, (3, 1))),
        (cyoptim.Adafactor, "note", Entry(Kind.VALUE)),
        (Averaging, "seen", Entry(Kind.VALUE)),
        (Stepping, "exp_avg", Entry(Kind.NOTE)),
    ],
)
def test_entries(optimizer: Any, name: str, entry: Entry) -> None:
    w = np.ones((3, 2))
    assert Form(optimizer([w])).entry(name, w) == entry


def test_what_rules_keep() -> None:
    names = entries_of_rules()
    assert names >= {name for card in cards(NATIVE) for name in card.states}
    assert names >= {
        name for card in cards(NATIVE) for more in card.more_states.values() for name in more
    }
    assert "seen" not in names


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_are_loaded_in_the_layout_of_their_parameters(name: str, order: Any) -> None:
    w = np.ones((3, 2), np.float32, order=order)
    optimizer = getattr(cyoptim, name)([w])
    optimizer.step(grads=[np.ones_like(w)])
    state = optimizer.state_dict()
    state["state"][0] = {k: np.asarray(v, order="C") for k, v in state["state"][0].items()}
    optimizer.load_state_dict(state)
    for key, value in optimizer.state[w].items():
        if value.shape == w.shape:
            assert value.strides == w.strides, key


def test_a_complex_state_of_a_real_matrix_is_refused() -> None:
    w = np.ones((3, 2))
    optimizer = cyoptim.Muon([w])
    optimizer.step(grads=[w.copy()])
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = np.ones((3, 2), complex)
    with pytest.raises(TypeError, match="has dtype complex128, expected float64"):
        optimizer.load_state_dict(state)

"""The cards themselves: each optimizer has one, and is what its traits say.

What a trait promises is tested where its subject is; here, that a card which lacks one lacks it rightly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME, CARDS, cards, variants
from tests.support.cards import (
    ADAPTIVE,
    CAUTIOUS,
    CHECKED,
    CLOSURE,
    DENSE,
    ELEMENT_WISE,
    JOINED,
    KERNEL,
    MATRICES,
    NATIVE,
    ONE_GROUP,
    TORCH,
    Card,
    Source,
    takes,
)
from tests.support.doors import trajectory_inputs
from tests.support.parametrize import every_card
from tests.support.runs import advance, run

ONES = np.ones((2, 3))


def test_every_optimizer_has_a_card() -> None:
    assert {card.name for card in CARDS if card.public} == {*cyoptim.optimizers.__all__}
    assert len(BY_NAME) == len(CARDS)


def test_cards_are_asked_for_by_traits() -> None:
    assert {*cards(TORCH)} | {*cards(~TORCH)} == {*CARDS}
    assert not {*cards(TORCH)} & {*cards(~TORCH)}
    assert BY_NAME["Rprop"] not in cards(takes("weight_decay"))
    assert {card for card, _ in variants(CLOSURE)} == {*cards(CLOSURE)}


@every_card()
def test_traits_go_together(card: Card) -> None:
    assert not KERNEL(card) or (NATIVE(card) and ELEMENT_WISE(card))
    assert not MATRICES(card) or not ELEMENT_WISE(card)
    assert card.public <= CHECKED(card)
    assert card.variants
    assert all(card.takes(option) for options in card.variants for option in options)
    assert {*card.kept} <= {
        *card.states,
        *(n for names in card.more_states.values() for n in names),
    }


@every_card()
def test_options_that_are_tested(card: Card) -> None:
    # Each option that is a number or a switch has another value than its default in some variant,
    # or is among those that are refused.
    tried = {option for options in card.variants for option in options}
    tried |= {option for options, _, _ in card.refusals for option in options}
    left = {*card.options} - tried - {"foreach", "fused", "capturable", "differentiable"}
    assert not left - CAUTIOUS


@every_card(~CLOSURE)
def test_a_closure_is_not_needed(card: Card) -> None:
    w = ONES.copy()
    optimizer = card.cls([w], lr=0.1)
    for _ in range(1 + card.waits):
        optimizer.step(grads=[card.form(ONES)])
    assert not np.array_equal(w, ONES)


@every_card(CLOSURE)
def test_a_closure_is_needed(card: Card) -> None:
    with pytest.raises(TypeError, match=r"call step\(closure\)"):
        card.cls([ONES.copy()]).step(grads=[ONES])


@every_card(~DENSE)
def test_dense_gradients_are_refused(card: Card) -> None:
    with pytest.raises(RuntimeError, match=f"{card} does not support dense gradients"):
        card.cls([ONES.copy()]).step(grads=[ONES])


@every_card(MATRICES)
def test_matrices_alone_are_taken(card: Card) -> None:
    for shape in ((3,), (), *([(2, 3, 4)] if TORCH(card) else [])):
        with pytest.raises(ValueError, match="only supports 2D parameters|two dimensions or more"):
            card.cls([np.ones(shape)])


@every_card(~MATRICES)
def test_parameters_of_any_shape_are_taken(card: Card) -> None:
    for shape in {card.fit(shape) for shape in ((3,), (), (2, 3, 4))}:
        w = cyoptim.Parameter(np.ones(shape))
        optimizer = card.cls([w], lr=0.1)
        for _ in range(1 + card.waits):
            advance(card, optimizer, [w], [np.ones(shape)])
        assert not np.array_equal(w.data, np.ones(shape))


@every_card(ONE_GROUP)
def test_groups_must_agree(card: Card) -> None:
    groups = [{"params": [ONES.copy()], "lr": lr} for lr in (0.1, 0.2)]
    with pytest.raises(ValueError, match="'lr' is 0.1 in group 0 and 0.2 in group 1"):
        card.cls(groups)


@every_card(~ELEMENT_WISE, ~ADAPTIVE)
def test_where_elements_are_joined_pieces_are_not_the_whole(card: Card) -> None:
    start, grads = trajectory_inputs([(6, 4)], np.float64, 3, seed=1, missing=0)
    whole = run(card, card.variants[0], start, grads)[0]
    cut = [[g[0][:3], g[0][3:]] for g in grads]
    if ONE_GROUP(card):  # all its parameters are one: alone, a piece goes another way
        halves = [[g[0][:3]] for g in grads]
        parts = run(card, card.variants[0], [start[0][:3]], halves)
        assert not np.array_equal(parts[0], whole[:3])
        return
    parts = run(card, card.variants[0], [start[0][:3], start[0][3:]], cut)
    assert not np.array_equal(np.concatenate(parts), whole)


def moved_beside(card: Card, grad: float) -> np.ndarray:
    """A parameter after steps beside another with such gradients."""
    a, b = np.ones((2, 3)), np.ones((2, 3))
    optimizer = card.cls([a, b], lr=0.1)
    first = np.arange(1.0, 7.0).reshape(2, 3)
    # Both directions and their weights change: a step may be blind to the scale of its gradient.
    for mine, factor in ((first, 1.0), (-first[::-1], 3.0)):
        optimizer.step(grads=[card.form(mine), card.form(np.full((2, 3), grad * factor))])
    return a


@every_card(JOINED, ~ADAPTIVE)
def test_joined_gradients_move_each_other(card: Card) -> None:
    assert not np.array_equal(moved_beside(card, 1.0), moved_beside(card, 100.0))
    assert np.isnan(moved_beside(card, np.nan)).all()


@every_card(ADAPTIVE)
def test_an_estimate_of_all_moves_each(card: Card) -> None:
    def beside(factor: float) -> np.ndarray:
        a, b = np.ones((2, 3)), np.ones((2, 3))
        optimizer = card.cls([a, b], d0=0.01)
        for k in range(4):
            weights = np.arange(1.0, 7.0).reshape(2, 3)
            optimizer.step(grads=[weights * (a - 3), factor**k * (1 + k) * (b + 4)])
        return a

    # What is not finite ends the estimate, not the steps of the others.
    assert not np.array_equal(beside(1.0), beside(-1.0))
    assert np.isfinite(beside(np.nan)).all()


@every_card(~JOINED, ~CLOSURE)
def test_other_gradients_leave_a_parameter_alone(card: Card) -> None:
    np.testing.assert_array_equal(moved_beside(card, 1.0), moved_beside(card, 100.0))
    assert np.isfinite(moved_beside(card, np.nan)).all()


@every_card(NATIVE)
def test_a_rule_keeps_what_the_card_says(card: Card) -> None:
    from cyoptim._engine import RULES

    optimizer = card.cls([np.ones((1, 1))], **card.history)
    rule = RULES[optimizer._rule_of(optimizer.param_groups[0])]
    arrays = {name for names in (card.states, *card.more_states.values()) for name in names}
    assert {*rule.states} <= arrays - {"step", *card.numbers}


def test_a_source_is_a_package_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lion.py"
    file.write_text("class Lion:\n    steps = 3\n")
    assert Source("Lion", "1a2b3c").load(str(file)).steps == 3
    assert Source("numpy.ndarray", np.__version__).load() is np.ndarray
    assert Source("lion.Lion", "0.2").name == "lion.Lion 0.2"


@pytest.mark.slow
def test_no_card_needs_pytest() -> None:
    # The bench and the site read them, the bench in processes without the package.
    from tests.support.processes import run_python

    code = """
        import sys
        import tests.optimizers
        print(*({"pytest", "cyoptim"} & {*sys.modules}))
    """
    found = run_python(code, check=True).stdout.split()
    assert "pytest" not in found
    if all(card.public for card in CARDS):
        assert "cyoptim" not in found

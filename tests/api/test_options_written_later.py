"""Options that are written into a group after the first step, and do not go together there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import cards
from tests.support.cards import CLOSURE, Card
from tests.support.parametrize import every_card

# The class, its options, those that are written, and the message.
EXCLUSIVE = [
    (
        cyoptim.AdamAtan2,
        {"weight_decay": 0.1},
        {"regen_reg_rate": 0.2},
        "weight_decay 0.1 and regen_reg_rate 0.2 exclude each other: set one of them to 0",
    ),
    (
        cyoptim.SimAdEMAMix,
        {"beta1_warmup": 9},
        {"bias_correction1": True},
        "bias_correction1=True does not go together with beta1_warmup",
    ),
    (
        cyoptim.SimAdEMAMix,
        {"bias_correction1": True},
        {"beta1_warmup": 9},
        "bias_correction1=True does not go together with beta1_warmup",
    ),
    (cyoptim.StableAdamW, {}, {"decouple_lr": True}, "decouple_lr=True needs max_lr"),
    (cyoptim.StableAdamW, {"decouple_lr": True}, {"max_lr": None}, "max_lr must be a number"),
    (cyoptim.AdafactorHF, {}, {"lr": 0.1, "relative_step": True}, "Cannot combine manual `lr`"),
]


@pytest.mark.parametrize(
    ("cls", "options", "written", "message"),
    EXCLUSIVE,
    ids=[f"{row[0].__name__}-{'-'.join(row[2])}" for row in EXCLUSIVE],
)
def test_options_that_exclude_each_other(
    cls: Any, options: dict[str, Any], written: dict[str, Any], message: str
) -> None:
    w = np.ones((2, 3))
    optimizer = cls([w], **options)
    optimizer.step(grads=[w])
    group, held, before = optimizer.param_groups[0], w.copy(), repr(optimizer.state_dict())
    known = {name: group[name] for name in written}
    group.update(written)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=f"options of param group 0: {message}"):
            optimizer.step(grads=[w])
        np.testing.assert_array_equal(w, held)
    group.update(known)
    assert repr(optimizer.state_dict()) == before
    optimizer.step(grads=[w])


NUMBERS = [
    (card, option)
    for card in cards(~CLOSURE)
    for option, default in card.options.items()
    if isinstance(default, float)
]


@pytest.mark.parametrize(("card", "option"), NUMBERS, ids=str)
def test_whole_numbers_that_no_float_can_hold(card: Card, option: str) -> None:
    names = f"{option}|{option.replace('_', ' ')}|epsilon|earning rate|Momentum"
    with pytest.raises((TypeError, ValueError), match=names):
        card.cls([np.ones((2, 2))], **{option: 10**400})


@every_card(~CLOSURE, lambda card: card.name != "Rprop")  # whose first step alone reads it
def test_a_rate_that_no_float_can_hold(card: Card) -> None:
    w = np.ones((2, 2))
    optimizer = card.cls([w], lr=0.1)
    optimizer.param_groups[0]["lr"] = 10**400
    message = "options of param group 0: (lr|learning rate) is a whole number of 1329 bits"
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.step(grads=[card.form(w)])
    np.testing.assert_array_equal(w, 1)


def test_sums_of_a_warm_up_that_was_spoilt_are_saved() -> None:
    w = np.ones(2)
    optimizer = cyoptim.SimAdEMAMix([w], beta1_warmup=3)
    optimizer.step(grads=[w])
    for value in (np.inf, np.nan, -1.0):
        optimizer.param_groups[0]["beta1_warmup"] = value
        assert optimizer.state_dict()["state"][0]["num_sum"] >= 0

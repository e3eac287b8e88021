"""Options of Schedule-Free optimizers: rates of zero, and shares that leave no average, also if they are written later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import MODES, Card, takes
from tests.support.parametrize import every_card


def averages(optimizer: Any) -> None:
    with optimizer.averaged():
        pass


CALLS = {
    "eval": lambda optimizer: optimizer.eval(),
    "averaged": averages,
    "step": lambda optimizer: optimizer.step(grads=[np.ones(3)]),
    "train after eval": lambda optimizer: optimizer.train(),
    "averaged after eval": averages,
}
SHARES = (0.0, 1.0, -0.5, float("nan"), "x", None)


@every_card(MODES)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("share", SHARES)
def test_a_share_without_an_average(card: Card, call: str, share: Any) -> None:
    w = np.ones(3)
    optimizer = getattr(cyoptim, card.name)([w], lr=0.1)
    optimizer.train()
    for _ in range(3):
        optimizer.step(grads=[w])
    if "after eval" in call:
        optimizer.eval()
    held, before = w.copy(), repr(optimizer.state_dict())
    group = optimizer.param_groups[0]
    option = "momentum" if "momentum" in group else "betas"
    known, message = group[option], r"options of param group 0: .*(bet|oment)"
    spoilt: tuple[Any, ...] = (share,) if option == "momentum" else ((share, 0.9), share, ())
    for value in spoilt:
        group[option] = value
        with pytest.raises((TypeError, ValueError), match=message):
            CALLS[call](optimizer)
        np.testing.assert_array_equal(w, held)
    group[option] = known
    assert repr(optimizer.state_dict()) == before


@every_card(MODES, takes("betas"))
def test_betas_that_have_no_average(card: Card) -> None:
    with pytest.raises(ValueError, match="betas\\[0\\] must be > 0"):
        getattr(cyoptim, card.name)([np.ones(3)], betas=(0.0, 0.9))


@pytest.mark.parametrize("power", [0.0, -1.0, 0.5])
@every_card(MODES)
def test_weights_of_rates_of_zero(card: Card, power: float) -> None:
    w, rng = np.ones((4, 5)), np.random.default_rng(0)
    optimizer = getattr(cyoptim, card.name)([w], lr=0.0, weight_lr_power=power)
    optimizer.train()
    for step in range(10):
        optimizer.param_groups[0]["lr"] = 0.0 if step < 2 else 0.1
        optimizer.step(grads=[rng.standard_normal(w.shape)])
    assert np.isfinite(w).all()
    assert not np.array_equal(w, np.ones_like(w))

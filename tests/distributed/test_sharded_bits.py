"""Sharded optimizers have the bits of plain ones, on any number of ranks."""

from __future__ import annotations

import pytest

from tests.support.cards import CLOSURE, DENSE, Card, Options
from tests.support.parametrize import every_variant
from tests.support.sharding import inputs, plain_run, same_everywhere, sharded_run


@every_variant(DENSE, ~CLOSURE, lambda card: card.name not in ("AdamMini", "AdamP", "SGDP"))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_as_the_plain_optimizer(card: Card, options: Options, size: int) -> None:
    """If all ranks have one gradient, two or four of it are exact."""
    start, grads = inputs(card)
    expected = plain_run(card, options, start, grads)
    same_everywhere(sharded_run(size, card, options, start, grads), expected)

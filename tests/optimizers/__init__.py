"""**Optimizers**: a file each, with its reference, slow and obvious float64 NumPy line for line from the
paper, and its card. Each file is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.support.cards import Card, Options, Wish

CARDS: tuple[Card, ...] = tuple(
    sorted(
        (
            importlib.import_module(f"{__name__}.{module.name}").CARD
            for module in pkgutil.iter_modules(__path__)
        ),
        key=lambda card: card.name.lower(),
    )
)
BY_NAME = {card.name: card for card in CARDS}


def cards(*wishes: Wish) -> list[Card]:
    """Those that have all these traits."""
    return [card for card in CARDS if all(wish(card) for wish in wishes)]


def variants(*wishes: Wish) -> list[tuple[Card, Options]]:
    """Optimizers with each of the options under which they are tested, where they have all these traits."""
    every = [(card.under(options), options) for card in CARDS for options in card.variants]
    return [(card, options) for card, options in every if all(wish(card) for wish in wishes)]


def label(options: Options) -> str:
    """Options in the name of a test."""
    return "-".join(f"{name}={value}" for name, value in options.items()) or "defaults"

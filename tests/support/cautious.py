"""Caution and cautious weight decay in slow float64, around the reference of any optimizer whose step is
``p = (1 - lr * weight_decay) * p - u``, or whose decay is a part of the gradient.

``caution`` is algorithm 1 of Liang et al. (2024), with the scale of the authors' C-AdamW, which is timm's too;
``cautious_wd`` is equation 1 of Chen et al. (2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.optimizers import cards
from tests.support.cards import CAUTIOUS, Card, Options

EXECUTION = {"foreach", "fused", "capturable", "differentiable"}


def has_caution(card: Card) -> bool:
    """Whether its groups have the options, only where they are set."""
    return bool(card.cls._cautious_options)


def forms(card: Card) -> list[Options]:
    """The cautious forms of an optimizer, with every option that goes with them."""
    found = []
    for variant in card.variants:
        options = {**card.options, **variant}
        if options.get("momentum", 1) == 0:
            continue
        found.append({**variant, "caution": True})
        if options.get("decoupled_weight_decay", card.takes("cautious_wd")):
            found.append({**variant, "weight_decay": 0.1, "cautious_wd": True})
            found.append({**variant, "weight_decay": 0.1, "caution": True, "cautious_wd": True})
    return found


FORMS = [(card, options) for card in cards(has_caution) for options in forms(card)]


def decays_by_the_gradient(card: Card, options: Options) -> bool:
    """Whether the decay is a part of the gradient: it lives on in the momentum, where the parameter is zero."""
    ends = []
    for decay in (options["weight_decay"], 0.0):
        p, reference = np.ones(1), card.reference(**{**options, "weight_decay": decay})
        for _ in range(3):
            reference.step([p], [np.zeros(1)])
        p[0] = 0
        reference.step([p], [np.zeros(1)])
        ends.append(p[0])
    return bool(ends[0] != ends[1])


class Cautious:
    def __init__(self, card: Card, options: Options) -> None:
        options = {**card.options, **options}
        self.caution = options.get("caution", False)
        self.cautious_wd = options.get("cautious_wd", False)
        known = {*card.options} - CAUTIOUS - EXECUTION
        options = {name: value for name, value in options.items() if name in known}
        self.sign = -1 if options["maximize"] else 1
        within = decays_by_the_gradient(card, options)
        self.penalty = self.sign * options["weight_decay"] if within else 0
        self.plain, self.from_zero = card.reference(**options), card.reference(**options)

    def step(self, params: list[Any], grads: list[Any]) -> None:
        pairs = list(zip(params, grads, strict=True))
        towards = [None if g is None else g + self.penalty * p for p, g in pairs]
        moved, plain = [np.zeros_like(p) for p in params], [p.copy() for p in params]
        self.from_zero.step(moved, towards)  # where nothing decays
        self.plain.step(plain, grads)
        for p, g, minus_u, whole in zip(params, towards, moved, plain, strict=True):
            if g is not None and p.size:
                self._move(p, self.sign * g, -minus_u, whole - minus_u)

    def _move(self, p: Any, g: Any, u: Any, decayed: Any) -> None:
        if self.caution:
            mask = np.sign(u) * np.sign(g) > 0
            u = np.where(mask | np.isnan(u), u, 0) / max(np.mean(mask), 1e-3)
        decays = np.sign(u) * np.sign(p) >= 0 if self.cautious_wd else True
        p[...] = np.where(decays, decayed, p) - u

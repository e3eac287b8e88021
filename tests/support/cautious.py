"""Caution and cautious weight decay in slow float64, around the reference of any optimizer whose step is
``p = (1 - lr * weight_decay) * p - u``, or whose decay is a part of the gradient.

``caution`` is algorithm 1 of Liang et al. (2024), with the scale of the authors' C-AdamW, which is timm's too;
``cautious_wd`` is equation 1 of Chen et al. (2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.cards import Card, Options


class Cautious:
    def __init__(self, card: Card, options: Options) -> None:
        options = {**card.only(**card.options), **options}
        self.caution = options.pop("caution", False)
        self.cautious_wd = options.pop("cautious_wd", False)
        self.decoupled = options.get("decoupled_weight_decay", card.takes("cautious_wd"))
        self.lr, self.weight_decay = options["lr"], options["weight_decay"]
        self.sign = -1 if options["maximize"] else 1
        known = ("foreach", "fused", "capturable", "differentiable")
        options = {name: value for name, value in options.items() if name not in known}
        self.inner = card.reference(**{**options, "weight_decay": 0})

    def step(self, params: list[Any], grads: list[Any]) -> None:
        penalty = 0 if self.decoupled else self.sign * self.weight_decay
        pairs = list(zip(params, grads, strict=True))
        grads = [None if g is None else g + penalty * p for p, g in pairs]
        moved = [np.zeros_like(p) for p in params]
        self.inner.step(moved, grads)  # from zero, where nothing decays
        for p, g, u in zip(params, grads, moved, strict=True):
            if g is not None and p.size:
                self._move(p, self.sign * g, -u)

    def _move(self, p: Any, g: Any, u: Any) -> None:
        if self.caution:
            mask = np.sign(u) * np.sign(g) > 0
            u = np.where(mask | np.isnan(u), u, 0) / max(np.mean(mask), 1e-3)
        decays = np.sign(u) * np.sign(p) >= 0 if self.cautious_wd else True
        rate = self.lr * self.weight_decay if self.decoupled else 0
        p[...] = np.where(decays, (1 - rate) * p, p) - u

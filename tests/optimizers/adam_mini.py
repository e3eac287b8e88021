"""Adam-mini: algorithm 2 of Zhang et al. (2024), with the units of the authors' code.

The card is of groups that say their unit; names are tested in tests/algorithms/test_adam_mini.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tests.support.bad_options import EPS, MOMENTS
from tests.support.cards import (
    COMPLEX,
    ELEMENT_WISE,
    KERNEL,
    RULE,
    Card,
    Quotient,
    Recipe,
    Source,
    Timed,
)


class AdamMini:
    def __init__(
        self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, unit="tensor",
        head_numel=1, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.m, self.v, self.t = {}, {}, {}

    def means(self, x):
        """The mean of each unit."""
        if self.unit == "head":
            return np.mean(x.reshape(-1, self.head_numel), axis=1, keepdims=True)
        if self.unit == "row" and x.ndim > 1:
            return np.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)
        return x if self.unit == "element" else np.mean(x)

    def spread(self, v, p):
        """For each element, the number of its unit."""
        if self.unit == "head":
            return np.broadcast_to(v, (len(v), self.head_numel)).reshape(p.shape)
        return v

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            d = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            m = self.m[i] = beta1 * self.m.get(i, 0.0) + (1 - beta1) * d
            v = self.v[i] = beta2 * self.v.get(i, 0.0) + (1 - beta2) * self.means(d * d)
            root = np.sqrt(self.spread(v, p) / (1 - beta2**t))
            p[...] = (1 - self.lr * self.weight_decay) * p
            p[...] = p - self.lr / (1 - beta1**t) * m / (root + self.eps)


@cache
def of_units(mini: Any) -> Any:
    """The class whose groups all have one kind of unit, an option."""
    from cyoptim import Optimizer
    from cyoptim._groups.storage import with_storage

    class AdamMini(mini):  # type: ignore[misc]
        @with_storage
        def __init__(self, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, *, unit: str = "tensor", head_numel: int = 1, maximize: bool = False, **storage: Any) -> None:  # fmt: skip
            defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, unit=unit, head_numel=head_numel, maximize=maximize, **storage)  # fmt: skip
            self._check_options(defaults)
            Optimizer.__init__(self, params, defaults)

        def _defaults_for(self, group: Any, defaults: Any) -> Any:
            return defaults

    AdamMini.__module__, AdamMini.__qualname__ = __name__, "OfUnits"
    return AdamMini


def __getattr__(name: str) -> Any:  # for pickles of the class above
    if name == "OfUnits":
        import cyoptim

        return of_units(cyoptim.AdamMini)
    raise AttributeError(name)


def shape_of_means(options: Any) -> tuple[int, ...]:
    """Of a parameter of shape (2, 3)."""
    return {"row": (2, 1), "head": (6, 1)}.get(options.get("unit"), ())


# Names that the authors' code gives these units.
NAMES = {"element": "bias", "head": "wq", "row": "mlp", "tensor": "scale"}


def as_here(theirs: Any) -> Any:
    """The authors' class, of parameters without names, with one group of matrices, and one of vectors. Of more than
    two axes, it takes rows as those of a matrix."""

    class Adam_mini(theirs):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, *, unit: str = "tensor", head_numel: int = 1) -> None:  # fmt: skip
            self.pairs = [
                (p, p.detach().view(len(p), -1) if unit == "row" and p.ndim > 2 else p)
                for p in params
            ]
            named = [
                (NAMES["tensor" if unit == "row" and p.ndim < 2 else unit], p)
                for _, p in self.pairs
            ]
            for _, p in self.pairs:
                p.requires_grad_()
            size = head_numel
            super().__init__(
                named, lr, betas, eps, weight_decay, dim=size, n_heads=size, verbose=False
            )
            groups: dict[str, Any] = {}
            for group in self.param_groups:
                same = groups.setdefault(group["name"], group)
                if same is not group:
                    same["params"] += group["params"]
            self.param_groups = list(groups.values())

        def step(self, closure: Any = None) -> None:
            for p, matrix in self.pairs:
                if matrix is not p:
                    matrix.grad = None if p.grad is None else p.grad.view(matrix.shape)
            super().step(closure)

    return Adam_mini


CARD = Card(
    "AdamMini",
    AdamMini,
    traits=RULE - {ELEMENT_WISE, KERNEL, COMPLEX},
    adapted=of_units,
    variants=(
        {},
        {"lr": 0.05, "weight_decay": 0.1},
        {"lr": 0.05, "unit": "row", "weight_decay": 0.1},
        {"lr": 0.05, "unit": "head", "betas": (0.8, 0.95)},
        {"lr": 0.05, "unit": "row", "betas": (0.8, 0.95), "eps": 0.1, "maximize": True},
    ),
    states=("step", "m", "vmean"),
    state_shapes={"vmean": shape_of_means},
    doubles=("vmean",),
    kept={"m": "m", "vmean": "v"},
    bad=(
        *MOMENTS,
        *EPS,
        ({"unit": "column"}, ValueError, "write 'element', 'head', 'row' or 'tensor'"),
        ({"head_numel": 0}, ValueError, "Invalid head_numel value: 0"),
        ({"head_numel": 1.5}, ValueError, "Invalid head_numel value: 1.5"),
        ({"head_numel": np.inf}, ValueError, "Invalid head_numel value: inf (expected a finite"),
    ),
    quotient=Quotient(
        lambda options: 1 - float(options.get("betas", (0.9, 0.999))[1]),
        ({}, {"unit": "row"}, {"unit": "head", "betas": (0.9, 0.99999)}, {"unit": "element"}),
    ),
    source=Source(
        "adam_mini.Adam_mini",
        "1.1.1",
        place="adam-mini",
        twin=as_here,
        removed="names; parameters of more than two axes by rows go as matrices",
        variants=(
            {},
            {"lr": 0.05, "weight_decay": 0.1},
            {"lr": 0.05, "unit": "row", "weight_decay": 0.1},
            {"lr": 0.05, "unit": "head", "betas": (0.8, 0.95)},
            {"lr": 0.05, "unit": "element", "eps": 0.1},
        ),
    ),
    timed=(Timed(2, passes=("g", "gPM")),),
    drawing=Recipe(
        'cyoptim.AdamMini([("scale", p)], lr=0.1)',
        "One average of squares for both coordinates: the step has the direction of the momentum.",
    ),
)

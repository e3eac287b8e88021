"""Muon with Adam beside it, in float64, from Jordan et al. (2024).

The card is of its groups that Muon steps; `tests/algorithms/test_muon.py` has groups of both kinds.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from tests.optimizers.muon import QUINTIC, newton_schulz
from tests.support.bad_options import MISSPELT, RATE_NO_NUMBER
from tests.support.cards import CHECKED, DENSE, MATRICES, Card, Recipe, Source


class OfMatrices:
    def __init__(self, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, *, nesterov: bool = True, ns_steps: int = 5, ns_coefficients: Any = QUINTIC, adjust_lr_fn: Any = None, layout: Any = None, maximize: bool = False):  # fmt: skip
        self.__dict__.update(locals())
        self.b: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        mu = self.momentum
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            b = self.b[i] = mu * self.b.get(i, 0.0) + (1 - mu) * g
            m = mu * b + (1 - mu) * g if self.nesterov else b
            layout = self.layout or ("conv" if p.ndim == 4 else "stack")
            stack = m.reshape((1, len(m), -1) if layout == "conv" else (-1, *m.shape[-2:]))
            o = np.array([self.orthogonal(matrix) for matrix in stack])
            rows, columns = o.shape[-2:] if self.adjust_lr_fn else p.shape[-2:]
            if self.adjust_lr_fn == "match_rms_adamw":
                ratio = 0.2 * np.sqrt(max(rows, columns))
            else:
                ratio = np.sqrt(max(1, rows / columns))
            p *= 1 - self.lr * self.weight_decay
            p -= self.lr * ratio * o.reshape(p.shape)

    def orthogonal(self, m: Any) -> Any:
        m = m / (np.linalg.norm(m) + 1e-7)
        return newton_schulz(m, [self.ns_coefficients] * self.ns_steps)


@cache
def of_matrices(hybrid: Any) -> Any:
    """The class whose groups are all Muon's, with its options as arguments."""
    from cyoptim import Optimizer

    class MuonWithAuxAdam(hybrid):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, *, nesterov: bool = True, ns_steps: int = 5, ns_coefficients: Any = QUINTIC, adjust_lr_fn: Any = None, layout: Any = None, maximize: bool = False) -> None:  # fmt: skip
            defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, ns_steps=ns_steps, ns_coefficients=ns_coefficients, adjust_lr_fn=adjust_lr_fn, layout=layout, maximize=maximize)  # fmt: skip
            self._check_options({"use_muon": True, **defaults})
            Optimizer.__init__(self, params, defaults)

        def _defaults_for(self, group: Any, defaults: Any) -> Any:
            return {"use_muon": True, **defaults}

        def _check_kind(self, group: Any, number: int) -> None:
            pass

    MuonWithAuxAdam.__module__, MuonWithAuxAdam.__qualname__ = __name__, "MuonWithAuxAdam"
    return MuonWithAuxAdam


def __getattr__(name: str) -> Any:  # for pickles of the class above
    if name == "MuonWithAuxAdam":
        import cyoptim

        return of_matrices(cyoptim.MuonWithAuxAdam)
    raise AttributeError(name)


def as_here(theirs: Any) -> Any:
    """The authors' class, with the iteration in float64, and where a missing gradient changes
    nothing: they take it for zeros. They write into gradients, so each step gets copies."""
    import torch

    def iterate(m: Any, steps: int) -> Any:
        stack = m.double().numpy().reshape(-1, *m.shape[-2:])
        lengths = np.linalg.norm(stack, axis=(1, 2), keepdims=True) + 1e-7
        found = [newton_schulz(x, [QUINTIC] * steps) for x in stack / lengths]
        return torch.from_numpy(np.array(found).reshape(m.shape)).to(m.dtype)

    class Twin(theirs):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:  # fmt: skip
            options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
            super().__init__([{"params": list(params), "use_muon": True, **options}])

        def step(self, closure: Any = None) -> None:
            (group,) = self.param_groups
            members = group["params"]
            group["params"] = [p for p in members if p.grad is not None]
            for p in group["params"]:
                p.grad = p.grad.clone()
            of_the_file = theirs.__init__.__globals__
            with mock.patch.dict(of_the_file, zeropower_via_newtonschulz5=iterate):
                super().step(closure)
            group["params"] = members

    return Twin


CARD = Card(
    "MuonWithAuxAdam",
    OfMatrices,
    traits=frozenset({DENSE, MATRICES, CHECKED}),
    adapted=of_matrices,
    variants=(
        {},
        {"lr": 0.1, "weight_decay": 0.25},
        {"lr": 0.05, "momentum": 0.5},
        {"lr": 0.1, "nesterov": False, "maximize": True},
        {"lr": 0.1, "adjust_lr_fn": "original", "layout": "stack"},
        {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "layout": "conv"},
        {"lr": 0.1, "ns_steps": 2, "ns_coefficients": (1.5, -0.5, 0.0)},
    ),
    states=("momentum_buffer",),
    kept={"momentum_buffer": "b"},
    bad=(
        *RATE_NO_NUMBER,
        *MISSPELT,
        ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
        ({"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
        ({"momentum": -0.1}, ValueError, "momentum should be >= 0 but is: -0.1"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay should be >= 0 but is: -0.1"),
        ({"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ({"ns_coefficients": (1, 2)}, ValueError, "must be a tuple of exactly 3 values"),
        ({"adjust_lr_fn": "any"}, ValueError, "function any is not supported"),
        ({"layout": "rows"}, ValueError, "layout 'rows' is not supported"),
    ),
    source=Source(
        "SingleDeviceMuonWithAuxAdam",
        "857d1ad",
        place="KellerJordan/Muon",
        twin=as_here,
        removed="its rounding to bfloat16, and steps without a gradient",
    ),
    drawing=Recipe(
        'cyoptim.MuonWithAuxAdam([{"params": [p], "use_muon": True, "lr": 0.025}])',
        "As `Muon`; groups with `use_muon=False` go as `AdamW`.",
        shape=(2, 1),
    ),
)

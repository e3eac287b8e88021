"""Muon with Adam beside it, in float64, from Jordan et al. (2024).

The card is of its groups that Muon steps; `tests/algorithms/test_muon_groups.py` has groups of both kinds.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from tests.optimizers.muon import POLAR_EXPRESS, QUINTIC, newton_schulz
from tests.support.bad_options import MISSPELT, RATE_NO_NUMBER
from tests.support.cards import CHECKED, DENSE, MATRICES, Card, Recipe, Source


class OfMatrices:
    def __init__(self, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, *, nesterov: bool = True, ns_steps: int = 5, ns_coefficients: Any = "quintic", adjust_lr_fn: Any = None, layout: Any = None, variance: bool = False, beta2: float = 0.95, cautious_wd: bool = False, maximize: bool = False):  # fmt: skip
        self.__dict__.update(locals())
        self.b: dict[int, Any] = {}
        self.v: dict[int, Any] = {}

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
            if self.variance:
                o = self.normalized(i, o.reshape(p.shape)).reshape(stack.shape)
            rows, columns = o.shape[-2:] if self.adjust_lr_fn else p.shape[-2:]
            if self.adjust_lr_fn == "match_rms_adamw":
                ratio = 0.2 * np.sqrt(max(rows, columns))
            else:
                ratio = np.sqrt(max(1, rows / columns))
            o = o.reshape(p.shape)
            p *= 1 - self.lr * self.weight_decay * (o * p > 0 if self.cautious_wd else 1)
            p -= self.lr * ratio * o

    def orthogonal(self, m: Any) -> Any:
        coefficients, safety = self.ns_coefficients, 1.0
        if coefficients == "polar_express":
            coefficients, safety = POLAR_EXPRESS, 1.01
        elif coefficients == "quintic":
            coefficients = QUINTIC
        triples = [coefficients] if np.ndim(coefficients) == 1 else list(coefficients)
        triples = (triples + triples[-1:] * self.ns_steps)[: self.ns_steps]
        return newton_schulz(m / (safety * np.linalg.norm(m) + 1e-7), triples)

    def normalized(self, i: int, o: Any) -> Any:
        """NorMuon (Li et al. 2025), algorithm 1."""
        length = np.linalg.norm(o, axis=(-2, -1), keepdims=True)
        mean = np.mean(o * o, axis=-1, keepdims=True)
        v = self.v[i] = self.beta2 * self.v.get(i, 0.0) + (1 - self.beta2) * mean
        o = o / (np.sqrt(v) + 1e-10)
        return o * length / (np.linalg.norm(o, axis=(-2, -1), keepdims=True) + 1e-10)


@cache
def of_matrices(hybrid: Any) -> Any:
    """The class whose groups are all Muon's, with its options as arguments."""
    from cyoptim import Optimizer

    class MuonWithAuxAdam(hybrid):  # type: ignore[misc]
        def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, *, nesterov: bool = True, ns_steps: int = 5, ns_coefficients: Any = "quintic", adjust_lr_fn: Any = None, layout: Any = None, variance: bool = False, beta2: float = 0.95, cautious_wd: bool = False, maximize: bool = False) -> None:  # fmt: skip
            defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, ns_steps=ns_steps, ns_coefficients=ns_coefficients, adjust_lr_fn=adjust_lr_fn, layout=layout, variance=variance, beta2=beta2, cautious_wd=cautious_wd, maximize=maximize)  # fmt: skip
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
        def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0, **normuon: Any) -> None:  # fmt: skip
            options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
            options |= {"beta2": normuon["beta2"]} if "beta2" in normuon else {}
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
        {"lr": 0.1, "ns_steps": 3, "ns_coefficients": [(3.0, -3.2, 1.2), (1.5, -0.5, 0.0)]},
        {"lr": 0.1, "ns_coefficients": "polar_express", "cautious_wd": True, "weight_decay": 0.5},
        {"lr": 0.1, "ns_steps": 10, "ns_coefficients": "polar_express"},
        {"lr": 0.1, "variance": True},
        {"lr": 0.1, "variance": True, "beta2": 0.5, "cautious_wd": True, "weight_decay": 0.25},
    ),
    states=("momentum_buffer",),
    more_states={"variance": ("second_momentum_buffer",)},
    state_shapes={"second_momentum_buffer": (2, 1)},
    history={"variance": True},
    kept={"momentum_buffer": "b", "second_momentum_buffer": "v"},
    bad=(
        *RATE_NO_NUMBER,
        *MISSPELT,
        ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
        ({"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
        ({"momentum": -0.1}, ValueError, "momentum should be >= 0 but is: -0.1"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay should be >= 0 but is: -0.1"),
        ({"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ({"ns_coefficients": (1, 2)}, ValueError, "must be a tuple of exactly 3 values"),
        ({"ns_coefficients": "cubic"}, ValueError, "'cubic' is not supported: write 'quintic'"),
        ({"ns_coefficients": 3.5}, TypeError, "must be a name, three numbers or a list"),
        ({"ns_coefficients": None}, TypeError, "ns_coefficients must be a name, three numbers or"),
        ({"ns_coefficients": [(1, 2, 3), 4]}, TypeError, "ns_coefficients[1] must be three num"),
        (
            {"ns_coefficients": [(1, 2, 3), "abc"]},
            TypeError,
            "ns_coefficients[1] must be three num",
        ),
        ({"ns_coefficients": [4, (1, 2, 3), 5]}, TypeError, "ns_coefficients[1] must be a number"),
        ({"ns_coefficients": [(1, 2, "3")]}, TypeError, "ns_coefficients[0][2] must be a number"),
        (
            {"ns_coefficients": [(1, 2, float("inf"))]},
            ValueError,
            "Invalid ns_coefficients[0][2] value: inf (expected a finite number)",
        ),
        ({"ns_steps": 2.5}, ValueError, "Invalid ns_steps value: 2.5 (expected a whole number"),
        ({"beta2": 1.5}, ValueError, "Invalid beta2 value: 1.5 (expected 0 to 1)"),
        ({"adjust_lr_fn": "any"}, ValueError, "function any is not supported"),
        ({"layout": "rows"}, ValueError, "layout 'rows' is not supported"),
        ({"layout": ["conv"]}, ValueError, "layout ['conv'] is not supported"),
    ),
    source=Source(
        "SingleDeviceMuonWithAuxAdam",
        "857d1ad",
        place="KellerJordan/Muon",
        twin=as_here,
        removed="its rounding to bfloat16, and steps without a gradient",
    ),
    more_sources={
        "NorMuon": Source(
            "SingleDeviceNorMuonWithAuxAdam",
            "d45c9a4",
            place="zichongli5/NorMuon",
            twin=as_here,
            removed="its rounding to bfloat16, and steps without a gradient",
            variants=(
                {"lr": 0.1, "variance": True},
                {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.2, "variance": True, "beta2": 0.5},
            ),
        ),
    },
    drawing=Recipe(
        'cyoptim.MuonWithAuxAdam([{"params": [p], "use_muon": True, "lr": 0.025}])',
        "As `Muon`; groups with `use_muon=False` go as `AdamW`.",
        shape=(2, 1),
    ),
)

"""Muon in float64, from Jordan et al. (2024)."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

from tests.support.bad_options import COMMON, RATE_OF_LATE
from tests.support.cards import CHECKED, DENSE, MATRICES, Card, Recipe, Valley

QUINTIC = (3.4445, -4.7750, 2.0315)
# From the program of Amsel et al. (2025), `The Polar Express`.
POLAR_EXPRESS = [
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
]


def newton_schulz(g: Any, triples: Any) -> Any:
    """The iteration, each time with these coefficients, from a matrix of a length near 1."""
    x = g.T if g.shape[0] > g.shape[1] else g
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def orthogonal(g: Any, coefficients: Any, steps: int, eps: float) -> Any:
    return newton_schulz(g / (max(np.linalg.norm(g), eps) or 1), [coefficients] * steps)


class Muon:
    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True, ns_coefficients: Any = QUINTIC, eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: Any = None):  # fmt: skip
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.nesterov, self.adjust_lr_fn = nesterov, adjust_lr_fn
        self.iteration = (ns_coefficients, ns_steps, eps)
        self.state: dict[int, Any] = {}

    def step(self, params: list[Any], grads: list[Any]) -> None:
        mu = self.momentum
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            b = mu * self.state.get(i, 0.0) + (1 - mu) * g
            self.state[i] = b
            o = orthogonal(mu * b + (1 - mu) * g if self.nesterov else b, *self.iteration)
            n, m = p.shape
            if self.adjust_lr_fn == "match_rms_adamw":
                ratio = 0.2 * np.sqrt(max(n, m))
            else:
                ratio = np.sqrt(max(1, n / m))
            p *= 1 - self.lr * self.weight_decay
            p -= self.lr * ratio * o


def in_full_precision(theirs: Any) -> Any:
    """torch's Muon with its iteration in float64.

    torch iterates in bfloat16, which keeps 8 bits; all else in its Muon is exact, and can then be
    compared to rounding.
    """
    import torch

    def iterate(grad: Any, coefficients: Any, steps: int, eps: float) -> Any:
        result = orthogonal(grad.double().numpy(), coefficients, steps, eps)
        return torch.from_numpy(np.ascontiguousarray(result)).to(grad.dtype)

    class Muon(theirs):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            with mock.patch.object(torch.optim._muon, "_zeropower_via_newtonschulz", iterate):
                return super().step(closure)

    return Muon


CARD = Card(
    "Muon",
    Muon,
    traits=frozenset({DENSE, MATRICES, CHECKED}),
    torch="Muon",
    torch_twin=in_full_precision,
    variants=(
        {},
        {"lr": 0.1, "weight_decay": 0.0},
        {"lr": 0.1, "momentum": 0.5, "nesterov": False},
        {"lr": 0.1, "adjust_lr_fn": "original"},
        {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"},
        {"lr": 0.1, "ns_steps": 2, "ns_coefficients": (1.5, -0.5, 0.0), "eps": 1e-3},
        {"lr": 0.05, "momentum": 0.5, "ns_steps": 3, "eps": 1e-6, "weight_decay": 0.25},
    ),
    states=("momentum_buffer",),
    kept={"momentum_buffer": "state"},
    bad_as_torch=(
        *RATE_OF_LATE,
        ({"lr": -0.1}, ValueError, "Learning rate should be >= 0 but is: -0.1"),
        ({"momentum": -0.1}, ValueError, "momentum should be >= 0 but is: -0.1"),
        ({"weight_decay": -0.1}, ValueError, "weight decay should be >= 0 but is: -0.1"),
        (
            {"adjust_lr_fn": "arbitrary"},
            ValueError,
            "Adjust learning rate function arbitrary is not supported",
        ),
    ),
    bad=(
        *COMMON,
        ({"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ({"ns_steps": 2.5}, ValueError, "Invalid ns_steps value: 2.5 (expected a whole number"),
        ({"ns_steps": None}, TypeError, "ns_steps must be a number, got NoneType"),
        ({"eps": float("nan")}, ValueError, "Invalid eps value: nan (expected a finite number)"),
        ({"adjust_lr_fn": ["original"]}, ValueError, "adjust_lr_fn is None, 'original'"),
        (
            {"ns_coefficients": (1, 2)},
            ValueError,
            "must be a tuple of exactly 3 values, got (1, 2)",
        ),
        ({"ns_coefficients": None}, TypeError, "ns_coefficients must be three numbers, got None"),
        ({"ns_coefficients": "abc"}, TypeError, "ns_coefficients must be three numbers, got 'abc'"),
        ({"ns_coefficients": ((1, 2, 3),) * 3}, TypeError, "ns_coefficients[0] must be a number"),
        (
            {"ns_coefficients": (1, None, 2)},
            TypeError,
            "ns_coefficients[1] must be a number, got N",
        ),
        (
            {"ns_coefficients": (1, 2, float("nan"))},
            ValueError,
            "Invalid ns_coefficients[2] value: nan (expected a finite number)",
        ),
    ),
    drawing=Recipe(
        "cyoptim.Muon([p], lr=0.025, weight_decay=0)",
        "A matrix of two rows, whose step has one length whatever the gradient's: it circles "
        "the minimum at that distance until a schedule takes the rate down.",
        shape=(2, 1),
    ),
    valley=Valley({"lr": 0.02, "weight_decay": 0}, 0.999),
)

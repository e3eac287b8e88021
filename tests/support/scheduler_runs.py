"""Optimizers of ours and of torch for schedulers to drive, and what comes of it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

import cyoptim
from tests.support.scheduler_cases import (
    ALONE,
    CASE_OF,
    LRS,
    SCENARIOS,
    SEVERAL,
    Scenario,
    advance,
    make_optimizer,
)

OURS: dict[str, Scenario] = {
    "WarmupCosineLR": Scenario(
        lambda lib, o: [lib.WarmupCosineLR(o, 10, 60, start_factor=0.1, end_factor=0.01)]
    ),
    "WarmupStableDecayLR": Scenario(lambda lib, o: [lib.WarmupStableDecayLR(o, 10, 20, 30)]),
    "InverseSqrtLR": Scenario(lambda lib, o: [lib.InverseSqrtLR(o, 10)]),
}
ALL_SCENARIOS = {**SCENARIOS, **OURS}
ONE_SCHEDULER = [name for name in ALL_SCENARIOS if name not in SEVERAL]
CLOSED_FORM = [name for name in ALONE if CASE_OF[name].closed_form] + list(OURS)


def still() -> cyoptim.Parameter:
    """A parameter that steps do not move; without a gradient, a first step would warn."""
    return cyoptim.Parameter(np.zeros(3), grad=np.zeros(3))


def sgd(*lrs: Any, **options: Any) -> cyoptim.SGD:
    groups = [{"params": [still()], "lr": lr} for lr in lrs or (1.0,)]
    return cyoptim.SGD(groups, **options)


def ours(name: str = "SGD", lrs: Any = LRS) -> Any:
    return make_optimizer(cyoptim, name, [still() for _ in lrs], lrs)


def theirs(torch: Any, name: str = "SGD", lrs: Any = LRS) -> Any:
    params = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in lrs]
    return make_optimizer(torch.optim, name, params, lrs)


def lrs_of(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def step(optimizer: Any, *schedulers: Any, times: int = 1) -> None:
    advance(optimizer, schedulers, times)


def run(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
    """The first group's learning rates from now on."""
    return [lrs_of(optimizer)[0]] + [rows[0] for rows in advance(optimizer, [scheduler], steps)]


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=tolerance)


def quiet(call: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def recorded(call: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return found


def cosine_of(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2

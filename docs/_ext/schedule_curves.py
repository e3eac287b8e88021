"""Runs the code of every schedule's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import cyoptim

STEPS = 100
OPTIMIZER = "optimizer = cyoptim.SGD([p], lr=0.1, momentum=0.9)"
IMPORT = "from cyoptim.lr_scheduler import"

CODE = {
    "LambdaLR": "scheduler = LambdaLR(optimizer, lambda epoch: 1 / (1 + 0.05 * epoch))",
    "MultiplicativeLR": (
        "scheduler = MultiplicativeLR(optimizer, lambda epoch: 0.5 if epoch % 25 == 0 else 0.99)"
    ),
    "StepLR": "scheduler = StepLR(optimizer, step_size=30, gamma=0.5)",
    "MultiStepLR": "scheduler = MultiStepLR(optimizer, milestones=[20, 60, 80], gamma=0.5)",
    "ExponentialLR": "scheduler = ExponentialLR(optimizer, gamma=0.97)",
    "ConstantLR": "scheduler = ConstantLR(optimizer, factor=0.25, total_iters=30)",
    "LinearLR": "scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=60)",
    "PolynomialLR": "scheduler = PolynomialLR(optimizer, total_iters=80, power=2)",
    "CosineAnnealingLR": "scheduler = CosineAnnealingLR(optimizer, T_max=100, eta_min=0.01)",
    "CosineAnnealingWarmRestarts": (
        "scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=15, T_mult=2)"
    ),
    "CyclicLR": ('scheduler = CyclicLR(optimizer, 0.01, 0.1, step_size_up=15, mode="triangular2")'),
    "OneCycleLR": "scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=101)",
    "ReduceLROnPlateau": (
        "scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=10)\n"
        "# scheduler.step(loss), of which the dotted line is the loss"
    ),
    "SequentialLR": (
        "warmup = LinearLR(optimizer, start_factor=0.1, total_iters=20)\n"
        "decay = ExponentialLR(optimizer, gamma=0.97)\n"
        "scheduler = SequentialLR(optimizer, [warmup, decay], milestones=[20])"
    ),
    "ChainedScheduler": (
        "warmup = LinearLR(optimizer, start_factor=0.1, total_iters=20)\n"
        "steps = StepLR(optimizer, step_size=30, gamma=0.5)\n"
        "scheduler = ChainedScheduler([warmup, steps])"
    ),
    "WarmupCosineLR": "scheduler = WarmupCosineLR(optimizer, warmup_steps=15, total_steps=100)",
    "WarmupStableDecayLR": (
        "scheduler = WarmupStableDecayLR(\n"
        "    optimizer, warmup_steps=15, stable_steps=55, decay_steps=30\n"
        ")"
    ),
    "InverseSqrtLR": "scheduler = InverseSqrtLR(optimizer, warmup_steps=15)",
    "SWALR": "scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=40)",
}


@dataclass
class Curve:
    code: str
    rates: list[float]
    momenta: list[float]
    losses: list[float]  # the metrics passed to the schedule, if it takes any


def run(name: str) -> Curve:
    names: dict[str, Any] = {"cyoptim": cyoptim, "p": np.zeros(1)}
    names |= vars(cyoptim.lr_scheduler) | {"SWALR": cyoptim.swa_utils.SWALR}
    exec(f"{OPTIMIZER}\n{CODE[name]}", names)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    told = isinstance(scheduler, cyoptim.lr_scheduler.ReduceLROnPlateau)
    curve = Curve(f"{OPTIMIZER}\n{CODE[name]}", [], [], [])
    for step in range(STEPS + 1):
        group = optimizer.param_groups[0]
        curve.rates.append(group["lr"])
        curve.momenta.append(group["momentum"])
        optimizer.step(grads=[None])
        if told:
            curve.losses.append(_loss(step))
        if step < STEPS:
            scheduler.step(*curve.losses[-1:])
    if len(set(curve.momenta)) == 1:
        curve.momenta = []
    return curve


def _loss(step: int) -> float:
    """An artificial loss that falls to three plateaus in turn."""
    falls = ((0, 1.0, 1.5), (35, 0.5, 1.5), (68, 0.25, 1.5))
    return 0.1 + sum(
        height * (np.exp(-(step - start) / time) if step >= start else 1.0)
        for start, height, time in falls
    )

"""One row per scheduler: variants that run alike under cyoptim and torch, and how they are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Variant = dict[str, Any]
Row = list[float]  # per group its learning rate, then per group its momentum


def hyperbola(epoch: int) -> float:
    return 1 / (1 + 0.05 * epoch)


def decline(epoch: int) -> float:
    return 0.995 if epoch % 3 else 0.98


def root(x: float) -> float:
    return 1 / math.sqrt(x)


@dataclass(frozen=True)
class SchedulerCase:
    """A scheduler as the tests see it."""

    name: str
    variants: tuple[Variant, ...]
    closed_form: bool = True  # beside the one that goes on from the present learning rate

    def __repr__(self) -> str:
        return self.name


CASES = (
    SchedulerCase(
        "StepLR", ({"step_size": 1, "gamma": 0.97}, {"step_size": 7}, {"step_size": 400})
    ),
    SchedulerCase(
        "MultiStepLR",
        (
            {"milestones": [3, 8, 8, 60]},
            {"milestones": [0, 40], "gamma": 0.5},
            {"milestones": (5, 2), "gamma": 1.5},
        ),
    ),
    SchedulerCase("ConstantLR", ({}, {"factor": 0.5, "total_iters": 40}, {"factor": 1.0})),
    SchedulerCase(
        "LinearLR",
        (
            {},
            {"start_factor": 0.01, "total_iters": 100},
            {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 33},
            {"start_factor": 0.7, "end_factor": 0.1, "total_iters": 1},
        ),
    ),
    SchedulerCase("ExponentialLR", ({"gamma": 0.98}, {"gamma": 1.01}, {"gamma": 0.0})),
    SchedulerCase(
        "PolynomialLR",
        ({}, {"total_iters": 120, "power": 0.9}, {"total_iters": 50, "power": 2.5}),
    ),
    SchedulerCase(
        "CosineAnnealingLR",
        (
            {"T_max": 10},
            {"T_max": 1, "eta_min": 0.001},
            {"T_max": 45, "eta_min": 0.01},
            {"T_max": 300},
        ),
    ),
    SchedulerCase("LambdaLR", ({"lr_lambda": hyperbola},), closed_form=False),
    SchedulerCase("MultiplicativeLR", ({"lr_lambda": decline},), closed_form=False),
    SchedulerCase(
        "CosineAnnealingWarmRestarts",
        (
            {"T_0": 1},
            {"T_0": 10, "eta_min": 0.01},
            {"T_0": 7, "T_mult": 2},
            {"T_0": 4, "T_mult": 3},
        ),
        closed_form=False,
    ),
    SchedulerCase(
        "CyclicLR",
        (
            {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 9},
            {
                "base_lr": [0.01, 0.02],
                "max_lr": [0.3, 0.9],
                "step_size_up": 4,
                "step_size_down": 11,
                "mode": "triangular2",
                "base_momentum": [0.7, 0.6],
                "max_momentum": [0.95, 0.8],
            },
            {
                "base_lr": 0.0,
                "max_lr": 1.0,
                "step_size_up": 20,
                "mode": "exp_range",
                "gamma": 0.99,
                "cycle_momentum": False,
            },
            {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 3, "scale_fn": root},
            {
                "base_lr": 0.1,
                "max_lr": 0.2,
                "step_size_up": 30,
                "step_size_down": 0,
                "scale_fn": hyperbola,
                "scale_mode": "iterations",
            },
        ),
        closed_form=False,
    ),
    SchedulerCase(
        "OneCycleLR",
        (
            {"max_lr": 0.5, "total_steps": 400},
            {
                "max_lr": [0.5, 0.1],
                "epochs": 20,
                "steps_per_epoch": 16,
                "anneal_strategy": "linear",
            },
            {"max_lr": 1.0, "total_steps": 310, "three_phase": True, "pct_start": 0.25},
            {"max_lr": 1.0, "total_steps": 301, "pct_start": 0.9, "cycle_momentum": False},
            {
                "max_lr": 1.0,
                "total_steps": 300,
                "div_factor": 10.0,
                "final_div_factor": 100.0,
                "base_momentum": [0.5, 0.6],
                "max_momentum": 0.99,
            },
        ),
        closed_form=False,
    ),
)


# --- schedules made of schedules ------------------------------------------------------------------
# Each builds from a library of schedulers what is to be stepped, in order.


def sequence(milestones: Sequence[int], *parts: tuple[str, Variant]) -> Callable[..., list[Any]]:
    def build(lib: Any, optimizer: Any) -> list[Any]:
        schedulers = [getattr(lib, name)(optimizer, **variant) for name, variant in parts]
        return [lib.SequentialLR(optimizer, schedulers, list(milestones))]

    return build


def chain(*parts: tuple[str, Variant]) -> Callable[..., list[Any]]:
    def build(lib: Any, optimizer: Any) -> list[Any]:
        schedulers = [getattr(lib, name)(optimizer, **variant) for name, variant in parts]
        return [lib.ChainedScheduler(schedulers)]

    return build


def together(*parts: tuple[str, Variant]) -> Callable[..., list[Any]]:
    def build(lib: Any, optimizer: Any) -> list[Any]:
        return [getattr(lib, name)(optimizer, **variant) for name, variant in parts]

    return build


def chain_in_sequence(lib: Any, optimizer: Any) -> list[Any]:
    constant = lib.ConstantLR(optimizer, factor=0.1, total_iters=20)
    linear = lib.LinearLR(optimizer, start_factor=0.1, total_iters=20)
    cosine = lib.CosineAnnealingLR(optimizer, T_max=50)
    chained = lib.ChainedScheduler([linear, constant])
    return [lib.SequentialLR(optimizer, [chained, cosine], [20])]


WARMUP: tuple[str, Variant] = ("LinearLR", {"start_factor": 0.1, "total_iters": 10})
STEP: tuple[str, Variant] = ("StepLR", {"step_size": 13, "gamma": 0.6})
COSINE: tuple[str, Variant] = ("CosineAnnealingLR", {"T_max": 30, "eta_min": 0.001})
FLAT_COSINE: tuple[str, Variant] = ("CosineAnnealingLR", {"T_max": 300, "eta_min": 1e-4})
EXPONENTIAL: tuple[str, Variant] = ("ExponentialLR", {"gamma": 0.99})
CONSTANT: tuple[str, Variant] = ("ConstantLR", {"factor": 0.3, "total_iters": 25})
RESTARTS: tuple[str, Variant] = ("CosineAnnealingWarmRestarts", {"T_0": 9, "T_mult": 2})
CYCLES: tuple[str, Variant] = ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 8})
ONE_CYCLE: tuple[str, Variant] = ("OneCycleLR", {"max_lr": 0.5, "total_steps": 60})
MULTIPLY: tuple[str, Variant] = ("MultiplicativeLR", {"lr_lambda": decline})
POLYNOMIAL: tuple[str, Variant] = ("PolynomialLR", {"total_iters": 80, "power": 2.0})

COMPOSED: dict[str, Callable[..., list[Any]]] = {
    "warmup-cosine": sequence([10], WARMUP, COSINE),
    "three-in-sequence": sequence([3, 40], CONSTANT, EXPONENTIAL, STEP),
    "restarts-in-sequence": sequence([10, 100], WARMUP, RESTARTS, POLYNOMIAL),
    "cycles-in-sequence": sequence([10, 70], WARMUP, CYCLES, MULTIPLY),
    "one-cycle-first": sequence([50], ONE_CYCLE, EXPONENTIAL),
    "from-the-first-step": sequence([1], STEP, COSINE),
    "takeover-twice-at-once": sequence([5, 5], WARMUP, STEP, EXPONENTIAL),
    "chained": chain(WARMUP, FLAT_COSINE, STEP),
    "chained-one": chain(STEP),
    "chained-three": chain(EXPONENTIAL, CONSTANT, STEP),
    "chained-polynomial": chain(POLYNOMIAL, CONSTANT),
    "chain-in-sequence": chain_in_sequence,
    "step-and-exponential": together(STEP, EXPONENTIAL),
    "cosine-and-step": together(COSINE, STEP),
    "multiplied": together(MULTIPLY, WARMUP),
}


# --- running --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Something to be stepped, alike under both libraries."""

    build: Callable[[Any, Any], list[Any]]
    optimizer: str = "SGD"


ALONE: dict[str, Scenario] = {
    f"{case.name}-{i}": Scenario(together((case.name, variant)), "Adam" if i % 2 else "SGD")
    for case in CASES
    for i, variant in enumerate(case.variants)
}
CASE_OF = {f"{case.name}-{i}": case for case in CASES for i in range(len(case.variants))}
SEVERAL = ("step-and-exponential", "cosine-and-step", "multiplied")  # not under one scheduler
SCENARIOS = {**ALONE, **{name: Scenario(build) for name, build in COMPOSED.items()}}

LRS = (0.1, 0.7)


def make_optimizer(lib: Any, name: str, params: Sequence[Any], lrs: Sequence[Any] = LRS) -> Any:
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)]
    return getattr(lib, name)(groups, **({"momentum": 0.9} if name == "SGD" else {}))


def row(optimizer: Any) -> Row:
    groups = optimizer.param_groups
    momenta = [group["betas"][0] if "betas" in group else group["momentum"] for group in groups]
    return [float(value) for value in [*(group["lr"] for group in groups), *momenta]]


def advance(optimizer: Any, schedulers: Sequence[Any], steps: int) -> list[Row]:
    """The rows of the next steps, without the present one."""
    rows = []
    for _ in range(steps):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        rows.append(row(optimizer))
    return rows


def trajectory(optimizer: Any, scenario: Scenario, schedulers: Any, steps: int) -> list[Row]:
    """The rows from construction on."""
    built = scenario.build(schedulers, optimizer)
    return [row(optimizer), *advance(optimizer, built, steps)]


# Options of ReduceLROnPlateau, and the metrics that it sees.
PLATEAUS: dict[str, tuple[Variant, list[float]]] = {
    "defaults": ({}, [1.0] * 30),
    "slow-progress": (
        {"threshold_mode": "abs", "threshold": 0.1, "patience": 5},
        [10 - 0.0165 * i for i in range(40)],
    ),
    "max-with-cooldown": (
        {"mode": "max", "patience": 2, "cooldown": 3, "factor": 0.5, "threshold": 0.1},
        [1.5 * 1.02**i for i in range(60)],
    ),
    "bounds": (
        {"patience": 0, "min_lr": [0.04, 0.3], "factor": 0.5},
        [2.0, 3.0, 1.0, 4.0, 4.0, 4.0],
    ),
    "small-steps": ({"patience": 0, "eps": 0.05, "factor": 0.5}, [1.0] * 8),
    "nan-and-infinity": (
        {"patience": 1, "mode": "max", "threshold_mode": "abs"},
        [math.nan, -math.inf, 1.0, math.nan, math.nan, math.inf, 5.0, math.inf],
    ),
}


def plateau(optimizer: Any, schedulers: Any, name: str) -> list[Row]:
    """The rows under a plateau's metrics."""
    options, metrics = PLATEAUS[name]
    scheduler = schedulers.ReduceLROnPlateau(optimizer, **options)
    rows = []
    for metric in metrics:
        scheduler.step(metric)
        rows.append(row(optimizer))
    return rows


STEPS = 300
# What the golden file holds of a trajectory: every step at first, then some.
GOLDEN_STEPS = (*range(30), *range(30, STEPS + 1, 13))

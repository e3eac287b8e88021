"""One row per optimizer: its reference, its variants, and the bad arguments it must refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cyoptim
from tests.optimizers import (
    adadelta,
    adagrad,
    adam,
    adamax,
    asgd,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)

NAN = float("nan")


@dataclass(frozen=True, repr=False)
class Case:
    """An optimizer as the tests see it."""

    name: str
    reference: Any  # (options) -> object with .step(parameters, gradients), in float64
    variants: tuple[dict[str, Any], ...]
    # (arguments, exception, the message it must contain)
    bad: tuple[tuple[dict[str, Any], type[Exception], str], ...]
    state_names: tuple[str, ...]
    variant_state_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name

    @property
    def cls(self) -> Any:
        return getattr(cyoptim, self.name)


BAD_COMMON: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
    ({"lr": NAN}, ValueError, "Invalid learning rate: nan"),
    ({"lr": "fast"}, TypeError, "learning rate must be a number, got str: 'fast'"),
    ({"lr": None}, TypeError, "learning rate must be a number, got NoneType: None"),
    ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ({"weight_decay": NAN}, ValueError, "Invalid weight_decay value: nan"),
    ({"differentiable": True}, ValueError, "differentiable=True is not supported"),
    ({"momentun": 0.9}, TypeError, "unexpected keyword argument 'momentun'"),
)
BAD_CAPTURABLE = (({"capturable": True}, ValueError, "capturable=True is not supported"),)
BAD_EPS = (({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08"),)
BAD_BETAS = (
    ({"betas": (1.0, 0.999)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (-0.1, 0.999)}, ValueError, "Invalid beta parameter at index 0: -0.1"),
    ({"betas": (0.9, 1.5)}, ValueError, "Invalid beta parameter at index 1: 1.5"),
    ({"betas": (0.9, NAN)}, ValueError, "Invalid beta parameter at index 1: nan"),
    ({"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
    ({"betas": (0.9,)}, TypeError, "betas must be a pair of numbers, got (0.9,)"),
)

ADAM_VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    {"maximize": True},
    {"betas": (0.0, 0.9)},
    {"lr": 0.0},
)

CASES = (
    Case(
        "SGD",
        sgd.SGD,
        (
            {},
            {"lr": 0.1},
            {"lr": 0.05, "weight_decay": 0.1},
            {"lr": 0.05, "maximize": True, "weight_decay": 0.1},
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *BAD_COMMON,
            ({"momentum": -0.9}, ValueError, "Invalid momentum value: -0.9"),
            (
                {"nesterov": True},
                ValueError,
                "Nesterov momentum requires a momentum and zero dampening",
            ),
            (
                {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
                ValueError,
                "Nesterov momentum requires a momentum and zero dampening",
            ),
        ),
        (),
        {"momentum": ("momentum_buffer",)},
    ),
    Case(
        "Adam",
        adam.Adam,
        (
            *ADAM_VARIANTS,
            {"decoupled_weight_decay": True, "weight_decay": 0.1},
            {"decoupled_weight_decay": True, "weight_decay": 0.1, "amsgrad": True},
        ),
        (*BAD_COMMON, *BAD_CAPTURABLE, *BAD_EPS, *BAD_BETAS),
        ("step", "exp_avg", "exp_avg_sq"),
        {"amsgrad": ("max_exp_avg_sq",)},
    ),
    Case(
        "AdamW",
        adam.AdamW,
        ADAM_VARIANTS,
        (*BAD_COMMON, *BAD_CAPTURABLE, *BAD_EPS, *BAD_BETAS),
        ("step", "exp_avg", "exp_avg_sq"),
        {"amsgrad": ("max_exp_avg_sq",)},
    ),
    Case(
        "RMSprop",
        rmsprop.RMSprop,
        (
            {},
            {"alpha": 0.9, "eps": 1e-6},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "maximize": True},
            {"momentum": 0.9},
            {"centered": True},
            {"centered": True, "momentum": 0.9},
            {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *BAD_COMMON,
            *BAD_CAPTURABLE,
            *BAD_EPS,
            ({"alpha": -0.1}, ValueError, "Invalid alpha value: -0.1"),
            ({"momentum": -0.1}, ValueError, "Invalid momentum value: -0.1"),
        ),
        ("step", "square_avg"),
        {"momentum": ("momentum_buffer",), "centered": ("grad_avg",)},
    ),
    Case(
        "Adagrad",
        adagrad.Adagrad,
        (
            {},
            {"lr": 0.1, "lr_decay": 0.05},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "maximize": True},
            {"initial_accumulator_value": 0.5, "eps": 1e-6},
        ),
        (
            *BAD_COMMON,
            *BAD_EPS,
            ({"lr_decay": -0.1}, ValueError, "Invalid lr_decay value: -0.1"),
            (
                {"initial_accumulator_value": -1},
                ValueError,
                "Invalid initial_accumulator_value value: -1",
            ),
        ),
        ("step", "sum"),
    ),
    Case(
        "Adadelta",
        adadelta.Adadelta,
        (
            {},
            {"lr": 0.5, "rho": 0.7, "eps": 1e-4},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (
            *BAD_COMMON,
            *BAD_CAPTURABLE,
            *BAD_EPS,
            ({"rho": 1.1}, ValueError, "Invalid rho value: 1.1"),
            ({"rho": -0.1}, ValueError, "Invalid rho value: -0.1"),
            ({"rho": NAN}, ValueError, "Invalid rho value: nan"),
            ({"rho": None}, TypeError, "rho must be a number, got NoneType: None"),
        ),
        ("step", "square_avg", "acc_delta"),
    ),
    Case(
        "Adamax",
        adamax.Adamax,
        (
            {},
            {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (*BAD_COMMON, *BAD_CAPTURABLE, *BAD_EPS, *BAD_BETAS),
        ("step", "exp_avg", "exp_inf"),
    ),
    Case(
        "NAdam",
        nadam.NAdam,
        (
            {},
            {"lr": 0.02, "betas": (0.8, 0.95), "momentum_decay": 0.05},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (
            *BAD_COMMON,
            *BAD_CAPTURABLE,
            *BAD_EPS,
            *BAD_BETAS,
            ({"momentum_decay": -0.2}, ValueError, "Invalid momentum_decay value: -0.2"),
        ),
        ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    ),
    Case(
        "RAdam",
        radam.RAdam,
        (
            {},
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (*BAD_COMMON, *BAD_CAPTURABLE, *BAD_EPS, *BAD_BETAS),
        ("step", "exp_avg", "exp_avg_sq"),
    ),
    Case(
        "ASGD",
        asgd.ASGD,
        (
            {},
            {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 5},
            {"weight_decay": 0.1, "t0": 10},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (
            *BAD_COMMON,
            *BAD_CAPTURABLE,
            ({"t0": NAN}, ValueError, "Invalid t0 value: nan"),
            ({"lambd": "x"}, TypeError, "lambd must be a number, got str: 'x'"),
        ),
        ("step", "eta", "mu", "ax"),
    ),
    Case(
        "Rprop",
        rprop.Rprop,
        (
            {},
            {"lr": 0.05, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.2)},
            {"maximize": True},
        ),
        (
            *(row for row in BAD_COMMON if "weight_decay" not in row[0]),
            *BAD_CAPTURABLE,
            ({"etas": (1.0, 0.5)}, ValueError, "Invalid eta values: 1.0, 0.5"),
            ({"etas": 0.5}, TypeError, "etas must be a pair of numbers, got 0.5"),
            ({"step_sizes": (1,)}, TypeError, "step_sizes must be a pair of numbers, got (1,)"),
        ),
        ("step", "prev", "step_size"),
    ),
)


VARIANTS = [(case, variant) for case in CASES for variant in case.variants]
VARIANT_IDS = [
    f"{case.name}-{'-'.join(f'{k}={v}' for k, v in variant.items()) or 'defaults'}"
    for case, variant in VARIANTS
]

# Where a reference keeps what the state calls so; only what an element has of its own.
REFERENCE_STATES: dict[str, dict[str, str]] = {
    "SGD": {"momentum_buffer": "buffers"},
    "Adam": {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"},
    "AdamW": {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"},
    "RMSprop": {"square_avg": "n", "momentum_buffer": "b", "grad_avg": "g"},
    "Adagrad": {"sum": "s"},
    "Adadelta": {"square_avg": "squares", "acc_delta": "updates"},
    "Adamax": {"exp_avg": "m", "exp_inf": "u"},
    "NAdam": {"exp_avg": "m", "exp_avg_sq": "v"},
    "RAdam": {"exp_avg": "m", "exp_avg_sq": "v"},
    "ASGD": {"ax": "ax"},
    "Rprop": {"prev": "prev", "step_size": "sizes"},
}

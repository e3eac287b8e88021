"""Bad arguments that several optimizers refuse, and what they say of them."""

from __future__ import annotations

from tests.support.cards import Refusal

NAN, INF = float("nan"), float("inf")
Refusals = tuple[Refusal, ...]

# --- as torch says it -----------------------------------------------------------------------------

RATE: Refusals = (
    ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
    ({"lr": NAN}, ValueError, "Invalid learning rate: nan"),
)
RATE_OF_LATE: Refusals = (
    ({"lr": -0.5}, ValueError, "Learning rate should be >= 0 but is: -0.5"),
    ({"lr": NAN}, ValueError, "Learning rate should be >= 0 but is: nan"),
)
DECAY: Refusals = (
    ({"weight_decay": -0.1}, ValueError, "Invalid weight_decay value: -0.1"),
    ({"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
)
EPS: Refusals = (({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08"),)
BETAS: Refusals = (
    ({"betas": (1.0, 0.999)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (-0.1, 0.999)}, ValueError, "Invalid beta parameter at index 0: -0.1"),
    ({"betas": (0.9, 1.0)}, ValueError, "Invalid beta parameter at index 1: 1.0"),
    ({"betas": (0.9, 1.5)}, ValueError, "Invalid beta parameter at index 1: 1.5"),
    ({"betas": (0.9, NAN)}, ValueError, "Invalid beta parameter at index 1: nan"),
)
FUSED_AND_OTHERS: Refusals = (
    ({"fused": True, "foreach": True}, RuntimeError, "`fused` and `foreach` cannot be `True` together."),
    ({"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
)  # fmt: skip

# --- what torch lets pass or says in other words --------------------------------------------------

RATE_NO_NUMBER: Refusals = (
    ({"lr": "fast"}, TypeError, "learning rate must be a number, got str: 'fast'"),
    ({"lr": None}, TypeError, "learning rate must be a number, got NoneType: None"),
)
MISSPELT: Refusals = (({"momentun": 0.9}, TypeError, "unexpected keyword argument 'momentun'"),)
DIFFERENTIABLE: Refusals = (
    ({"differentiable": True}, ValueError, "differentiable=True is not supported"),
)
COMMON = (*RATE_NO_NUMBER, *MISSPELT)
COMMON_OF_TORCH = (*COMMON, *DIFFERENTIABLE)
DECAY_NAN: Refusals = (
    ({"weight_decay": NAN}, ValueError, "Invalid weight_decay value: nan"),
)  # fmt: skip
CAPTURABLE: Refusals = (({"capturable": True}, ValueError, "capturable=True is not supported"),)
BETAS_NO_PAIR: Refusals = (
    ({"betas": 0.9}, TypeError, "betas must be a pair of numbers, got 0.9"),
    ({"betas": (0.9,)}, TypeError, "betas must be a pair of numbers, got (0.9,)"),
)
MOMENTS = (*RATE, *DECAY, *BETAS, *COMMON, *BETAS_NO_PAIR)
"""What optimizers beyond torch's refuse that have `lr`, `betas` and `weight_decay`."""

THREE_BETAS: Refusals = (
    ({"betas": (1.0, 0.9, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ({"betas": (0.9, -0.1, 0.9)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
    ({"betas": (0.9, 0.9, 1.0)}, ValueError, "Invalid beta parameter at index 2: 1.0"),
    ({"betas": (0.9, 0.9, NAN)}, ValueError, "Invalid beta parameter at index 2: nan"),
    ({"betas": 0.9}, TypeError, "betas must be three numbers, got 0.9"),
    ({"betas": (0.9, 0.999)}, TypeError, "betas must be three numbers, got (0.9, 0.999)"),
)
MOMENTS_OF_THREE = (*RATE, *DECAY, *THREE_BETAS, *COMMON)
"""The same of those whose `betas` are three."""

"""The options of a group: what is refused, in torch's words."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cyoptim._doors import UnsupportedError, is_tensor, type_name
from cyoptim._types import Group

MOST = int(np.finfo(float).max)


class _Required:
    """The default of an option that every group must give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


# What other libraries call options, without underscores.
_ELSEWHERE = {
    "learningrate": "lr",
    "stepsize": "lr",
    "eta": "lr",
    "learningrateinit": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "decay": "weight_decay",
    "epsilon": "eps",
    "beta": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "nesterovsmomentum": "nesterov",
}


def close_name(name: str, known: Collection[str]) -> str | None:
    """The known name that a misspelt one was meant to be; None if none is near.

    Names are compared word by word: ``weigth_decay`` is near to ``weight_decay``, but ``no_decay``,
    ``lr_decay`` or ``sam_eps`` are names of their own.
    """
    from difflib import SequenceMatcher  # here, because it is slow to import

    def nearness(a: str, b: str) -> float:
        return SequenceMatcher(None, a, b).ratio()

    def score(other: str) -> float:
        words, others = name.lower().split("_"), other.lower().split("_")
        if len(words) == len(others):
            return min(map(nearness, words, others))
        joined = nearness("".join(words), "".join(others))
        return joined if joined > 0.9 else 0.0

    bare = name.lower().replace("_", "").replace("-", "")
    if _ELSEWHERE.get(bare) in known:
        return _ELSEWHERE[bare]
    best = max(known, key=score, default=None)
    return best if best is not None and score(best) >= 0.6 else None


def check_keywords(cls: type, given: Mapping[str, Any]) -> None:
    """Refuse an argument that a constructor does not take, if it is near to one that it does; all
    other errors are Python's own."""
    code = getattr(cls.__init__, "__code__", None)  # type: ignore[misc]
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:
        return
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    for name in given:
        if name not in known and (close := close_name(name, known)) is not None:
            raise TypeError(
                f"{cls.__name__}.__init__() got an unexpected keyword argument {name!r}; did you "
                f"mean {close!r}?"
            )


def explain_options(options: Group, defaults: Mapping[str, Any], error: Exception) -> str:
    """Which option it is that a step cannot use; else what Python says of it."""
    for name, default in defaults.items():
        if name not in options:
            return f"{name!r} is missing"
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            try:
                check_number(name, options[name])
            except (TypeError, ValueError) as found:
                return str(found)
    return str(error)


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False, such as a string."""
    try:
        known = not isinstance(value, (str, bytes)) and bool(value) in (True, False)
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several elements
        known = False
    if not known:
        raise TypeError(f"{name} must be True or False, got {type_name(value)}: {value!r}")


def execution_switches(**switches: Any) -> dict[str, Any]:
    """torch's switches that choose how a step is executed.

    ``foreach`` and ``fused`` ask for what is always the case here and are kept without effect;
    ``capturable`` asks for what cannot be; ``differentiable`` does so where there is a graph, see
    :func:`check_undifferentiated`. Combinations that torch refuses are refused.
    """
    if switches.get("capturable"):
        raise ValueError("capturable=True is not supported: steps run on the CPU")
    if switches.get("fused"):
        if switches.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if switches.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return switches


def check_undifferentiated(group: Group) -> None:
    """Refuse ``differentiable`` for arrays, which have no graph.

    For tensors it is refused by a step in which there is anything to differentiate.
    """
    if group.get("differentiable") and not all(map(is_tensor, group["params"])):
        raise ValueError("differentiable=True is not supported: steps run outside of any graph")


def check_switches(group: Group, defaults: Mapping[str, Any]) -> None:
    """Refuse what is neither True nor False for an option that is one of them by default."""
    for name, default in defaults.items():
        if isinstance(default, bool):
            check_switch(name, group[name])


def check_lr(lr: Any, message: str = "Invalid learning rate: {}") -> None:
    """Refuse a learning rate that is not one number >= 0."""
    if getattr(lr, "ndim", 0) and not is_tensor(lr):
        raise ValueError(f"lr is an array of shape {lr.shape}, expected one number")
    if is_tensor(lr) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_nonnegative("learning rate", lr, message)


def check_number(name: str, value: Any) -> None:
    """Refuse a value that is not one number."""
    try:
        bool(value >= 0.0)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {type_name(value)}: {value!r}") from None
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"{name} is an array of shape {value.shape}, expected one number")
    if isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{name} is a whole number of {value.bit_length()} bits, expected a float")


def check_nonnegative(name: str, value: Any, message: str = "") -> None:
    """Refuse a value that is not a number >= 0; NaN is not."""
    check_number(name, value)
    if not value >= 0.0:
        text = message or f"Invalid {name} value: {{}}"
        tells = "expected" in text or ">=" in text
        raise ValueError(text.format(value) + ("" if tells else " (expected >= 0)"))


def check_at_least(name: str, value: Any, low: float) -> None:
    """Refuse a value that is not a number >= low, in the words of torch's newer optimizers."""
    check_number(name, value)
    if not value >= low:
        raise ValueError(f"{name} should be >= {low} but is: {value}")


def check_finite(name: str, value: Any) -> None:
    """Refuse a value that is not a finite number."""
    check_number(name, value)
    if not abs(value) < float("inf"):
        raise ValueError(f"Invalid {name} value: {value} (expected a finite number)")


def check_interval(name: str, value: Any, low: float, high: float) -> None:
    """Refuse a value that is not a number in [low, high]."""
    check_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"Invalid {name} value: {value} (expected {low} to {high})")


def check_betas(betas: Any) -> None:
    """Refuse averaging factors that are not two numbers in [0, 1)."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
    for index, beta in enumerate(betas):
        text = f"Invalid beta parameter at index {index}: {{}} (expected 0 <= beta < 1)"
        check_nonnegative(f"betas[{index}]", beta, text)
        if not beta < 1.0:
            raise ValueError(
                f"Invalid beta parameter at index {index}: {beta} (expected 0 <= beta < 1)"
            )


def check_moments(group: Group) -> None:
    """Check the options that Adam and its relatives share."""
    check_lr(group["lr"])
    check_nonnegative("epsilon", group["eps"])
    check_betas(group["betas"])
    check_nonnegative("weight_decay", group["weight_decay"])


def check_undecayed(group: Group, label: str) -> None:
    """Refuse a sparse gradient where weight decay moves every element."""
    if group["weight_decay"] != 0:
        raise UnsupportedError(
            "weight_decay option is not compatible with sparse gradients "
            f"(that of {label} is sparse)"
        )

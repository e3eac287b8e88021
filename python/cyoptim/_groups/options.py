"""Checks of the options of a group, with torch's messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from cyoptim._arrays.doors import UnsupportedError, is_tensor, type_name
from cyoptim._engine import STORAGE_OPTIONS, rule_of
from cyoptim._groups.numbers import is_masked, of_numpy
from cyoptim._groups.storage import check_storage, is_given, takes_storage, why_not
from cyoptim._spelling import close_name, unexpected_argument
from cyoptim._types import Group

MOST = int(np.finfo(float).max)


class _Required:
    """The default of an option that every group must set."""

    def __repr__(self) -> str:
        return "<required parameter>"


required: _Required = _Required()


def check_keywords(cls: Any, given: Mapping[str, Any]) -> None:
    """Refuse an unknown argument of a constructor if it resembles a known one, or is an option of
    other optimizers; Python reports all others."""
    code = getattr(cls.__init__, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARKEYWORDS:
        return
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    for name in given:
        if name not in known and (name in STORAGE_OPTIONS or close_name(name, known) is not None):
            error = unexpected_argument(f"{cls.__name__}.__init__", name, known)
            raise TypeError(f"{error}: {why_not(cls)}") if name in STORAGE_OPTIONS else error


def explain_options(options: Group, defaults: Mapping[str, Any], error: Exception) -> str:
    """For messages: the option that a step cannot use, or else Python's own message."""
    for name, default in defaults.items():
        if name not in options:
            if isinstance(error, KeyError):
                return f"{name!r} is missing"
            continue
        try:
            _check_kind(name, options[name], default)
        except (TypeError, ValueError) as found:
            return str(found)
    return str(error)


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default: a switch, a number, or several numbers."""
    if isinstance(default, bool):
        check_switch(name, value)
    elif isinstance(default, (int, float)):
        check_number(name, value)
    elif isinstance(default, (tuple, list)):
        check_sequence(name, value, len(default))
        for index, pair in enumerate(zip(value, default, strict=True)):
            _check_kind(f"{name}[{index}]", *pair)


def check_switch(name: str, value: Any) -> None:
    """Refuse a value that is neither True nor False, nor equal to one, such as a string or None."""
    if value is True or value is False:
        return
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    try:
        known = number and bool(value == bool(value))
    except (TypeError, ValueError, RuntimeError):  # an array or a tensor with several elements
        known = False
    if not known:
        raise TypeError(f"{name} must be True or False, got {type_name(value)}: {value!r}")


_SWITCHES = frozenset({"amsgrad", "capturable", "centered", "decoupled_weight_decay"})
_SWITCHES |= {"differentiable", "maximize", "nesterov"}
_HINTS = frozenset({"foreach", "fused"})  # or None

# Learning rates that may be arrays without axes or tensors, which are filled in place.
_FILLED = frozenset({"lr", "initial_lr"})


def plain_options(options: Group, rules: bool) -> Group:
    """A copy of a group with Python numbers instead of NumPy's, so that JSON and torch can load it.

    `rules`: whether all options belong to our own rules, in which an array of one element is a
    number, and an array of several a tuple.
    """
    return {
        name: value
        if name in ("params", "param_names")
        or (name in _FILLED and isinstance(value, np.ndarray) and not value.ndim)
        else _plain_option(value, rules)
        for name, value in options.items()
    }


def _plain_option(value: Any, arrays: bool) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_plain_option(item, arrays) for item in value)
    if isinstance(value, np.generic):
        return of_numpy(value)
    if not arrays or not isinstance(value, np.ndarray):
        return value
    return of_numpy(value) if value.size == 1 else tuple(value.tolist())


def as_float(value: Any) -> float:
    """An option that was checked to be one number, or an array or a tensor of one element."""
    if type(value) is float:
        return value
    return float(value.item() if hasattr(value, "item") else value)


def as_sequence(value: Any) -> Any:
    """A list of an array's elements; other values unchanged."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def execution_switches(**switches: Any) -> dict[str, Any]:
    """torch's switches for the execution of a step.

    ``foreach`` and ``fused`` are kept without effect, as every step is one native call;
    ``capturable`` is not supported, nor is ``differentiable`` where there is a graph: see
    :func:`check_undifferentiated`. Combinations that torch refuses are refused.
    """
    for name in ("capturable", "differentiable", "fused", "foreach"):
        if switches.get(name) is not None:
            check_switch(name, switches[name])
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

    For tensors, a step raises if there is anything to differentiate.
    """
    if group.get("differentiable") and not all(map(is_tensor, group["params"])):
        raise ValueError("differentiable=True is not supported: steps run outside of any graph")


def check_switches(group: Group, optimizer: Any) -> None:
    """Refuse a value other than True and False for an option that its name or its default makes a
    switch."""
    switches = _SWITCHES | _switches_of(type(optimizer).__init__)
    for name, default in optimizer._defaults_for(group, optimizer.defaults).items():
        value = group.get(name, default)
        if name in _HINTS and value is None:
            continue
        if isinstance(default, bool) or name in switches or name in _HINTS:
            check_switch(name, value)


@cache
def _switches_of(constructor: Any) -> frozenset[str]:
    """The arguments that are switches by their default."""
    parameters = inspect.signature(constructor).parameters.values()
    return frozenset(p.name for p in parameters if isinstance(p.default, bool))


def check_group(group: Group, optimizer: Any, check_options: Callable[[Group], None]) -> None:
    """Check all options of a group; `check_options` looks at those of its kind of optimizer."""
    check_switches(group, optimizer)
    check_options(group)
    check_caution(group, optimizer)
    execution_switches(**({**group, "foreach": None} if optimizer._fuses_foreach else group))
    check_undifferentiated(group)


def check_caution(group: Group, optimizer: Any) -> None:
    """Refuse caution where the group's rule has none."""
    for name in optimizer._cautious_options:
        check_switch(name, group.get(name, False))
    if any(map(group.get, optimizer._cautious_options)):
        rule_of(optimizer, group)


def without_unset(defaults: Group, optimizer: Any) -> Group:
    """Defaults without cautious options that are not set, and without options of stored precision
    that say nothing: groups are then as torch's."""
    check_caution(defaults, optimizer)
    cautious = optimizer._cautious_options
    stored = STORAGE_OPTIONS if takes_storage(type(optimizer)) else ()
    check_storage({name: defaults[name] for name in stored if name in defaults}, optimizer)
    return {
        name: value
        for name, value in defaults.items()
        if (name not in cautious or value) and (name not in stored or is_given(name, defaults))
    }


def check_groups(groups: list[Group], check_options: Callable[[Group], None]) -> None:
    """Refuse options that have been written into groups and are out of range."""
    for number, group in enumerate(groups):
        try:
            check_options(group)
        except (TypeError, ValueError, RuntimeError) as error:
            raise type(error)(f"options of param group {number}: {error}") from error


def check_lr(lr: Any, message: str = "Invalid learning rate: {}") -> None:
    """Refuse a learning rate that is not one number >= 0, or an array that cannot store one."""
    if is_tensor(lr) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if isinstance(lr, np.ndarray) and lr.size != 1:
        raise ValueError(f"lr is an array of shape {lr.shape}, expected one number")
    if isinstance(lr, (list, tuple)):
        raise TypeError(
            f"learning rate must be a number, got {type_name(lr)}: {lr!r}; the parameters are the "
            "first argument, and rates of their own are those of groups, {'params': ..., 'lr': ...}"
        )
    check_holds_rates("lr", lr)
    check_nonnegative("learning rate", lr, message)


def check_holds_rates(name: str, value: Any) -> None:
    """Refuse an array without axes, or a tensor, of integers: it would truncate rates."""
    if is_tensor(value):
        kind, holds = "a tensor", value.is_floating_point() or value.is_complex()
    elif isinstance(value, np.ndarray) and not value.ndim:
        kind, holds = "an array", value.dtype.kind not in "biu"
    else:
        return
    if not holds:
        raise TypeError(
            f"{name} is {kind} of {value.dtype}, in which a schedule's numbers would be truncated: "
            f"write {name}={float(value)!r}, or give {kind} of floats"
        )


def check_fillable(name: str, value: Any) -> None:
    """Refuse an array or a tensor into which a schedule cannot write numbers."""
    check_holds_rates(name, value)
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        raise ValueError(
            f"{name} is a read-only array, into which a schedule cannot write: "
            f"write {name}={float(value.item())!r}, or give a copy of it"
        )


def check_number(name: str, value: Any) -> None:
    """Refuse a value that is not one number."""
    if type(value) is float:  # most are, and some steps check all
        return
    if isinstance(value, np.ndarray) and value.size != 1:
        raise TypeError(f"{name} is an array of shape {value.shape}, expected one number")
    try:
        bool(value >= 0.0)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {type_name(value)}: {value!r}") from None
    if is_masked(value):
        raise TypeError(f"{name} is masked, expected a number")
    if isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{name} is a whole number of {value.bit_length()} bits, expected a float")


def check_nonnegative(name: str, value: Any, message: str = "") -> None:
    """Refuse a value that is not a number >= 0, such as NaN."""
    check_number(name, value)
    if not value >= 0.0:
        text = message or f"Invalid {name} value: {{}}"
        tells = "expected" in text or ">=" in text
        raise ValueError(text.format(value) + ("" if tells else " (expected >= 0)"))


def check_positive(name: str, value: Any) -> None:
    """Refuse a value that is not a number > 0; NaN is not."""
    check_number(name, value)
    if not value > 0.0:
        raise ValueError(f"Invalid {name} value: {value} (expected > 0)")


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


def check_whole(name: str, value: Any, least: int = 0) -> None:
    """Refuse a value that is not a whole number >= least."""
    check_number(name, value)
    number = as_float(value)
    if not (number >= least and number.is_integer()):
        raise ValueError(f"Invalid {name} value: {value} (expected a whole number >= {least})")


def check_interval(name: str, value: Any, low: float, high: float) -> None:
    """Refuse a value that is not a number in [low, high]."""
    check_number(name, value)
    if not low <= value <= high:
        raise ValueError(f"Invalid {name} value: {value} (expected {low} to {high})")


def check_betas(betas: Any, count: int = 2, name: str = "betas") -> None:
    """Refuse averaging factors that are not so many numbers in [0, 1), two or three."""
    check_sequence(name, betas, count)
    what = "beta parameter" if name == "betas" else name
    for index, beta in enumerate(betas):
        text = f"Invalid {what} at index {index}: {{}} (expected 0 <= beta < 1)"
        check_nonnegative(f"{name}[{index}]", beta, text)
        if not beta < 1.0:
            raise ValueError(text.format(beta))


def check_pair(name: str, value: Any) -> None:
    """Refuse a value that is not a tuple, a list or an array of two values."""
    check_sequence(name, value, 2)


def check_sequence(name: str, value: Any, count: int) -> None:
    """Refuse a value that is not a tuple, a list or an array of so many values, two or three."""
    if not isinstance(as_sequence(value), (tuple, list)) or len(value) != count:
        kind = "a pair of" if count == 2 else "three"
        written = f"{name}=({', '.join('abc'[:count])})"
        raise TypeError(f"{name} must be {kind} numbers, got {value!r}: write {written}")


def check_moments(group: Group, betas: int = 2) -> None:
    """Check the options that Adam and its relatives share; some have no eps, some three betas."""
    check_lr(group["lr"])
    check_nonnegative("epsilon", group.get("eps", 0.0))
    check_betas(group["betas"], betas)
    check_nonnegative("weight_decay", group["weight_decay"])


def check_undecayed(group: Group, label: str) -> None:
    """Refuse a sparse gradient if weight decay changes every element."""
    if group["weight_decay"] != 0:
        raise UnsupportedError(
            "weight_decay option is not compatible with sparse gradients "
            f"(that of {label} is sparse)"
        )

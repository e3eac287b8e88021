"""The states of schedules: the saved attributes, and the schedule that a state belongs to."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import ReferenceType

from cyoptim._groups.numbers import plain

StateDict = dict[str, Any]

# The entries that identify the states of our classes; see LRScheduler._marks.
MARKS = {"Optimizer": frozenset({"state", "param_groups"})}


class StateError(ValueError, KeyError):
    """A state is not one of this schedule's.

    A ValueError, as for other invalid values, and a KeyError, as in torch.
    """

    __str__ = Exception.__str__


def plain_state(attributes: Mapping[str, Any]) -> StateDict:
    """A copy of attributes with Python numbers, without the optimizer and functions."""
    return {
        name: plain(value)
        for name, value in attributes.items()
        if name != "optimizer" and not _holds_functions(value)
    }


_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial, ReferenceType)


def _holds_functions(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_functions, value))
    if isinstance(value, dict):
        return any(map(_holds_functions, value.values()))
    return isinstance(value, _FUNCTIONS)


# --- whose state it is ----------------------------------------------------------------------------


def check_marks(state: StateDict, scheduler: Any) -> None:
    """Refuse a state of another class."""
    own: frozenset[str] = scheduler._marks
    missing = own - state.keys()
    if missing:  # a subclass may save less
        missing &= scheduler.state_dict().keys()
    foreign = {
        name: marks
        for name, marks in MARKS.items()
        if marks <= state.keys() and (missing or not marks <= vars(scheduler).keys())
    }
    if missing or foreign:
        raise StateError(_another_state(type(scheduler).__name__, own, foreign))


def _another_state(own: str, marks: frozenset[str], foreign: Mapping[str, frozenset[str]]) -> str:
    """The message for a state with the marks of another class, or without those of its own."""
    most = max(map(len, foreign.values()), default=0)
    others = [name for name in foreign if len(foreign[name]) == most]
    whose = f", but looks like that of a {' or '.join(others)}" if others else ""
    found = ", ".join(sorted({mark for name in others for mark in foreign[name]}))
    expected = ", ".join(sorted(marks))
    return (
        f"this is not the state of a {own}{whose} (found {found or 'none of its entries'}, "
        f"expected {expected or 'what every schedule has'}): "
        f"load it into one of the class that saved it, or begin with a new {own}"
    )


_DIVISORS = frozenset({"step_size", "total_iters", "T_max", "T_0", "T_i", "total_size"})
_DIVISORS |= {"step_ratio", "total_steps", "timescale", "decay_steps"}
_OF_GROUPS = frozenset({"base_lrs", "_last_lr", "min_lrs", "max_lrs", "lr_lambdas"})
_OF_GROUPS |= {"base_momentums", "max_momentums"}
_KINDS: tuple[tuple[type, ...], ...] = ((bool, int, float), (list, tuple), (str,), (dict,))


def check_entry(name: Any, value: Any, scheduler: Any) -> None:
    """Refuse an entry of a state that is invalid for this schedule."""
    what = f"the state of a {type(scheduler).__name__} has an entry {name!r}"
    if not isinstance(name, str) or hasattr(getattr(type(scheduler), name, None), "__get__"):
        raise ValueError(f"{what}, which is no attribute that a schedule keeps")
    own = plain(vars(scheduler).get(name))
    if not _is_like(value, own):
        raise TypeError(f"{what} that is {value!r}, expected one like {own!r}")
    count = len(scheduler.optimizer.param_groups)
    if name in _OF_GROUPS and isinstance(value, (list, tuple)) and len(value) > count:
        raise ValueError(f"{what} of {len(value)} values for {count} parameter groups")
    if name == "last_epoch" and operator.index(value) < -1:
        raise ValueError(f"{what} that is {value}, expected a number of an epoch")
    if name in _DIVISORS and not value > 0:
        raise ValueError(f"{what} that is {value}, expected a positive number")


def _is_like(value: Any, own: Any) -> bool:
    """Whether a value can replace another; always, if the other is None or an object."""
    kind = next((types for types in _KINDS if isinstance(own, types)), None)
    if kind is None:
        return True
    if not isinstance(value, kind):
        return False
    if isinstance(value, (list, tuple)) and len(own):
        return len(value) > 0 and all(_is_like(item, own[0]) for item in value)
    return True

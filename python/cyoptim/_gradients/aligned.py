"""Gradients in the forms that users pass, aligned with the parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np

from cyoptim._arrays.containers import is_branch, is_named_tuple
from cyoptim._arrays.doors import is_tensor, type_name
from cyoptim._arrays.trees import Places
from cyoptim._engine import ParameterBase
from cyoptim._types import Gradients, Group
from cyoptim._warnings import warn


class EditedNames(ValueError):
    """The numbers of names and of parameters differ."""


def check_closure(closure: Any) -> None:
    """Refuse gradients passed as the closure."""
    if not callable(closure):
        raise TypeError(
            f"step() takes a closure first, which is called, got {type_name(closure)}: pass "
            "gradients by keyword, step(grads=[...])"
        )


def align(grads: Gradients, groups: list[Group]) -> list[Any]:
    """The gradients as a list, one entry per parameter."""
    if isinstance(grads, dict):  # before the slower check for other mappings
        return _align_names(grads, groups)
    if isinstance(grads, (list, tuple)) and not _is_nested(grads, groups):
        count = _count(groups)
        if len(grads) != count:
            raise ValueError(
                f"grads holds {len(grads)} gradients, expected {count}: one for each parameter, "
                "None for one without"
            )
        return list(grads)
    if is_branch(grads):
        return _align_names(grads, groups)
    raise TypeError(
        "grads must be a list of gradients or a dict from parameter names, or nested as the "
        f"parameters are, got {type_name(grads)}: write grads=[...]"
    )


def _count(groups: list[Group]) -> int:
    if len(groups) == 1:
        return len(groups[0]["params"])
    return sum([len(group["params"]) for group in groups])


def _is_nested(grads: Sequence[Any], groups: list[Group]) -> bool:
    """Whether this is a tree, rather than one gradient for each parameter."""
    if not groups:
        raise ValueError("the optimizer has no param groups: param_groups is empty")
    if "param_names" not in groups[0]:
        return False
    if is_named_tuple(grads):
        return True
    # Decided by the names: with many small parameters, a check of every gradient takes as long as
    # the step.
    nested = _places(_names(groups)).nested
    return any(is_branch(grads[i]) for i in nested if i < len(grads)) or (
        len(grads) != _count(groups) and all(grad is None for grad in grads)
    )


def _align_names(grads: Any, groups: list[Group]) -> list[Any]:
    try:
        names = _names(groups)
    except KeyError:
        raise ValueError(
            f"grads is a {type_name(grads)}, but the parameters have no names: construct the "
            "optimizer from the dict itself, or from (name, parameter) pairs"
        ) from None
    if len(names) != _count(groups):
        raise EditedNames(
            f"the groups hold {len(names)} names in 'param_names' for {_count(groups)} parameters"
        )
    places = _places(names)
    if places.twice is not None:
        raise ValueError(
            f"grads is a {type_name(grads)}, but two parameters have the name {places.twice!r}"
        )
    if isinstance(grads, (dict, Mapping)) and grads.keys() <= places.leaves:
        return list(map(grads.get, names))
    return list(map(places.pick(grads).get, names))


def _names(groups: list[Group]) -> tuple[Any, ...]:
    if len(groups) == 1:
        return tuple(groups[0]["param_names"])
    return tuple([name for group in groups for name in group["param_names"]])


@lru_cache(maxsize=16)
def _places(names: tuple[Any, ...]) -> Places:
    return Places(names)


def warn_if_forgotten(groups: list[Group]) -> None:
    """Warn before a first step in which no Parameter has a gradient. Over tensors, as in torch,
    there is no warning."""
    params = [param for group in groups for param in group["params"]]
    if params and all(isinstance(p, ParameterBase) and p.grad is None for p in params):
        warn(
            "no parameter has a gradient, so this first step changes nothing: set parameter.grad "
            "before step(), or write step(grads=[...])"
        )


def check_unrecorded(groups: list[Group]) -> None:
    """Refuse a step if a group with ``differentiable`` has anything to differentiate."""
    from cyoptim._libraries import torch

    for group in groups:
        if group.get("differentiable"):
            torch.check_unrecorded(group["params"])


def evaluate(closure: Callable[[], Any]) -> Any:
    """Call a closure with autograd enabled, as torch does."""
    with getattr(sys.modules.get("torch"), "enable_grad", nullcontext)():
        return closure()


def loss_and_grads(
    closure: Callable[[], Any], groups: list[Group] | None
) -> tuple[Any, Gradients | None]:
    """What a closure computes: the loss, and the gradients if it returns them, too.

    Over plain arrays alone, or where there are no `groups` to tell: elsewhere a pair may be any
    result of a closure that has set the parameters' own gradients.
    """
    result = evaluate(closure)
    if isinstance(result, tuple) and len(result) == 2:
        params = (param for group in groups or () for param in group["params"])
        if groups is None or any(isinstance(param, np.ndarray) for param in params):
            if is_branch(result[0]) and not is_branch(result[1]):
                raise TypeError(
                    f"the closure returned ({type_name(result[0])}, {type_name(result[1])}), "
                    "expected (loss, grads): write return loss, grads"
                )
            return result
    return result, None


def check_droppable(params: list[Any]) -> None:
    """Refuse gradients that cannot be set to None, before anything changes."""
    for param in params:
        if isinstance(param, ParameterBase) or is_tensor(param) or hasattr(param, "null_grad"):
            continue
        try:
            param.grad = param.grad
        except Exception as error:
            raise TypeError(
                f"the gradient of a {type_name(param)} cannot be dropped ({error}): pass gradients "
                "by keyword, accumulate(grads=...)"
            ) from error

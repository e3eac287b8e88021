"""Gradients as users give them to a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from cyoptim._doors import type_name
from cyoptim._sparse import zero_gradient
from cyoptim._types import Gradients, Group


def align(grads: Gradients, groups: list[Group]) -> list[Any]:
    """The gradients as a list, one entry per parameter."""
    if isinstance(grads, Mapping):
        return _align_names(grads, groups)
    if not isinstance(grads, (list, tuple)):
        raise TypeError(
            "grads must be a list of gradients or a dict from parameter names, "
            f"got {type_name(grads)}"
        )
    count = sum(len(group["params"]) for group in groups)
    if len(grads) != count:
        raise ValueError(f"grads holds {len(grads)} gradients, expected {count}")
    return list(grads)


def _align_names(grads: Mapping[str, Any], groups: list[Group]) -> list[Any]:
    if any("param_names" not in group for group in groups):
        raise ValueError(
            "grads is a dict, but the parameters have no names: construct the optimizer from "
            "(name, parameter) pairs, for instance SGD(params.items())"
        )
    names = list(chain.from_iterable(group["param_names"] for group in groups))
    known = set(names)
    if len(known) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"grads is a dict, but two parameters have the name {twice!r}")
    if not grads.keys() <= known:
        unknown = min(grads.keys() - known)
        raise ValueError(
            f"grads has an entry {unknown!r}, but the parameters are {', '.join(names)}"
        )
    return list(map(grads.get, names))


def check_unrecorded(groups: list[Group]) -> None:
    """Refuse a step in which a group with ``differentiable`` has anything to differentiate."""
    from cyoptim.integrations import torch

    for group in groups:
        if group.get("differentiable"):
            torch.check_unrecorded(group["params"])


def evaluate(closure: Callable[[], Any]) -> Any:
    """Call a closure as torch does: with autograd on."""
    torch = sys.modules.get("torch")
    if torch is None:
        return closure()
    with torch.enable_grad():
        return closure()


def reset_gradient(param: Any, set_to_none: bool) -> None:
    """Drop a parameter's gradient, or fill it with zeros."""
    if not set_to_none:
        zero_gradient(param.grad)
    elif hasattr(param, "null_grad"):  # MyGrad, where .grad cannot be written
        param.null_grad()
    else:
        param.grad = None

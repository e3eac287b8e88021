"""Reading and writing the options of groups: numbers, arrays without axes, and torch tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from cyoptim._arrays.doors import is_tensor
from cyoptim._groups.numbers import number, of_numpy
from cyoptim._groups.options import check_fillable
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

# A Python number, or the array without axes or torch tensor of one element that the user passed
# as a learning rate.
Scalar: TypeAlias = Any


def copied(value: Scalar) -> Scalar:
    """A value that does not change when the original is filled in place."""
    if type(value) is float:  # the most frequent case; the other checks take longer
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.generic):
        return of_numpy(value)
    return value.clone() if is_tensor(value) else value


def group_values(optimizer: Optimizer, key: str) -> list[Scalar]:
    """An option of every group, without aliases."""
    return [copied(group[key]) for group in optimizer.param_groups]


def set_value(group: Group, key: str, value: Scalar) -> None:
    """Write a number as an option; an array or a tensor is filled in place."""
    current = group[key]
    if type(current) is float and type(value) is float:
        group[key] = value
    elif isinstance(current, np.ndarray):
        check_fillable(key, current)
        current[...] = number(key, value)
    elif is_tensor(current):
        check_fillable(key, current)
        current.fill_(number(key, value))
    else:
        group[key] = number(key, value)


def tensor_values(optimizer: Optimizer) -> list[Any]:
    """The memory of options that are torch tensors, which are filled in place."""
    values = (value for group in optimizer.param_groups for value in group.values())
    return [value.detach().numpy() for value in values if is_tensor(value)]


def listed(value: Any) -> Any:
    """A list of the elements of an array or a tensor with several; other values unchanged."""
    if isinstance(value, np.ndarray) or is_tensor(value):
        return value.tolist() if math.prod(value.shape) != 1 else value
    return value


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One number for each group, from one number for all, or a list or array."""
    value = listed(value)
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [number(name, value)] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {count}."
        )
    return [number(f"{name}[{i}]", item) for i, item in enumerate(value)]


def shared(values: Sequence[Any], name: str) -> Any:
    """The value for a group that was added later: the common value of all others."""
    first = values[0]
    if any(value != first for value in values):
        raise ValueError(
            f"a parameter group was added, but {name} differs between the groups before it: "
            f"append its value to the scheduler's {name}, or give it in the group"
        )
    return copied(first)

"""Reading and writing the options of groups: numbers, arrays without axes, and torch tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from cyoptim._doors import is_tensor
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

# A number, a NumPy scalar, an array without axes, or a torch tensor of one element.
Scalar: TypeAlias = Any


def copied(value: Scalar) -> Scalar:
    """A value that does not change when the original is filled in place."""
    if type(value) is float:  # nearly always; the other questions take longer
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.clone() if is_tensor(value) else value


def group_values(optimizer: Optimizer, key: str) -> list[Scalar]:
    """An option of every group, without aliases."""
    return [copied(group[key]) for group in optimizer.param_groups]


def set_value(group: Group, key: str, value: Scalar) -> None:
    """Write an option; one that is an array or a tensor keeps its identity."""
    current = group[key]
    if type(current) is float:
        group[key] = value
    elif isinstance(current, np.ndarray):
        current[...] = float(value)
    elif is_tensor(current):
        current.fill_(float(value))
    else:
        group[key] = value


def tensor_values(optimizer: Optimizer) -> list[Any]:
    """The memory of the options that are torch tensors, and are filled in place."""
    values = (value for group in optimizer.param_groups for value in group.values())
    return [value.detach().numpy() for value in values if is_tensor(value)]


def per_group(name: str, optimizer: Optimizer, value: Scalar | Sequence[Scalar]) -> list[Scalar]:
    """One value for each group, from one for all or a list."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [copied(value) for _ in range(count)]
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {count}."
        )
    return [copied(item) for item in value]


def shared(values: Sequence[Any], name: str) -> Any:
    """What a group that was added later gets: the value that all others have."""
    first = values[0]
    if any(value != first for value in values):
        raise ValueError(
            f"a parameter group was added, but {name} differs between the groups before it: "
            f"append its value to the scheduler's {name}, or give it in the group"
        )
    return copied(first)


def plain(value: Any) -> Any:
    """State in the types of Python that JSON knows, as far as it consists of numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) or is_tensor(value):
        return value.item() if value.ndim == 0 or value.shape == (1,) else value
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) in (dict, Counter):
        return type(value)({plain(key): plain(item) for key, item in value.items()})
    return value

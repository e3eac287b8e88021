"""Turns of the optimizers whose objects are saved or restored, so that no other thread changes
these meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from cyoptim._arrays.containers import entries_of, is_branch
from cyoptim._arrays.doors import class_of
from cyoptim._checkpoints.packing import MAX_DEPTH
from cyoptim._checkpoints.places import memory
from cyoptim._engine import together
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer


def in_turns(
    how: Literal["read", "write"], doing: str, objects: Any, function: Callable[[], Any]
) -> Any:
    """Call the function in turns of all optimizers among the objects, and of those with parameters
    or state among them."""
    turns, arrays = [], []
    for item in _leaves(objects, 0):
        if isinstance(item, Optimizer):
            turns.append(item._turn)
        else:
            arrays.append(item)
    return together(how, doing, turns, arrays, function)


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    """Optimizers and arrays."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, Optimizer):
        yield value
    elif hasattr(value, "state_dict"):
        yield from _members(value, depth)
    elif is_branch(value):
        for _, item in entries_of(value):
            yield from _leaves(item, depth + 1)
    else:
        yield from _memory(value)


def _members(value: Any, depth: int) -> Iterator[Any]:
    """The members of an object with a state: tensors of a torch module, arrays of an average."""
    if isinstance(value, class_of("torch", "nn.Module")):
        for tensor in (*value.parameters(), *value.buffers()):
            yield from _memory(tensor)
    else:
        yield from _leaves(getattr(value, "module", None), depth + 1)
        yield from _leaves(getattr(value, "optimizer", None), depth + 1)


def _memory(value: Any) -> Iterator[Array]:
    try:
        array = memory(value, ("",))
    except (TypeError, ValueError, RuntimeError):  # a tensor without a NumPy array
        return
    if array is not None:
        yield array

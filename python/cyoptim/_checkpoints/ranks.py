"""Calls of save and load by several processes, ranks, that share an optimizer among the objects.

How they do it, the optimizer knows: see cyoptim.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from cyoptim._arrays.containers import entries_of, is_branch
from cyoptim._checkpoints.packing import MAX_DEPTH
from cyoptim._checkpoints.places import Place
from cyoptim.optimizer import Optimizer

T = TypeVar("T")


class Joint(Protocol):
    """This process among those that make a call."""

    rank: int
    size: int

    def save(self, path: str | os.PathLike[str], objects: dict[str, object]) -> None:
        """Write the objects of rank 0, and of the shared ones the parts of all ranks."""

    def load(self, path: str | os.PathLike[str], function: Callable[[], T], **said: object) -> T:
        """Call a function that loads a file on every rank; what is said of the call must be equal
        on all."""

    def check_file(self, saved: dict[str, Any]) -> None:
        """Raise if another rank has read another file."""

    def check_restored(self, loaded: list[str]) -> None:
        """Raise if another rank does not restore the same of the shared objects."""

    def decided(self, what: str, function: Callable[..., T], **arguments: object) -> T:
        """What a function returns on rank 0, where alone it is called; its arguments must be equal
        on all ranks."""


def joint_of(objects: dict[str, Any]) -> Joint | None:
    """The ranks that share some of the objects; None if this process alone has them all."""
    members = [pair for name, value in objects.items() for pair in _shared(value, (name,))]
    if not members:
        return None
    joint: Joint = members[0][1]._joint(members)
    return joint


def _shared(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """The shared optimizers, where packing looks for objects with a state."""
    if isinstance(value, Optimizer):
        if hasattr(value, "_joint"):
            yield place, value
    elif len(place) <= MAX_DEPTH and is_branch(value) and not hasattr(value, "state_dict"):
        for key, item in entries_of(value):
            yield from _shared(item, (*place, key))

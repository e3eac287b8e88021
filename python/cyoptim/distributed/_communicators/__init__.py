"""How processes exchange bytes: one protocol, and an adapter for each engine that brings it about.

``mpi`` is for mpi4py, ``torch`` for torch.distributed, ``local`` for threads of one process. Each
adapter is imported when it is needed. All buffers are 1-D arrays of uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy.typing as npt

from cyoptim._arrays.doors import class_of, type_name
from cyoptim._types import Array

# One [start, stop) for each rank, in bytes of a buffer. Places may be empty, of different lengths,
# and anywhere in their buffer; those that are written to do not overlap.
Places: TypeAlias = Sequence[tuple[int, int]]

# Arrays, and the rank that each goes to or comes from.
Pieces: TypeAlias = Sequence[tuple[int, Array]]


class Pending(Protocol):
    """An exchange that has begun. Until `wait` returns, its buffers are not to be touched."""

    def wait(self) -> None:
        """Return when this rank's part of the exchange is done; once more, it returns at once."""


@runtime_checkable
class Communicator(Protocol):
    """A fixed number of ranks, of which each makes the same calls in the same order.

    Any object with these attributes and methods can be the ``comm`` of an optimizer. Exchanges may
    be waited for in any order, and any number of them may be under way.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def share(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order. All have the same length."""

    def broadcast(self, buffer: Array, root: int) -> None:
        """Fill the buffers of all ranks with that of one."""

    def exchange(self, sends: Pieces, receives: Pieces) -> Pending:
        """Send arrays to other ranks, and receive arrays from them.

        Between two ranks, as many are sent as are received, of the same sizes in the same order.
        None is empty."""

    def allgather(self, buffer: Array, places: Places) -> Pending:
        """Fill every rank's place, which are the same on all, with the bytes that it has there."""

    def reduce_scatter(
        self, send: Array, places: Places, receive: Array, dtype: npt.DTypeLike
    ) -> Pending:
        """Receive the sum over all ranks of what is in this rank's place, in the engine's order."""


class Done:
    """An exchange that is over."""

    def wait(self) -> None:
        """Return at once."""


def as_communicator(comm: Any) -> Communicator:
    """What the user has given as ``comm``, as a communicator. Every rank calls this.

    Raises
    ------
    TypeError
        If it is none.
    """
    if isinstance(comm, class_of("mpi4py.MPI", "Comm")):
        from cyoptim.distributed._communicators import mpi

        return mpi.communicator_of(comm)
    torch_group = class_of("torch.distributed", "ProcessGroup")
    if isinstance(comm, torch_group) or getattr(comm, "__name__", None) == "torch.distributed":
        from cyoptim.distributed._communicators import torch

        return torch.communicator_of(comm)
    if isinstance(comm, Communicator):
        return comm
    raise TypeError(
        f"comm is {_shown(comm)}, expected a communicator of mpi4py, a process group of "
        f"torch.distributed, or a member of cyoptim.distributed.Local: {_instead(comm)}"
    )


def _shown(comm: Any) -> str:
    return "None" if comm is None else f"of type {type_name(comm)}"


def _instead(comm: Any) -> str:
    name = type_name(comm)
    if name == "cyoptim.distributed._communicators.local.Local":
        return "write comm.run(function), which calls function(member) for each member"
    if name.startswith("torch.") or getattr(comm, "__name__", "").startswith("torch"):
        return "write comm=torch.distributed for the default group, or comm=mesh.get_group()"
    return "write comm=MPI.COMM_WORLD, after `from mpi4py import MPI`"

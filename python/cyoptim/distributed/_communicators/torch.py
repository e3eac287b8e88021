"""Process groups of torch.distributed whose tensors are in main memory: gloo's, for the most part.

(a) Pieces are sent and received one by one, as gloo's collectives want them one after the other in
one tensor, and would be copied into such; this is also twice as fast.
(b) A group is not duplicated, as making one takes all processes, members or not. Its exchanges are
told apart by the order in which they begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator, Pending, Pieces, Places

BACKENDS = ("gloo", "mpi")  # those of main memory
# By type, that of its real numbers.
SUMS = {
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


def communicator_of(group: Any) -> Communicator:
    """The communicator of a process group, or of the default one for the module itself."""
    if not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed has no process group: call "
            'torch.distributed.init_process_group("gloo") before'
        )
    if group is dist:
        group = dist.group.WORLD
    backend = backend_of(group)
    if backend not in BACKENDS:
        raise ValueError(
            f"comm is a process group of {backend}, which cannot exchange what is in main memory: "
            'write comm=torch.distributed.new_group(backend="gloo")'
        )
    return TorchCommunicator(group)


def backend_of(group: Any) -> str:
    """The backend that a group has for tensors in main memory; any other if it has none."""
    config: str = str(dist.get_backend_config(group))
    names = dict(pair.split(":") for pair in config.split(",") if ":" in pair)
    return names.get("cpu", config)


def tensor_of(array: Array) -> torch.Tensor:
    """A tensor over what is sent; of a read-only array a copy, as torch warns of others."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class TorchCommunicator:
    """The ranks of a process group."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        self._members = [dist.get_global_rank(group, rank) for rank in range(self.size)]

    def share(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order."""
        if not message:
            dist.barrier(self._group)
            return [b""] * self.size
        own = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        messages = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(messages, own, group=self._group)
        return [other.numpy().tobytes() for other in messages]

    def broadcast(self, buffer: Array, root: int) -> None:
        """Fill the buffers of all ranks with that of one."""
        if buffer.size:
            dist.broadcast(torch.from_numpy(buffer), self._members[root], group=self._group)

    def exchange(self, sends: Pieces, receives: Pieces) -> Pending:
        """Send arrays to other ranks, and receive arrays from them."""
        works = [
            dist.irecv(torch.from_numpy(piece), self._members[rank], group=self._group)
            for rank, piece in receives
        ]
        works += [
            dist.isend(tensor_of(piece), self._members[rank], group=self._group)
            for rank, piece in sends
        ]
        return _Works(works)

    def allgather(self, buffer: Array, places: Places) -> Pending:
        """Fill every rank's place with the bytes that it has there."""
        sends: list[tuple[int, Array]] = []
        receives: list[tuple[int, Array]] = []
        start, stop = places[self.rank]
        for distance in range(1, self.size):  # at a time, every rank receives from another one
            source, target = (self.rank - distance) % self.size, (self.rank + distance) % self.size
            if start < stop:
                sends.append((target, buffer[start:stop]))
            first, last = places[source]
            if first < last:
                receives.append((source, buffer[first:last]))
        return self.exchange(sends, receives)

    def reduce_scatter(
        self, send: Array, places: Places, receive: Array, dtype: npt.DTypeLike
    ) -> Pending:
        """Receive the sum over all ranks of what is in this rank's place, in the group's order."""
        kind = np.dtype(dtype)
        if kind.name not in SUMS:
            raise TypeError(
                f"the group adds {', '.join(SUMS)}, and the pieces are {kind}: write order='tree'"
            )
        real = np.dtype(SUMS[kind.name])
        works = []
        for rank, (start, stop) in enumerate(places):
            # Copies, as gloo leaves partial sums in them.
            total = receive if rank == self.rank else np.empty(stop - start, np.uint8)
            total[...] = send[start:stop]
            if start < stop:
                tensor = torch.from_numpy(total.view(real))
                root = self._members[rank]
                works.append(dist.reduce(tensor, root, group=self._group, async_op=True))
        return _Works(works)

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size} of torch.distributed>"


class _Works:
    """What torch calls works: transfers that have begun, which hold their tensors."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works

    def wait(self) -> None:
        """Return when this rank's part is done."""
        while self._works:
            self._works.pop(0).wait()

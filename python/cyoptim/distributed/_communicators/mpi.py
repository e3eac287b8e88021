"""Communicators of mpi4py, for any MPI library that it runs on.

(a) A communicator is duplicated once, so that messages never meet the user's, and keeps its
duplicate as an MPI attribute: there are few communicators, and optimizers come and go.
(b) MPI counts in C ints in most libraries. What begins or ends beyond is counted in larger units.
(c) MPI writes into buffers until an exchange is over, so they are held until then, also where an
error has ended the program's part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator, Pending, Pieces, Places

MOST = 2**31 - 1
SUMS = {"f": MPI.FLOAT, "d": MPI.DOUBLE, "F": MPI.C_FLOAT_COMPLEX, "D": MPI.C_DOUBLE_COMPLEX}


def communicator_of(comm: MPI.Comm) -> Communicator:
    """The communicator of the protocol that goes with one of mpi4py. Every rank calls this."""
    if not MPI.Is_initialized() or MPI.Is_finalized():
        state = "has ended" if MPI.Is_initialized() else "has not begun"
        raise RuntimeError(
            f"MPI {state}: import mpi4py.MPI without mpi4py.rc.initialize = False, or call "
            "MPI.Init() before"
        )
    if comm == MPI.COMM_NULL:
        raise ValueError("comm is MPI.COMM_NULL: this process is no member, and has to do without")
    if comm.Is_inter():
        raise ValueError("comm is an intercommunicator: write comm=comm.Merge()")
    found: Any = comm.Get_attr(_key())
    if found is None:
        found = MPICommunicator(comm.Dup())
        comm.Set_attr(_key(), found)
    return cast(Communicator, found)


_keys: list[int] = []


def _key() -> int:
    if not _keys:
        _keys.append(MPI.Comm.Create_keyval(delete_fn=lambda comm, key, found: found.free()))
    return _keys[0]


class MPICommunicator:
    """The ranks of a communicator of mpi4py that nothing else uses."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self._boxes: dict[int, _Box] = {}
        self._under_way: set[_Requests] = set()
        self._units: dict[int, MPI.Datatype] = {}

    def share(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order."""
        length = len(message)
        box = self._boxes.get(length)
        if box is None:
            box = self._boxes[length] = _Box(length, self.size)
        box.own[:] = message
        self._comm.Allgather(box.send, box.receive)
        whole = bytes(box.all)
        return [whole[start : start + length] for start in box.starts]

    def broadcast(self, buffer: Array, root: int) -> None:
        """Fill the buffers of all ranks with that of one."""
        for start in range(0, buffer.size, MOST):
            part = buffer[start : start + MOST]
            self._comm.Bcast([part, part.size, MPI.BYTE], root)

    def exchange(self, sends: Pieces, receives: Pieces) -> Pending:
        """Send arrays to other ranks, and receive arrays from them."""
        requests = [self._comm.Irecv([part, MPI.BYTE], rank) for rank, part in _countable(receives)]
        requests += [self._comm.Isend([part, MPI.BYTE], rank) for rank, part in _countable(sends)]
        return self._begin(requests, [piece for _, piece in (*sends, *receives)])

    def allgather(self, buffer: Array, places: Places) -> Pending:
        """Fill every rank's place with the bytes that it has there."""
        return self._begin(
            [self._comm.Iallgatherv(MPI.IN_PLACE, self._message(buffer, places))], [buffer]
        )

    def reduce_scatter(
        self, send: Array, places: Places, receive: Array, dtype: npt.DTypeLike
    ) -> Pending:
        """Receive the sum over all ranks of what is in this rank's place, in MPI's order."""
        kind = np.dtype(dtype)
        if kind.char not in SUMS:
            known = ", ".join(str(np.dtype(char)) for char in SUMS)
            raise TypeError(f"MPI adds {known}, and the pieces are {kind}: write order='tree'")
        lengths = [stop - start for start, stop in places]
        if any(stop != start for (_, stop), (start, _) in pairwise(places)):
            send = np.concatenate([send[start:stop] for start, stop in places])
        else:
            send = send[places[0][0] : places[-1][1]]
        request = self._comm.Ireduce_scatter(
            [send, send.size // kind.itemsize, SUMS[kind.char]],
            [receive, receive.size // kind.itemsize, SUMS[kind.char]],
            [length // kind.itemsize for length in lengths],
            MPI.SUM,
        )
        return self._begin([request], [send, receive])

    def free(self) -> None:
        """End with the communicator that this one is a duplicate of."""
        self._comm.Free()

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size} of MPI>"

    def _begin(self, requests: list[MPI.Request], buffers: list[Array]) -> Pending:
        pending = _Requests(requests, buffers, self._under_way)
        self._under_way.add(pending)
        return pending

    def _message(self, buffer: Array, places: Places) -> list[Any]:
        """Places of a buffer, as MPI counts them: from the first byte of any, in C ints."""
        first = min(start for start, _ in places)
        stop = max(stop for _, stop in places)
        counts = [stop - start for start, stop in places]
        offsets = [start - first for start, _ in places]
        kind = MPI.BYTE
        if stop - first > MOST:
            unit = math.gcd(*counts, *offsets)
            counts = [count // unit for count in counts]
            offsets = [offset // unit for offset in offsets]
            kind = self._unit(unit)
        return [buffer[first:stop], (counts, offsets), kind]

    def _unit(self, length: int) -> MPI.Datatype:
        if length not in self._units:
            self._units[length] = MPI.BYTE.Create_contiguous(length).Commit()
        return self._units[length]


class _Box:
    """The memory of messages of one length."""

    def __init__(self, length: int, size: int) -> None:
        self.own, self.all = bytearray(length), bytearray(length * size)
        self.send = [self.own, length, MPI.BYTE]
        self.receive = [self.all, length, MPI.BYTE]
        self.starts = range(0, length * size, length) if length else [0] * size


def _countable(pieces: Pieces) -> Iterator[tuple[int, Array]]:
    """The same bytes, in arrays whose bytes a C int can count."""
    for rank, piece in pieces:
        for start in range(0, piece.size, MOST):
            yield rank, piece[start : start + MOST]


class _Requests:
    """An exchange of MPI, with the buffers that it uses."""

    def __init__(
        self, requests: list[MPI.Request], buffers: list[Array], under_way: set[_Requests]
    ) -> None:
        self._requests, self._buffers, self._under_way = requests, buffers, under_way

    def wait(self) -> None:
        """Return when this rank's part is done."""
        MPI.Request.Waitall(self._requests)
        self._under_way.discard(self)

"""Ranks that are threads of one process: to test programs for many processes without any.

(a) A call of the protocol is a meeting: the n-th calls of all ranks are the same meeting. Each rank
puts its buffers on the board; nothing is copied before all have, and a rank waits.
(b) So mistakes that would hang with processes are errors here: ranks that make different calls,
places whose lengths differ, a rank that has left, a rank that has failed.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator, Pending, Pieces, Places
from cyoptim.distributed._errors import RankError, told

T = TypeVar("T")
Deliver = Callable[[list[Any]], None]


class Local:
    """Ranks that are threads of this process, for tests of code that is for many processes.

    Parameters
    ----------
    size : int
        The number of ranks.

    Examples
    --------
    >>> from cyoptim.distributed import Local
    >>> def program(comm):
    ...     return b"".join(comm.share(b"%d" % comm.rank))
    >>> Local(3).run(program)
    [b'012', b'012', b'012']
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"size is {size!r}, expected the number of ranks: write Local(4)")
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1")
        self.size = size

    def run(self, function: Callable[[Communicator], T]) -> list[T]:
        """Call a function in all ranks at once, with the rank's communicator.

        Parameters
        ----------
        function : callable
            The program of each rank.

        Returns
        -------
        list
            What it returns, in the order of the ranks.

        Raises
        ------
        Exception
            The first error of a rank. The others get a `RankError` at their next call.
        """
        board = _Board(self.size)
        results: list[Any] = [None] * self.size

        def work(rank: int) -> None:
            try:
                results[rank] = function(Member(board, rank))
            except BaseException as error:
                board.leave(rank, error)
            else:
                board.leave(rank, None)

        threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(work, rank), name=f"rank {rank}"
            )
            for rank in range(self.size)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # an interrupt: the ranks end before it goes on
            board.leave(-1, error)
            for thread in threads:
                thread.join()
            raise
        board.raise_first()
        return results

    def __repr__(self) -> str:
        return f"Local({self.size})"


@dataclass
class _Meeting:
    """The same call of all ranks."""

    kind: str
    first: int  # the rank that came first
    brought: dict[int, Any] = field(default_factory=dict)
    delivered: bool = False
    left: int = 0


class _Board:
    """What the ranks have put there for each other, under one lock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.meetings: dict[int, _Meeting] = {}
        self.next = [0] * size
        self.gone: dict[int, BaseException | None] = {}
        self.errors: list[BaseException] = []

    def put(self, rank: int, kind: str, brought: Any) -> int:
        """Come to the rank's next meeting, and return its number."""
        with self.changed:
            self._check_nobody_failed()
            number = self.next[rank]
            self.next[rank] += 1
            meeting = self.meetings.setdefault(number, _Meeting(kind, rank))
            if meeting.kind != kind:
                raise RankError(
                    f"rank {rank} calls {kind}, and rank {meeting.first} {meeting.kind}: every "
                    "rank has to make the same calls in the same order",
                    (rank, meeting.first),
                )
            meeting.brought[rank] = brought
            self.changed.notify_all()
            return number

    def take(self, number: int, deliver: Deliver) -> list[Any]:
        """Wait until all have come to a meeting, and return what they have brought."""
        with self.changed:
            meeting = self.meetings[number]
            while len(meeting.brought) < self.size:
                self._check_nobody_missing(meeting)
                self.changed.wait()
            brought = [meeting.brought[rank] for rank in range(self.size)]
            if not meeting.delivered:
                deliver(brought)
                meeting.delivered = True
            meeting.left += 1
            if meeting.left == self.size:
                del self.meetings[number]
            return brought

    def leave(self, rank: int, error: BaseException | None) -> None:
        """The end of a rank's program."""
        with self.changed:
            self.gone[rank] = error
            if error is not None:
                self.errors.append(error)
            self.changed.notify_all()

    def raise_first(self) -> None:
        """Raise the error that the others come from, if there is any."""
        own = [error for error in self.errors if not isinstance(error, RankError)]
        for error in own or self.errors:
            raise error

    def _check_nobody_failed(self) -> None:
        for rank, error in self.gone.items():
            if error is not None:
                who = f"rank {rank}" if rank >= 0 else "the program"
                raise RankError(f"{who} has ended by {told(error)}", (rank,) if rank >= 0 else ())

    def _check_nobody_missing(self, meeting: _Meeting) -> None:
        self._check_nobody_failed()
        for rank in self.gone:
            if rank not in meeting.brought:
                raise RankError(
                    f"rank {rank} has returned, and rank {meeting.first} waits for it in "
                    f"{meeting.kind}: every rank has to make the same calls",
                    (rank,),
                )


class Member:
    """One rank of a `Local`."""

    def __init__(self, board: _Board, rank: int) -> None:
        self._board = board
        self.rank = rank
        self.size = board.size

    def share(self, message: bytes) -> list[bytes]:
        """The messages of all ranks, in their order."""
        number = self._board.put(self.rank, "share", bytes(message))
        return self._board.take(number, _same_lengths)

    def broadcast(self, buffer: Array, root: int) -> None:
        """Fill the buffers of all ranks with that of one."""
        _check_buffers(buffer)
        if not 0 <= root < self.size:
            raise ValueError(f"root is {root}, expected a rank below {self.size}")
        number = self._board.put(self.rank, f"broadcast from rank {root}", buffer)
        self._board.take(number, lambda buffers: _broadcast(buffers, root))

    def exchange(self, sends: Pieces, receives: Pieces) -> Pending:
        """Send arrays to other ranks, and receive arrays from them."""
        for rank, piece in (*sends, *receives):
            _check_buffers(piece)
            if not 0 <= rank < self.size or rank == self.rank:
                raise ValueError(f"rank {rank}, expected another one than {self.rank}")
        return self._begin("exchange", (sends, receives), _exchange)

    def allgather(self, buffer: Array, places: Places) -> Pending:
        """Fill every rank's place with the bytes that it has there."""
        _check_buffers(buffer)
        self._check_places(buffer, places)
        return self._begin("allgather", (buffer, places), _allgather)

    def reduce_scatter(
        self, send: Array, places: Places, receive: Array, dtype: npt.DTypeLike
    ) -> Pending:
        """Receive the sum over all ranks of what is in this rank's place, added in their order."""
        _check_buffers(send, receive)
        self._check_places(send, places)
        kind = np.dtype(dtype)
        return self._begin(
            f"reduce_scatter of {kind}",
            (send, places, receive),
            lambda brought: _reduce_scatter(brought, kind),
        )

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"

    def _begin(self, kind: str, brought: Any, deliver: Deliver) -> Pending:
        return _Waiting(self._board, self._board.put(self.rank, kind, brought), deliver)

    def _check_places(self, buffer: Array, places: Places) -> None:
        if len(places) != self.size:
            raise ValueError(f"{len(places)} places, expected one for each of {self.size} ranks")
        for start, stop in places:
            if not 0 <= start <= stop <= buffer.size:
                raise ValueError(f"place ({start}, {stop}) of a buffer of {buffer.size} bytes")


class _Waiting:
    """An exchange to which this rank has put its buffers."""

    def __init__(self, board: _Board, number: int, deliver: Deliver) -> None:
        self._board, self._number, self._deliver = board, number, deliver
        self._over = False

    def wait(self) -> None:
        if not self._over:
            self._board.take(self._number, self._deliver)
            self._over = True


def _check_buffers(*buffers: Array) -> None:
    for buffer in buffers:
        if buffer.dtype != np.uint8 or buffer.ndim != 1 or not buffer.flags.c_contiguous:
            raise ValueError(
                f"a buffer of dtype {buffer.dtype} and shape {buffer.shape}, expected contiguous "
                "bytes: write array.reshape(-1).view(np.uint8)"
            )


# --- what happens when all have come --------------------------------------------------------------


def _same_lengths(messages: list[bytes]) -> None:
    lengths = [len(message) for message in messages]
    if len({*lengths}) > 1:
        raise RankError(f"messages of {lengths} bytes, expected one length on all ranks")


def _broadcast(buffers: list[Array], root: int) -> None:
    for rank, buffer in enumerate(buffers):
        if rank != root:
            _copy(buffers[root], root, buffer, rank)


def _exchange(brought: list[Any]) -> None:
    sent: dict[tuple[int, int], list[Array]] = {}
    for source, (sends, _) in enumerate(brought):
        for target, piece in sends:
            sent.setdefault((source, target), []).append(piece)
    for target, (_, receives) in enumerate(brought):
        for source, piece in receives:
            pieces = sent.get((source, target))
            if not pieces:
                raise RankError(
                    f"rank {source} sends fewer arrays to rank {target} than it expects",
                    (source, target),
                )
            _copy(pieces.pop(0), source, piece, target)
    for (source, target), pieces in sent.items():
        if pieces:
            raise RankError(
                f"rank {source} sends more arrays to rank {target} than it expects",
                (source, target),
            )


def _allgather(brought: list[Any]) -> None:
    for source, (buffer, places) in enumerate(brought):
        for target, (other, other_places) in enumerate(brought):
            if source != target:
                sent = buffer[slice(*places[source])]
                _copy(sent, source, other[slice(*other_places[source])], target)


def _copy(sent: Array, source: int, received: Array, target: int) -> None:
    if sent.size != received.size:
        raise RankError(
            f"rank {source} sends {sent.size} bytes to rank {target}, which expects "
            f"{received.size}",
            (source, target),
        )
    received[...] = sent


def _reduce_scatter(brought: list[Any], kind: np.dtype[Any]) -> None:
    for target, (_, _, receive) in enumerate(brought):
        pieces = [send[slice(*places[target])].view(kind) for send, places, _ in brought]
        total = pieces[0].copy()
        for source, piece in enumerate(pieces[1:], 1):
            if piece.size != total.size:
                raise RankError(
                    f"rank {source} has {piece.size} elements for rank {target}, and rank 0 "
                    f"{total.size}",
                    (source,),
                )
            total += piece
        _copy(total.view(np.uint8), 0, receive, target)

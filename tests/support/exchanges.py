"""What every communicator must do: each function here is the program of one rank.

They run in threads (`Local`), in processes of torch.distributed, and under each MPI library.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator, Places

Program = Callable[[Communicator], None]
CASES: dict[str, Program] = {}
"""By name."""
UNTOUCHED = 251  # no byte of `message_of` is it


def a_case(function: Program) -> Program:
    CASES[function.__name__] = function
    return function


def message_of(source: int, target: int, length: int) -> Array:
    """What one rank sends to another."""
    cycle = (7 * np.arange(UNTOUCHED) + 31 * source + 3 * target) % UNTOUCHED
    return np.resize(cycle.astype(np.uint8), length)


def spread(lengths: list[int], order: list[int], gap: int) -> tuple[Places, int]:
    """Places of these lengths, in this order in memory, with gaps, and the size of their buffer."""
    places = [(0, 0)] * len(lengths)
    end = gap
    for rank in order:
        places[rank] = end, end + lengths[rank]
        end += lengths[rank] + gap
    return places, end


def orders(size: int) -> list[list[int]]:
    return [[*range(size)], [*reversed(range(size))], [*range(1, size), 0]]


def check_exchange(comm: Communicator, lengths: Array, gap: int = 0) -> None:
    """`lengths[source, target]` bytes from each to each, in up to three arrays."""
    rank = comm.rank
    others = [other for other in range(comm.size) if other != rank]
    sends, receives, expected = [], [], []
    for other in others:
        for part in parts_of(message_of(rank, other, lengths[rank, other])):
            part.flags.writeable = False
            sends.append((other, part))
    for other in reversed(others):
        for part in parts_of(message_of(other, rank, lengths[other, rank])):
            room = np.full(part.size + 2 * gap, UNTOUCHED, np.uint8)
            receives.append((other, room[gap : gap + part.size]))
            expected.append((room, part))
    comm.exchange(sends, receives).wait()
    for room, part in expected:
        np.testing.assert_array_equal(room[gap : gap + part.size], part)
        assert (np.delete(room, slice(gap, gap + part.size)) == UNTOUCHED).all()


def parts_of(message: Array) -> list[Array]:
    """A message as arrays that are not empty, of different sizes."""
    cuts = sorted({0, message.size // 4, message.size // 3, message.size})
    return [message[start:stop].copy() for start, stop in pairwise(cuts)]


def check_allgather(comm: Communicator, lengths: list[int], order: list[int], gap: int) -> None:
    places, size = spread(lengths, order, gap)
    expected = np.full(size, UNTOUCHED, np.uint8)
    for rank, place in enumerate(places):
        expected[slice(*place)] = message_of(rank, 0, lengths[rank])
    buffer = np.full(size, UNTOUCHED, np.uint8)
    own = slice(*places[comm.rank])
    buffer[own] = expected[own]
    comm.allgather(buffer, places).wait()
    np.testing.assert_array_equal(buffer, expected)


# --- share and broadcast --------------------------------------------------------------------------


@a_case
def messages_of_every_length(comm: Communicator) -> None:
    for length in (32, 0, 1, 1000, 32, 100_000):
        expected = [message_of(rank, 0, length).tobytes() for rank in range(comm.size)]
        assert comm.share(expected[comm.rank]) == expected


@a_case
def messages_are_kept(comm: Communicator) -> None:
    found = [comm.share(bytes([turn, comm.rank])) for turn in range(50)]
    assert found == [[bytes([turn, rank]) for rank in range(comm.size)] for turn in range(50)]


@a_case
def broadcasts_from_every_rank(comm: Communicator) -> None:
    for root in range(comm.size):
        for length in (0, 1, 5000):
            buffer = message_of(comm.rank, 0, length)
            comm.broadcast(buffer, root)
            np.testing.assert_array_equal(buffer, message_of(root, 0, length))


# --- exchange and allgather -----------------------------------------------------------------------


@a_case
def even_places(comm: Communicator) -> None:
    check_exchange(comm, np.full((comm.size, comm.size), 24))
    check_allgather(comm, [24] * comm.size, [*range(comm.size)], 0)


@a_case
def uneven_places_anywhere(comm: Communicator) -> None:
    lengths = np.random.default_rng(5).integers(0, 3000, (comm.size, comm.size))
    for gap in (0, 1, 64):
        check_exchange(comm, lengths, gap)
        for order in orders(comm.size):
            check_allgather(comm, lengths[0].tolist(), order, gap)


@a_case
def empty_places(comm: Communicator) -> None:
    size = comm.size
    check_exchange(comm, np.zeros((size, size), int))
    for gap in (0, 5):
        check_allgather(comm, [0] * size, [*range(size)], gap)
    for full in range(size):  # one rank has all
        lengths = np.zeros((size, size), int)
        lengths[full] = 17
        check_exchange(comm, lengths, 3)
        check_exchange(comm, lengths.T, 3)
        check_allgather(comm, [17 * (rank == full) for rank in range(size)], [*range(size)], 3)


@a_case
def large_messages(comm: Communicator) -> None:
    lengths = np.full((comm.size, comm.size), 3_000_000) + np.arange(comm.size)
    check_exchange(comm, lengths, 8)
    check_allgather(comm, lengths[0].tolist(), [*range(comm.size)], 8)


@a_case
def many_at_once_waited_for_in_any_order(comm: Communicator) -> None:
    size, turns = comm.size, 6
    places = [(100 * rank, 100 * rank + 100) for rank in range(size)]
    others = [rank for rank in range(size) if rank != comm.rank]
    sends = [np.full(100, 10 * turn + comm.rank, np.uint8) for turn in range(turns)]
    received = [np.full(100 * size, 10 * turn + comm.rank, np.uint8) for turn in range(turns)]
    gathered = [np.full(100 * size, 10 * turn + comm.rank, np.uint8) for turn in range(turns)]
    pending = []
    for turn in range(turns):
        receives = [(rank, received[turn][slice(*places[rank])]) for rank in others]
        pending.append(comm.exchange([(rank, sends[turn]) for rank in others], receives))
        pending.append(comm.allgather(gathered[turn], places))
    order = np.random.default_rng(comm.rank).permutation(len(pending))  # each rank has its own
    for number in order:
        pending[number].wait()
        pending[number].wait()
    for turn in range(turns):
        expected = np.repeat(10 * turn + np.arange(size), 100)
        np.testing.assert_array_equal(received[turn], expected)
        np.testing.assert_array_equal(gathered[turn], expected)


@a_case
def messages_while_exchanges_are_under_way(comm: Communicator) -> None:
    places = [(8 * rank, 8 * rank + 8) for rank in range(comm.size)]
    buffer = np.full(8 * comm.size, comm.rank, np.uint8)
    pending = comm.allgather(buffer, places)
    assert comm.share(b"%d" % comm.rank) == [b"%d" % rank for rank in range(comm.size)]
    pending.wait()
    np.testing.assert_array_equal(buffer, np.repeat(np.arange(comm.size), 8))


# --- reduce_scatter -------------------------------------------------------------------------------


def check_reduce_scatter(
    comm: Communicator, dtype: str, counts: list[int], order: list[int], gap: int
) -> None:
    """Sums of small whole numbers, which are exact in any order."""
    kind = np.dtype(dtype)
    places, size = spread([count * kind.itemsize for count in counts], order, gap * kind.itemsize)
    own = counts[comm.rank]
    send = np.zeros(size // kind.itemsize, kind)
    for rank, (start, _) in enumerate(places):
        first = start // kind.itemsize
        send[first : first + counts[rank]] = np.arange(counts[rank]) + 10 * rank + comm.rank
    receive = np.full(own, -1, kind)
    comm.reduce_scatter(send.view(np.uint8), places, receive.view(np.uint8), kind).wait()
    expected = comm.size * (np.arange(own) + 10 * comm.rank) + sum(range(comm.size))
    np.testing.assert_array_equal(receive, expected.astype(kind))


@a_case
def sums_of_each_type(comm: Communicator) -> None:
    for dtype in ("float32", "float64", "complex64", "complex128"):
        check_reduce_scatter(comm, dtype, [11] * comm.size, [*range(comm.size)], 0)


@a_case
def sums_of_uneven_places_anywhere(comm: Communicator) -> None:
    counts = np.random.default_rng(6).integers(0, 500, comm.size).tolist()
    counts[-1] = 0
    for order in orders(comm.size):
        for gap in (0, 3):
            check_reduce_scatter(comm, "float32", counts, order, gap)
            check_reduce_scatter(comm, "float64", counts, order, gap)


@a_case
def sums_of_nothing(comm: Communicator) -> None:
    check_reduce_scatter(comm, "float32", [0] * comm.size, [*range(comm.size)], 0)


@a_case
def large_sums(comm: Communicator) -> None:
    check_reduce_scatter(comm, "float32", [700_000] * comm.size, [*range(comm.size)], 0)

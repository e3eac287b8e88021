"""Exchanges over mpi4py: what every communicator must do, and what is MPI's own."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import numpy as np
import pytest

from cyoptim.distributed import Communicator
from cyoptim.distributed._communicators import as_communicator
from tests.support.exchanges import CASES, check_exchange, message_of


@pytest.fixture
def comm(world: Any) -> Communicator:
    return as_communicator(world)


@pytest.mark.parametrize("case", CASES)
def test_exchanges(comm: Communicator, case: str) -> None:
    CASES[case](comm)


@pytest.mark.parametrize("case", CASES)
def test_exchanges_of_some_of_the_processes(world: Any, case: str) -> None:
    """A communicator of one half of them, with other numbers, and one of a single process."""
    half = world.Split(world.rank % 2, -world.rank)
    CASES[case](as_communicator(half))
    half.Free()
    if "large" not in case:
        from mpi4py import MPI

        CASES[case](as_communicator(MPI.COMM_SELF))


def test_buffers_beyond_two_gibibytes(comm: Communicator) -> None:
    """Places so far from each other that C ints cannot count their bytes; what is between is never touched."""
    far, length = (5 << 29) + 8, 4096
    memory = np.empty(far + length * comm.size, np.uint8)
    places = [(rank * length, (rank + 1) * length) for rank in range(comm.size - 1)]
    places.append((far, far + length))
    memory[slice(*places[comm.rank])] = message_of(comm.rank, 9, length)
    comm.allgather(memory, places).wait()
    for rank, place in enumerate(places):
        np.testing.assert_array_equal(memory[slice(*place)], message_of(rank, 9, length))


def test_messages_that_are_sent_in_parts(
    comm: Communicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of more bytes than C ints can count are."""
    monkeypatch.setattr(importlib.import_module(type(comm).__module__), "MOST", 1000)
    lengths = 1000 * np.arange(comm.size**2).reshape(comm.size, comm.size) // 2
    check_exchange(comm, lengths)
    buffer = message_of(comm.rank, 0, 3500)
    comm.broadcast(buffer, 0)
    np.testing.assert_array_equal(buffer, message_of(0, 0, 3500))


def test_messages_of_the_user_are_left_alone(world: Any, comm: Communicator) -> None:
    """Exchanges of both on what is the same communicator to the user, begun in other orders."""
    theirs = np.full(world.size, world.rank, np.int64)
    received = np.empty_like(theirs)
    ours = np.full(8 * comm.size, comm.rank, np.uint8)
    places = [(8 * rank, 8 * rank + 8) for rank in range(comm.size)]
    if world.rank % 2:
        request = world.Ialltoall(theirs, received)
        pending = comm.allgather(ours, places)
        pending.wait()
        request.Wait()
    else:
        pending = comm.allgather(ours, places)
        request = world.Ialltoall(theirs, received)
        request.Wait()
        pending.wait()
    np.testing.assert_array_equal(received, np.arange(world.size))
    np.testing.assert_array_equal(ours, np.repeat(np.arange(comm.size), 8))


def test_one_duplicate_for_each_communicator(world: Any, comm: Communicator) -> None:
    """MPI has a few thousand communicators; optimizers come and go."""
    assert as_communicator(world) is comm
    other = world.Dup()
    assert as_communicator(other) is not comm
    other.Free()
    for _ in range(3000):
        other = world.Dup()
        as_communicator(other).share(b"")
        other.Free()


def test_buffers_live_until_an_exchange_is_over(comm: Communicator) -> None:
    """A program that forgets an exchange, as an error may make it do, leaves MPI its buffers."""
    length = 1 << 20
    places = [(rank * length, (rank + 1) * length) for rank in range(comm.size)]
    for _ in range(5):
        comm.allgather(np.full(length * comm.size, comm.rank, np.uint8), places)
        gc.collect()
    assert comm.share(b"%d" % comm.rank) == [b"%d" % rank for rank in range(comm.size)]
    check_exchange(comm, np.full((comm.size, comm.size), 99))


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "bool"])
def test_what_is_not_added(comm: Communicator, dtype: str) -> None:
    buffer = np.zeros(16 * comm.size, np.uint8)
    places = [(0, 16)] * comm.size
    message = f"MPI adds float32, float64, complex64, complex128, and the pieces are {dtype}: write order='tree'"
    with pytest.raises(TypeError) as caught:
        comm.reduce_scatter(buffer, places, buffer[:16], dtype)
    assert str(caught.value) == message


def test_what_is_no_communicator_of_ranks(world: Any) -> None:
    from mpi4py import MPI

    with pytest.raises(ValueError, match=r"^comm is MPI.COMM_NULL: this process is no member, and"):
        as_communicator(MPI.COMM_NULL)
    half = world.Split(world.rank % 2)
    between = half.Create_intercomm(0, world, 1 - world.rank % 2)
    with pytest.raises(ValueError, match=r"^comm is an intercommunicator: write comm=comm.Merge"):
        as_communicator(between)
    between.Free()
    half.Free()


def test_it_shows_its_rank(comm: Communicator) -> None:
    assert repr(comm) == f"<rank {comm.rank} of {comm.size} of MPI>"

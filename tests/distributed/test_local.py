"""Ranks that are threads of one process: exchanges, and the mistakes that would hang with processes."""

from __future__ import annotations

import contextvars
import signal
import threading

import numpy as np
import pytest

from cyoptim.distributed import Communicator, Local, RankError
from cyoptim.distributed._communicators import as_communicator
from tests.support.exchanges import CASES


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("case", [name for name in CASES if "large" not in name])
def test_exchanges(case: str, size: int) -> None:
    Local(size).run(CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in CASES if "large" in name])
def test_large_exchanges(case: str) -> None:
    Local(3).run(CASES[case])


def test_results_are_in_the_order_of_the_ranks() -> None:
    local = Local(5)
    assert local.run(lambda comm: (comm.rank, comm.size)) == [(rank, 5) for rank in range(5)]
    assert repr(local) == "Local(5)"
    assert Local(2).run(repr) == ["<rank 0 of 2>", "<rank 1 of 2>"]


def test_it_runs_again() -> None:
    local = Local(2)
    with pytest.raises(ValueError, match="first"):
        local.run(fails_on(1, ValueError("first")))
    assert local.run(lambda comm: comm.share(b"x")) == [[b"x", b"x"]] * 2


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (0, ValueError, "size is 0, expected at least 1"),
        (2.0, TypeError, "size is 2.0, expected the number of ranks: write Local(4)"),
        (True, TypeError, "size is True, expected the number of ranks: write Local(4)"),
    ],
)
def test_sizes(size: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        Local(size)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_members_are_communicators() -> None:
    assert all(Local(3).run(lambda comm: as_communicator(comm) is comm))


def test_context_variables_are_those_of_the_caller() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("outside")
    assert Local(2).run(lambda comm: variable.get()) == ["outside"] * 2


# --- errors ---------------------------------------------------------------------------------------


def fails_on(failing: int, error: BaseException):
    def program(comm: Communicator) -> None:
        if comm.rank == failing:
            raise error
        comm.share(b"")
        comm.share(b"")

    return program


@pytest.mark.parametrize("error", [ValueError("a text"), KeyboardInterrupt(), SystemExit(2)])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_first_error_is_raised(failing: int, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Local(3).run(fails_on(failing, error))
    assert caught.value is error


def outcome_of(local: Local, program) -> list[str]:
    """What came of the program on each rank: "done", or its error."""
    outcomes = [""] * local.size

    def recorded(comm: Communicator) -> None:
        try:
            program(comm)
        except BaseException as error:
            outcomes[comm.rank] = f"{type(error).__name__}: {error}"
            raise
        outcomes[comm.rank] = "done"

    try:
        local.run(recorded)
    except Exception:
        assert set(outcomes) != {"done"}
    return outcomes


def test_the_others_get_an_error_at_their_next_call() -> None:
    message = "RankError: rank 1 has ended by ValueError: a text"
    outcomes = outcome_of(Local(3), fails_on(1, ValueError("a text")))
    assert outcomes == [message, "ValueError: a text", message]


def test_a_rank_that_waits_for_nobody() -> None:
    def program(comm: Communicator) -> None:
        if comm.rank == 0:
            comm.share(b"")

    outcomes = outcome_of(Local(2), program)
    assert outcomes == [
        "RankError: rank 1 has returned, and rank 0 waits for it in share: every rank has to make "
        "the same calls",
        "done",
    ]


def test_what_all_have_come_to_is_brought_to_its_end() -> None:
    """The failure of a rank that has taken part does not undo its part."""
    left = threading.Event()

    def program(comm: Communicator) -> None:
        places = [(0, 1), (1, 2)]
        buffer = np.full(2, comm.rank, np.uint8)
        pending = comm.allgather(buffer, places)
        comm.share(b"")
        if comm.rank == 0:
            left.set()
            raise ValueError("after its part")
        left.wait()
        pending.wait()
        assert buffer.tolist() == [0, 1]

    assert outcome_of(Local(2), program) == ["ValueError: after its part", "done"]


def run_both(first, second) -> str:
    """The message of two ranks that do not do the same."""
    with pytest.raises(RankError) as caught:
        Local(2).run(lambda comm: (second if comm.rank else first)(comm))
    return str(caught.value)


def test_calls_that_differ() -> None:
    buffer = np.zeros(4, np.uint8)
    places = [(0, 2), (2, 4)]
    message = run_both(
        lambda comm: comm.share(b""), lambda comm: comm.allgather(buffer, places).wait()
    )
    calls = {"share", "allgather"}
    assert {word for word in message.replace(",", " ").replace(":", " ").split()} >= calls
    assert message.endswith("every rank has to make the same calls in the same order")
    message = run_both(
        lambda comm: comm.broadcast(buffer, 0), lambda comm: comm.broadcast(buffer, 1)
    )
    assert "broadcast from rank 0" in message
    assert "broadcast from rank 1" in message


def test_lengths_that_differ() -> None:
    message = run_both(lambda comm: comm.share(b"1"), lambda comm: comm.share(b"22"))
    assert message == "messages of [1, 2] bytes, expected one length on all ranks"

    def gathers(length: int):
        buffer = np.zeros(8, np.uint8)
        return lambda comm: comm.allgather(buffer, [(0, length), (length, 8)]).wait()

    message = run_both(gathers(4), gathers(3))
    assert message == "rank 0 sends 4 bytes to rank 1, which expects 3"

    def adds(count: int):
        send, receive = np.zeros(2 * count), np.zeros(count)
        places = [(0, 8 * count), (8 * count, 16 * count)]
        return lambda comm: comm.reduce_scatter(
            send.view(np.uint8), places, receive.view(np.uint8), np.float64
        ).wait()

    message = run_both(adds(2), adds(3))
    assert message == "rank 1 has 3 elements for rank 0, and rank 0 2"


@pytest.mark.parametrize(
    ("buffer", "places", "message"),
    [
        (np.zeros(4), [(0, 4)], "a buffer of dtype float64 and shape (4,), expected contiguous bytes: write array.reshape(-1).view(np.uint8)"),
        (np.zeros(8, np.uint8)[::2], [(0, 4)], "a buffer of dtype uint8 and shape (4,), expected contiguous bytes: write array.reshape(-1).view(np.uint8)"),
        (np.zeros(4, np.uint8), [], "0 places, expected one for each of 1 ranks"),
        (np.zeros(4, np.uint8), [(0, 5)], "place (0, 5) of a buffer of 4 bytes"),
        (np.zeros(4, np.uint8), [(3, 2)], "place (3, 2) of a buffer of 4 bytes"),
    ],
)  # fmt: skip
def test_buffers_and_places(buffer, places, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Local(1).run(lambda comm: comm.allgather(buffer, places))
    assert str(caught.value) == message


def test_roots() -> None:
    with pytest.raises(ValueError, match=r"^root is 1, expected a rank below 1$"):
        Local(1).run(lambda comm: comm.broadcast(np.zeros(1, np.uint8), 1))


def test_an_interrupt_of_the_program_ends_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes to the thread that waits for the ranks."""
    waiting = threading.Event()
    outcomes = []

    def program(comm: Communicator) -> None:
        try:
            if comm.rank == 0:  # the other waits for it
                waiting.wait()
            comm.share(b"")
        except RankError as error:
            outcomes.append(str(error))
            raise

    came: list[int] = []

    class Thread(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if not came:
                came.append(signal.SIGINT)
                threading.Timer(0.05, waiting.set).start()
                raise KeyboardInterrupt
            super().join(timeout)

    monkeypatch.setattr("cyoptim.distributed._communicators.local.threading.Thread", Thread)
    with pytest.raises(KeyboardInterrupt):
        Local(2).run(program)
    assert outcomes == ["the program has ended by KeyboardInterrupt"] * 2


# --- what the user gives --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comm", "found", "instead"),
    [
        (None, "None", "write comm=MPI.COMM_WORLD, after `from mpi4py import MPI`"),
        ("gloo", "of type str", "write comm=MPI.COMM_WORLD, after `from mpi4py import MPI`"),
        (Local(2), "of type cyoptim.distributed._communicators.local.Local", "write comm.run(function), which calls function(member) for each member"),
    ],
)  # fmt: skip
def test_what_is_no_communicator(comm: object, found: str, instead: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_communicator(comm)
    assert str(caught.value) == (
        f"comm is {found}, expected a communicator of mpi4py, a process group of "
        f"torch.distributed, or a member of cyoptim.distributed.Local: {instead}"
    )

"""Agreements of ranks that are threads; those of processes are in tests/mpi."""

from __future__ import annotations

import pickle
import signal

import numpy as np
import pytest

from cyoptim.distributed import Communicator, Local, RankError
from cyoptim.distributed._agreement import Ranks, first_difference
from tests.support.agreements import CASES


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_agreements(case: str, size: int) -> None:
    Local(size).run(CASES[case])


def test_one_rank_alone_exchanges_nothing() -> None:
    class Alone:
        rank, size = 0, 1

    ranks = Ranks(Alone())  # type: ignore[arg-type]
    partials = np.ones(3)

    def step() -> str:
        ranks.agree({"lr": 0.1})
        assert ranks.gather(partials) is partials
        assert ranks.unite([3, 1, 3]) == [1, 3]
        ranks.ready()
        return "done"

    assert ranks.together("step", step) == "done"


def test_a_step_needs_few_exchanges() -> None:
    """One message at each point."""
    counts = []

    class Counting:
        def __init__(self, member: Communicator) -> None:
            self.member, self.rank, self.size, self.count = member, member.rank, member.size, 0

        def share(self, message: bytes) -> list[bytes]:
            self.count += 1
            return self.member.share(message)

        def allgather(self, *args):
            return self.member.allgather(*args)

    def program(member: Communicator) -> None:
        comm = Counting(member)
        ranks = Ranks(comm)  # type: ignore[arg-type]

        def step() -> None:
            ranks.agree({"lr": 0.1})
            ranks.unite([])
            ranks.gather(np.ones(1))
            ranks.ready()
            ranks.gather(np.ones(1))

        ranks.together("step", step)
        counts.append(comm.count)

    Local(2).run(program)
    assert counts == [5, 5]


def test_where_nothing_can_be_sent_the_own_error_is_raised() -> None:
    class Broken:
        rank, size = 0, 2

        def share(self, message: bytes) -> list[bytes]:
            raise OSError("no network")

    def step() -> None:
        raise ValueError("the own error")

    with pytest.raises(ValueError, match="the own error"):
        Ranks(Broken()).together("step", step)  # type: ignore[arg-type]


def test_handlers_are_restored_if_one_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal whose handler is not replaced yet arrives when the first one is."""
    module = "cyoptim.distributed._agreement"

    class Two:
        rank, size = 0, 2

    def install(number: int, handler: object) -> None:
        if number == signal.SIGTERM:
            raise SystemExit
        installed.append((number, handler))

    installed: list[tuple[int, object]] = []
    monkeypatch.setattr(f"{module}._signal.getsignal", lambda number: print)
    monkeypatch.setattr(f"{module}._signal.signal", install)
    monkeypatch.setattr(f"{module}.DEFERRED", (signal.SIGINT, signal.SIGTERM))
    with pytest.raises(SystemExit):
        Ranks(Two()).together("step", print)  # type: ignore[arg-type]
    assert installed[-1] == (signal.SIGINT, print)


def test_errors_can_be_sent() -> None:
    error = pickle.loads(pickle.dumps(RankError("step: rank 2 raised ValueError", (2,))))
    assert str(error) == "step: rank 2 raised ValueError"
    assert error.ranks == (2,)
    assert isinstance(error, RuntimeError)
    assert RankError("text").ranks == ()


def test_differences_without_words() -> None:
    message = "what must be equal on all ranks differs, in values whose text is the same"
    assert first_difference([{"lr": "0.1"}, {"lr": "0.1"}]) == message

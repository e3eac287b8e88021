"""What ranks must agree about: each function here is the program of one rank.

They run in threads (`Local`), in processes of torch.distributed, and under each MPI library. Those
in `WITH_SIGNALS` send signals, which only the main thread of a process gets.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cyoptim.distributed import Communicator, RankError
from cyoptim.distributed._agreement import Ranks

Program = Callable[[Communicator], None]
CASES: dict[str, Program] = {}
"""By name; of at least two ranks."""
WITH_SIGNALS: dict[str, Program] = {}
AT_ONCE = 5  # seconds


def a_case(function: Program) -> Program:
    CASES[function.__name__] = function
    return function


def with_signals(function: Program) -> Program:
    WITH_SIGNALS[function.__name__] = function
    return function


@contextmanager
def raises_everywhere(
    ranks: Ranks, failing: dict[int, BaseException], message: str
) -> Iterator[None]:
    """Within seconds the failing ranks raise their errors, the others a RankError with this text."""
    begin = time.monotonic()
    own = failing.get(ranks.rank)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        yield
    if own is None:
        assert type(caught.value) is RankError
        assert str(caught.value) == message
        assert caught.value.ranks == tuple(failing)
    else:
        assert caught.value is own
    assert time.monotonic() - begin < AT_ONCE
    check_still_works(ranks)


def check_still_works(ranks: Ranks) -> None:
    """The ranks are where each other expects them."""
    assert ranks.together("check", lambda: ranks.unite([ranks.rank])) == [*range(ranks.size)]
    shared = ranks.communicator.share(b"%d" % ranks.rank)
    assert shared == [b"%d" % rank for rank in range(ranks.size)]


def points(ranks: Ranks) -> list[Callable[[], Any]]:
    """The exchanges of an operation."""
    return [
        lambda: ranks.agree({"max_norm": 1.0, "options": [0.1, None]}),
        lambda: ranks.gather(np.array([0.5 + ranks.rank])),
        lambda: ranks.unite([ranks.rank]),
        ranks.ready,
    ]


# --- what one rank learns from the others -----------------------------------------------------------


@a_case
def sums_come_in_the_order_of_the_ranks(comm: Communicator) -> None:
    ranks = Ranks(comm)
    for counts in (
        [3] * comm.size,
        [*range(comm.size)],
        [0] * comm.size,
        [5, *[0] * 9][: comm.size],
    ):
        parts = [np.arange(count) + 0.1 + rank for rank, count in enumerate(counts)]
        found = ranks.gather(parts[comm.rank])
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, np.concatenate(parts))


@a_case
def numbers_are_united(comm: Communicator) -> None:
    ranks, last = Ranks(comm), comm.size - 1
    assert ranks.unite([]) == []
    assert ranks.unite([7, 3]) == [3, 7]
    assert ranks.unite([comm.rank, 100]) == [*range(comm.size), 100]
    assert ranks.unite([5, 4, 9] if comm.rank == last else []) == [4, 5, 9]


@a_case
def an_operation_returns_what_its_function_does(comm: Communicator) -> None:
    ranks = Ranks(comm)

    def step(a: int, b: int) -> tuple[int, list[float]]:
        for point in points(ranks):
            point()
        after = ranks.gather(np.array([1.5 * ranks.rank]))
        return a + b, after.tolist()

    assert ranks.together("step", step, 2, 3) == (5, [1.5 * rank for rank in range(comm.size)])
    check_still_works(ranks)


@a_case
def an_operation_within_another_is_a_part_of_it(comm: Communicator) -> None:
    ranks, error = Ranks(comm), ValueError("inside")

    def inner() -> None:
        ranks.agree(b"inner")
        if comm.rank == 1:
            raise error

    with raises_everywhere(ranks, {1: error}, "outer: rank 1 raised ValueError: inside"):
        ranks.together("outer", lambda: ranks.together("inner", inner))


# --- failures -------------------------------------------------------------------------------------


@a_case
def a_rank_raises_at_any_point(comm: Communicator) -> None:
    ranks = Ranks(comm)
    for failing in range(comm.size):
        for passed in range(4):
            error = ValueError(f"the gradient of parameter {passed} is no array")

            def step(failing: int = failing, passed: int = passed, error: Any = error) -> None:
                for number, point in enumerate(points(ranks)):
                    if comm.rank == failing and number == passed:
                        raise error
                    point()

            message = f"step: rank {failing} raised ValueError: {error}"
            with raises_everywhere(ranks, {failing: error}, message):
                ranks.together("step", step)


@a_case
def a_rank_raises_at_the_end_of_an_operation_without_a_last_point(comm: Communicator) -> None:
    ranks, error = Ranks(comm), OSError("no space")

    def save() -> None:
        if comm.rank == 0:
            raise error

    with raises_everywhere(ranks, {0: error}, "save: rank 0 raised OSError: no space"):
        ranks.together("save", save)


@a_case
def two_ranks_raise(comm: Communicator) -> None:
    ranks, last = Ranks(comm), comm.size - 1
    errors = {0: ValueError("one"), last: TypeError("a longer text")}

    def step() -> None:
        if comm.rank in errors:
            raise errors[comm.rank]
        for point in points(ranks):
            point()

    message = f"step: rank 0 raised ValueError: one; rank {last} raised TypeError: a longer text"
    with raises_everywhere(ranks, errors, message):
        ranks.together("step", step)


@a_case
def errors_of_every_kind_and_text(comm: Communicator) -> None:
    ranks = Ranks(comm)
    cases: list[tuple[BaseException, str]] = [
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError(), "MemoryError"),
        (ValueError("η = ∞\nand a second line"), "ValueError: η = ∞\nand a second line"),
        (ValueError("long " * 5000), ("ValueError: " + "long " * 5000)[:4000]),
        (ValueError("\0end\0"), "ValueError: \0end"),
    ]
    for error, text in cases:

        def step(error: BaseException = error) -> None:
            if comm.rank == 1:
                raise error
            ranks.agree({"lr": 0.1})

        with raises_everywhere(ranks, {1: error}, f"step: rank 1 raised {text}"):
            ranks.together("step", step)


@a_case
def an_error_after_the_last_point_is_its_ranks_own(comm: Communicator) -> None:
    ranks = Ranks(comm)

    def step() -> str:
        ranks.ready()
        if comm.rank == 1:
            raise ValueError("too late")
        return "done"

    if comm.rank == 1:
        with pytest.raises(ValueError, match="too late"):
            ranks.together("step", step)
    else:
        assert ranks.together("step", step) == "done"
    check_still_works(ranks)


# --- descriptions ---------------------------------------------------------------------------------


@a_case
def descriptions_that_differ(comm: Communicator) -> None:
    ranks, last = Ranks(comm), comm.size - 1
    common = {"lr": 0.1, "max_norm": None, "gradients": (0, 2)}
    cases: list[tuple[Any, str]] = [
        ({**common, "max_norm": 1.0}, f"rank {last} has max_norm=1.0, rank 0 max_norm=None"),
        ({"lr": 0.1, "gradients": (0, 2)}, f"rank {last} has no max_norm, rank 0 max_norm=None"),
        ({**common, "foreach": 1}, f"rank {last} has foreach=1, rank 0 no foreach"),
        ({**common, "lr": 0.1 + 1e-18}, ""),
        (dict(reversed(common.items())), ""),
        ({**common, "lr": 0.1 + 2e-16}, f"rank {last} has lr={0.1 + 2e-16}, rank 0 lr=0.1"),
        (
            {**common, "gradients": [1] * 500},
            f"rank {last} has gradients={str([1] * 500)[:200]}..., rank 0 gradients=(0, 2)",
        ),
        (b"bytes", f"rank {last} has no lr, rank 0 lr=0.1"),
    ]
    for other, message in cases:
        description = other if comm.rank == last else common
        if message:
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                ranks.together("step", ranks.agree, description)
            assert str(caught.value) == f"step: {message}"
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                ranks.agree(description)
            assert str(caught.value) == message
        else:
            ranks.together("step", ranks.agree, description)
        check_still_works(ranks)


@a_case
def the_first_rank_that_differs_is_named(comm: Communicator) -> None:
    ranks = Ranks(comm)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ranks.together("step", ranks.agree, {"lr": float(comm.rank)})
    assert str(caught.value) == "step: rank 1 has lr=1.0, rank 0 lr=0.0"
    check_still_works(ranks)


@a_case
def bytes_that_differ(comm: Communicator) -> None:
    ranks = Ranks(comm)
    ranks.agree(b"layout")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ranks.agree(b"layout %d" % comm.rank)
    assert str(caught.value) == "rank 1 has point=b'layout 1', rank 0 point=b'layout 0'"
    check_still_works(ranks)


@a_case
def operations_that_differ(comm: Communicator) -> None:
    ranks = Ranks(comm)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ranks.together("step" if comm.rank else "state_dict", lambda: None)
    end = (
        "rank 1 calls step, rank 0 state_dict: every rank has to make the same calls, so none "
        "belongs into `if rank == 0:`"
    )
    assert str(caught.value) == f"{'step' if comm.rank else 'state_dict'}: {end}"
    check_still_works(ranks)


@a_case
def a_failure_comes_before_a_difference(comm: Communicator) -> None:
    ranks, error = Ranks(comm), ValueError("a text")

    def step() -> None:
        if comm.rank == 1:
            raise error
        ranks.agree({"rank": comm.rank})

    with raises_everywhere(ranks, {1: error}, "step: rank 1 raised ValueError: a text"):
        ranks.together("step", step)


# --- signals ----------------------------------------------------------------------------------------


@with_signals
def an_interrupt_waits_for_the_next_point(comm: Communicator) -> None:
    ranks, done = Ranks(comm), []

    def step() -> None:
        ranks.agree({"lr": 0.1})
        if comm.rank == 1:
            signal.raise_signal(signal.SIGINT)
        done.append("between")
        ranks.ready()
        done.append("changed")

    kind = KeyboardInterrupt if comm.rank == 1 else RankError
    with pytest.raises(kind) as caught:
        ranks.together("step", step)
    if comm.rank != 1:
        assert str(caught.value) == "step: rank 1 raised KeyboardInterrupt"
    assert done == ["between"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    check_still_works(ranks)


@with_signals
def an_interrupt_after_the_last_point_waits_for_the_end(comm: Communicator) -> None:
    ranks, done = Ranks(comm), []

    def step() -> None:
        ranks.ready()
        if comm.rank == 0:
            signal.raise_signal(signal.SIGINT)
        done.extend(ranks.gather(np.ones(1)))

    if comm.rank == 0:
        with pytest.raises(KeyboardInterrupt):
            ranks.together("step", step)
    else:
        ranks.together("step", step)
    assert done == [1.0] * comm.size
    check_still_works(ranks)


@with_signals
def a_handler_of_ones_own_is_called(comm: Communicator) -> None:
    ranks, came = Ranks(comm), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))

    def step() -> None:
        signal.raise_signal(signal.SIGTERM)
        assert came == []
        ranks.agree({"lr": 0.1})
        assert came == [signal.SIGTERM]
        ranks.ready()
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]

    try:
        ranks.together("step", step)
        assert came == [signal.SIGTERM] * 2
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM] * 3
    finally:
        signal.signal(signal.SIGTERM, before)
    check_still_works(ranks)


@with_signals
def ignored_signals_stay_ignored(comm: Communicator) -> None:
    ranks = Ranks(comm)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ranks.together("step", lambda: signal.raise_signal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    check_still_works(ranks)

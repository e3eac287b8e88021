"""A KeyboardInterrupt at every opcode of every call: all is as before the call or as after it, the
call can be repeated, and goes on with the bits of an optimizer that was not interrupted.

A case is an operation and a boundary between two opcodes of the package's own code, at which the
interrupt is raised (`_once`). Or it is one at which a signal would be handled, in a second series
with a second interrupt at each boundary of what then cleans up (`_twice`). A third series uses a
timer's real signals on arrays so large that the time goes by in native code (`_by_timer`).
"""

from __future__ import annotations

import contextlib
import dis
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import cyoptim
import cyoptim.checkpoint

from .operations import Operation, World, operations, timed_operations
from .states import difference

NAME = "interrupts"
LONG = 10**9  # all there are
SLICE = 1000
LIMIT = 120.0
SEEDS: tuple[int, ...] = ()

SPAN = 100_000  # numbers of an operation's cases in one series
SERIES = 3
PACKAGE = str(Path(cyoptim.__file__).parent)
FIRST = 3  # times that a place is reached; a loop goes on with more
MOST = 100  # second interrupts after one first
TIMED = 60  # cases of the third series, for each operation


# --- what an interrupt may leave ------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """How the world looks before and after the call, and where it goes from there."""

    before: dict[str, Any]
    after: dict[str, Any]
    before_final: dict[str, Any]  # call, and what is done afterwards
    after_final: dict[str, Any]  # the call again, and what is done afterwards


@cache
def expected(operation: Operation) -> Expected:
    def final(times: int) -> dict[str, Any]:
        world = operation.make()
        for _ in range(times):
            operation.act(world)
        operation.finish(world)
        return _look_and_close(world)

    world, done = operation.make(), operation.make()
    operation.act(done)
    return Expected(_look_and_close(world), _look_and_close(done), final(1), final(2))


def _look_and_close(world: World) -> dict[str, Any]:
    found = world.look()
    world.close()
    return found


def judge(operation: Operation, world: World, where: str) -> str:
    """Whether the world is whole after an interrupt."""
    wanted, found = expected(operation), world.look()
    finals = []
    if found == wanted.before:
        finals.append(("before", wanted.before_final))
    if found == wanted.after:
        finals.append(("after", wanted.after_final))
    if not finals:
        was, becomes = difference(wanted.before, found), difference(wanted.after, found)
        raise AssertionError(
            f"{where}: not as before: {', '.join(was)}; not as after: {', '.join(becomes)}\n"
            f"half done: {operation}"
        )
    what = "repeat the call"
    try:
        operation.act(world)
        what = "step afterwards"
        operation.finish(world)
    except Exception as error:
        raise AssertionError(
            f"{where}: {type(error).__name__}: {error}\ncannot {what}: {operation}"
        ) from error
    last = world.look()
    for outcome, final in finals:
        if last == final:
            return outcome
    raise AssertionError(
        f"{where}: looked as {' and '.join(o for o, _ in finals)}, but differs later: "
        f"{', '.join(difference(finals[0][1], last))}\nhalf done, hidden: {operation}"
    )


# --- interrupts between opcodes -------------------------------------------------------------------


def _is_traced(code: Any) -> bool:
    return code.co_filename.startswith(PACKAGE) or code.co_filename == contextlib.__file__


class Tracer:
    """Counts the opcodes of the package's frames, and interrupts before those asked for.

    An exception from a trace function ends the tracing. For a second one it begins again with the
    next call or return, of which a profile function hears; no signal is handled before that.
    """

    def __init__(self, at: int = -1, then: int | None = None) -> None:
        self.places: list[tuple[Any, int]] = []
        self.where = ""
        self.since = 0  # opcodes since the first interrupt
        self._at, self._then, self._raised = at, then, False

    def run(self, work: Callable[[], Any]) -> None:
        """Run under this trace, interrupted or not."""
        sys.settrace(self._call)
        if self._then is not None:
            sys.setprofile(self._profile)
        try:
            work()
        except KeyboardInterrupt:
            pass
        except Exception as error:
            raise AssertionError(
                f"interrupted at{self.where}: {error}\nan interrupt comes out as {type(error).__name__}"
            ) from error
        finally:
            sys.setprofile(None)
            sys.settrace(None)

    def _profile(self, frame: Any, event: str, arg: Any) -> None:
        if self._raised and sys.gettrace() is None and self.since == 0:
            sys.settrace(self._call)
            while frame is not None:
                if _is_traced(frame.f_code):
                    frame.f_trace = self._call(frame, event, arg)
                frame = frame.f_back

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        if not _is_traced(frame.f_code):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._local

    def _local(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._boundary(frame)
        return self._local

    def _boundary(self, frame: Any) -> None:
        if self._raised:
            self.since += 1
            if self.since == self._then:
                self._interrupt(frame)
            return
        self.places.append((frame.f_code, frame.f_lasti))
        if len(self.places) - 1 == self._at:
            self._raised = True
            self._interrupt(frame)

    def _interrupt(self, frame: Any) -> None:
        code = frame.f_code
        file = os.path.basename(code.co_filename)
        self.where += f" {file}:{frame.f_lineno} in {code.co_name} (opcode {frame.f_lasti})"
        raise KeyboardInterrupt


def _boundaries(operation: Operation) -> list[tuple[int, bool]]:
    """Where the call is interrupted: each place in the code when it is first reached, the times
    after that, and the last time; and whether a signal can be handled just before it."""
    warm = operation.make()
    operation.act(warm)  # what is imported or made once
    warm.close()
    world, tracer = operation.make(), Tracer()
    tracer.run(lambda: operation.act(world))
    world.close()
    times: dict[tuple[Any, int], list[int]] = {}
    for number, place in enumerate(tracer.places):
        times.setdefault(place, []).append(number)
    handled = [_handles_signals(*place) for place in tracer.places]
    chosen = [
        (number, number > 0 and handled[number - 1])
        for place, all_times in times.items()
        for number in {*all_times[:FIRST], all_times[-1]}
    ]
    return sorted(chosen)


def _handles_signals(code: Any, place: int) -> bool:
    name = dis.opname[code.co_code[place]]
    return name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "FOR_ITER"))


def _once(operation: Operation, k: int) -> str:
    expected(operation)
    world, tracer = operation.make(), Tracer(k)
    try:
        tracer.run(lambda: operation.act(world))
        return judge(operation, world, f"interrupted at {k}:{tracer.where}")
    finally:
        world.close()


def _twice(operation: Operation, k: int) -> str:
    """A second interrupt at every boundary after the first."""
    expected(operation)
    second, step = 0, 1
    while True:
        world, tracer = operation.make(), Tracer(k, second)
        try:
            tracer.run(lambda: operation.act(world))  # noqa: B023
            judge(operation, world, f"interrupted at {k} and {second} later:{tracer.where}")
        finally:
            world.close()
        if second == 0:
            step = max(1, -(-tracer.since // MOST))
        elif second > tracer.since - step:
            break
        if tracer.since == 0:
            return "nothing to clean up"
        second += step
    return "twice"


# --- interrupts by a timer ------------------------------------------------------------------------


@cache
def _duration(operation: Operation) -> float:
    def timed() -> float:
        world = operation.make()
        begin = time.perf_counter()
        operation.act(world)
        return time.perf_counter() - begin

    return min(timed() for _ in range(3))  # the first makes threads


class Alarm:
    """Raises one KeyboardInterrupt after a delay, unless disarmed before."""

    def __init__(self, delay: float) -> None:
        self._delay, self._armed = max(delay, 1e-6), True
        self._old = signal.signal(signal.SIGALRM, self._handle)

    def start(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._delay)

    def disarm(self) -> None:
        self._armed = False

    def close(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    def _handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt


def _by_timer(operation: Operation, k: int) -> str:
    expected(operation)
    delay = np.random.default_rng(k).uniform(0, 1.3) * _duration(operation)
    world, alarm = operation.make(), Alarm(delay)
    try:
        alarm.start()
        operation.act(world)
        alarm.disarm()
    except KeyboardInterrupt:
        pass
    finally:
        alarm.close()
    return "timed, " + judge(operation, world, f"interrupted after {delay * 1e6:.0f} us")


# --- cases ----------------------------------------------------------------------------------------


def cases() -> Iterator[int]:
    """Every boundary of every call, once and with second interrupts; then those of the timer."""
    yield from _numbers()


@lru_cache(maxsize=1)
def _numbers() -> tuple[int, ...]:
    numbers: list[int] = []
    with _quiet():
        for o, operation in enumerate(operations()):
            for k, handles_signals in _boundaries(operation):
                numbers += [
                    (o * SERIES + series) * SPAN + k for series in range(1 + handles_signals)
                ]
    for o in range(len(timed_operations())):
        first = (o * SERIES + 2) * SPAN
        numbers += range(first, first + TIMED)
    return tuple(sorted(numbers))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def check(case: int) -> str:
    """Interrupt one call at one place, or once and then at every later place."""
    number, k = divmod(case, SPAN)
    o, series = divmod(number, SERIES)
    with _quiet():
        if series == 2:
            return _by_timer(timed_operations()[o], k)
        return (_once, _twice)[series](operations()[o], k)

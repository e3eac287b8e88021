"""What happens on all ranks or on none.

(a) In an operation, such as a step, ranks exchange a small message at some points, the last of them
when everything that can fail is done and nothing has changed. A rank that fails before sends its
failure instead, at whatever point the others are: all messages have one length. Then all raise.
(b) The message has a digest of what must be equal on all ranks. If digests differ, a second
exchange brings the descriptions in words, to say in what.
(c) An interrupt between two exchanges would leave the others waiting. So its handler runs at the
points, where it counts as a failure of this rank, or at the end of the operation.
(d) After the last point nothing can fail, and no handler runs. Sums may still be exchanged.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, pairwise
from signal import SIGINT, SIGTERM
from struct import Struct
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator
from cyoptim.distributed._errors import RankError, told

__all__ = ["RankError", "Ranks"]

T = TypeVar("T")

# Whether the rank has failed; a number, of which each point has its own meaning; a digest.
MESSAGE = Struct("<B7xQ16s")
LENGTH = Struct("<Q")
LONGEST_TEXT = 4000  # characters of an error that the other ranks are told
OPERATION = "operation"  # in a description, what its rank calls
LONGEST_VALUE = 200  # characters of a value in a message
# By the module that `signal` wraps, whose conversions to enums would take 10 us a step.
DEFERRED = (int(SIGINT), int(SIGTERM))


class Ranks:
    """This process among those of a communicator.

    It is used by one thread at a time, in the turn of an optimizer.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size
        self._operation: _Operation | None = None

    def together(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function on every rank, as one operation that either all can do or none.

        The function exchanges with other ranks by the methods below only, until it calls `ready`,
        which is done for it at the end if it has not. All that can fail comes before that. Between
        two of these points it may use the communicator, if nothing can fail on one rank from the
        first exchange of all to the last: the others would wait for that rank's part.

        Parameters
        ----------
        what : str
            The operation, as a message names it: "step".
        function : callable
            What this rank does.
        *args
            Its arguments.

        Raises
        ------
        RankError
            If another rank has failed.
        """
        if self._operation is not None or self.size == 1:
            return function(*args)
        with _Interrupts() as interrupts:
            operation = self._operation = _Operation(what, interrupts)
            try:
                result = function(*args)
                if operation.is_open:
                    self.ready()
            except BaseException as error:
                self._tell(operation, error)
                raise
            finally:
                self._operation = None
        return result

    def agree(self, description: Mapping[str, object] | bytes) -> None:
        """Return when all ranks have come here with equal descriptions.

        Parameters
        ----------
        description : dict or bytes
            Names, with values whose `repr` is the same on all ranks; or bytes.

        Raises
        ------
        RankError
            If another rank has failed.
        ValueError
            On all ranks, if descriptions differ.
        """
        if self.size > 1:
            self._exchange(0, description)

    def ready(self) -> None:
        """The last point of an operation: everything that can fail is done, nothing has changed."""
        if self.size > 1:
            self._exchange(0, b"the last point")
            if self._operation is not None:
                self._operation.is_open = False

    def gather(self, partials: Array) -> Array:
        """The numbers of all ranks, in their order.

        Parameters
        ----------
        partials : ndarray of float64
            Those of this rank; another may have more or fewer.
        """
        if self.size == 1:
            return partials
        counts = self._exchange(len(partials), b"a sum")
        ends = [8 * end for end in accumulate(counts, initial=0)]
        places = list(pairwise(ends))
        numbers = np.empty(ends[-1] // 8)
        start, stop = places[self.rank]
        numbers[start // 8 : stop // 8] = partials
        self.communicator.allgather(numbers.view(np.uint8), places).wait()
        return numbers

    def unite(self, numbers: Sequence[int]) -> list[int]:
        """The numbers of all ranks, each once, sorted."""
        if self.size == 1:
            return sorted({*numbers})
        counts = self._exchange(len(numbers), b"a list of numbers")
        longest = max(counts)
        if longest == 0:
            return []
        own = np.full(longest, -1, np.int64)
        own[: len(numbers)] = numbers
        found = np.frombuffer(b"".join(self.communicator.share(own.tobytes())), np.int64)
        return sorted({*found[found >= 0].tolist()})

    def _exchange(self, number: int, description: Mapping[str, object] | bytes) -> list[int]:
        """One point: return the numbers of all ranks, or raise on all."""
        operation = self._operation
        if operation is not None and operation.is_open:
            operation.interrupts.handle()
        content = digest(description, self._what())
        own = MESSAGE.pack(0, number, content)
        messages = self.communicator.share(own)
        if messages.count(own) == self.size:
            return [number] * self.size
        opened = [MESSAGE.unpack(message) for message in messages]
        numbers = [number for _, number, _ in opened]
        failed = tuple(rank for rank, (flag, _, _) in enumerate(opened) if flag)
        differs = any(other != content for _, _, other in opened)
        if operation is not None and (failed or differs):
            operation.is_open = False  # all ranks know
        if failed:
            self._raise_failure(failed, numbers)
        if differs:
            self._raise_difference(description)
        return numbers

    def _tell(self, operation: _Operation, error: BaseException) -> None:
        """Send this rank's error to the others, if they do not know of it."""
        if not operation.is_open:
            return
        operation.is_open = False
        text = told(error)[:LONGEST_TEXT].encode()
        with suppress(Exception):  # where nothing can be sent, this rank's own error says more
            messages = self.communicator.share(MESSAGE.pack(1, len(text), bytes(16)))
            opened = [MESSAGE.unpack(message) for message in messages]
            self._share_texts(text, max(length for flag, length, _ in opened if flag))

    def _raise_failure(self, failed: tuple[int, ...], lengths: list[int]) -> None:
        texts = self._share_texts(b"", max(lengths[rank] for rank in failed))
        errors = "; ".join(f"rank {rank} raised {texts[rank]}" for rank in failed)
        raise RankError(self._named(errors), failed)

    def _raise_difference(self, description: Mapping[str, object] | bytes) -> None:
        own = in_words(description, self._what())
        lengths = self.communicator.share(LENGTH.pack(len(own)))
        longest = max(LENGTH.unpack(length)[0] for length in lengths)
        texts = self._share_texts(own, longest)
        raise ValueError(self._named(first_difference([json.loads(text) for text in texts])))

    def _share_texts(self, text: bytes, longest: int) -> list[str]:
        """The texts of all ranks, of which none is longer than so many bytes."""
        padded = self.communicator.share(text.ljust(longest, b"\0"))
        return [other.rstrip(b"\0").decode(errors="replace") for other in padded]

    def _what(self) -> str:
        return "" if self._operation is None else self._operation.what

    def _named(self, message: str) -> str:
        return f"{self._what()}: {message}" if self._operation is not None else message


class _Operation:
    """An operation that has begun on this rank."""

    def __init__(self, what: str, interrupts: _Interrupts) -> None:
        self.what, self.interrupts = what, interrupts
        self.is_open = True  # the others wait for a message of this rank


class _Interrupts:
    """While entered, handlers of interrupts run where `handle` is called, and at the end."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            found = {number: _signal.getsignal(number) for number in DEFERRED}
            # Others end the process, or do nothing.
            self._handlers = {
                number: handler for number, handler in found.items() if callable(handler)
            }
            try:
                for number in self._handlers:
                    _signal.signal(number, self._note)
            except BaseException:  # the handler of one that is not replaced yet
                self._restore()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        self.handle()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            _signal.signal(number, handler)

    def handle(self) -> None:
        """Call the handlers of what has come, which may raise."""
        while self._came:
            number, frame = self._came.pop(0)
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))


# --- descriptions ---------------------------------------------------------------------------------


class Words(Mapping[str, object]):
    """A description that is short where all ranks agree, and made in full where they do not.

    Parameters
    ----------
    short : str
        Differs where the description does.
    make : callable
        Makes the names and values of it.
    """

    def __init__(self, short: str, make: Callable[[], dict[str, object]]) -> None:
        self.short, self._make = short.encode(), make

    @cached_property
    def _full(self) -> dict[str, object]:
        return self._make()

    def __getitem__(self, name: str) -> object:
        return self._full[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._full)

    def __len__(self) -> int:
        return len(self._full)


def digest(description: Mapping[str, object] | bytes, what: str) -> bytes:
    """16 bytes that differ if descriptions do, or the operations to which they belong."""
    if isinstance(description, Words):
        description = description.short
    elif not isinstance(description, bytes):
        description = repr(sorted(description.items())).encode()
    return blake2b(description, digest_size=16, key=what.encode()[:64]).digest()


def in_words(description: Mapping[str, object] | bytes, what: str) -> bytes:
    """A description as the ranks send it to each other when descriptions differ."""
    if isinstance(description, bytes):
        description = {"point": description}
    values = {name: repr(value) for name, value in description.items()}
    return json.dumps({OPERATION: what, **values}).encode()


def first_difference(descriptions: list[dict[str, str]]) -> str:
    """The first rank that differs from rank 0, and in what."""
    first = descriptions[0]
    for rank, other in enumerate(descriptions):
        for name in [*first, *(name for name in other if name not in first)]:
            if first.get(name) == other.get(name):
                continue
            if name == OPERATION:
                return (
                    f"rank {rank} calls {other[name]}, rank 0 {first[name]}: every rank has to "
                    "make the same calls, so none belongs into `if rank == 0:`"
                )
            return f"rank {rank} has {_said(name, other)}, rank 0 {_said(name, first)}"
    return "what must be equal on all ranks differs, in values whose text is the same"


def _said(name: str, description: dict[str, str]) -> str:
    value = description.get(name)
    if value is None:
        return f"no {name}"
    return f"{name}={value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + '...'}"

"""The way of gradients to the ranks that step them, and of parameters back to all ranks.

(a) What a rank has of the tensors is cut into as many pieces on every rank. Bucket b has piece b of
each: in its exchange every rank sends and receives about as much.
(b) Two buckets are under way at once: one is packed, or what has arrived of it is added up, while
the other travels.
(c) Long segments are sent from where they are, and parameters received there. Short ones are
packed, in places that are planned once. Segments begin at multiples of 64 bytes.
(d) Plans depend on sizes and types alone, which are the same on all ranks. An array with gaps, or
in another order, is packed on its rank.
(e) Gradients of all ranks are added up in the order of the ranks' tree, by the rank that steps
them: the library's own sums have another order for each number of ranks. Those of one other rank
arrive in the place of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple

import numpy as np

from cyoptim._engine import DTYPES, encode_array, name_of_dtype, sum_pieces, widened
from cyoptim._types import Array
from cyoptim.distributed._buckets import (
    LINE,
    Bucket,
    Memory,
    Message,
    Placed,
    as_bytes,
    buckets_of,
    messages_of,
    overlapped,
    packed,
    up,
)
from cyoptim.distributed._communicators import Communicator, Pending
from cyoptim.distributed._layout import Layout, Segment, blocks

LONG = 2**16  # bytes of a segment that is not packed, as another message costs less
BUCKET = 2**24  # bytes
NEIGHBOURS = 8  # ranks that send their parameters to each other; more pass them on in a ring


class Kind(NamedTuple):
    """How gradients of a type travel, and in what they are added up."""

    wire: np.dtype[Any]
    total: np.dtype[Any]
    codec: str | None = None  # of what travels
    rounds: bool = False  # float32 numbers, to fit the wire
    widens: bool = False  # numbers of 16 bits, to float32

    @property
    def as_they_are(self) -> bool:
        """Whether what travels are the bits of the gradient."""
        return not (self.rounds or self.widens)

    @property
    def least_sent(self) -> float:
        """The elements of the shortest segment that is sent from where it is."""
        return LONG // self.wire.itemsize if self.as_they_are else inf


SIXTEEN = ("bfloat16", "float16")
SINGLE = np.dtype(np.float32)


def kind_of(dtype: np.dtype[Any], order: str, comm_dtype: str | None) -> Kind:
    """How gradients of a type travel."""
    name = name_of_dtype(dtype)
    if name in SIXTEEN:
        if order == "library":  # which could not add them up
            return Kind(SINGLE, SINGLE, widens=True)
        return Kind(DTYPES[name].numpy, SINGLE, name)
    if name == "float32" and comm_dtype is not None:
        return Kind(DTYPES[comm_dtype].numpy, SINGLE, comm_dtype, rounds=True)
    return Kind(np.dtype(name), np.dtype(name))


def usual_bucket(ranks: int) -> int:
    """Bytes of a bucket: so many that the messages of many ranks are not short."""
    return max(BUCKET, LONG * ranks)


def rows_of(
    layout: Layout, travels: Callable[[int], bool], unit: int, least: float
) -> list[list[Placed]]:
    """What each rank has of the tensors that travel, in elements; first what is packed."""
    rows = []
    for rank in range(len(layout.parts)):
        segments = [(one, 1) for one in layout.segments(rank) if travels(one.tensor)]
        segments.sort(key=lambda one: one[0].stop - one[0].first >= least)
        rows.append(packed(segments, unit))
    return rows


def others_of(rank: int, size: int, direction: int) -> list[int]:
    """All other ranks, the nearest one in a direction first: so each has another order."""
    return [(rank + direction * distance) % size for distance in range(1, size)]


# --- gradients ------------------------------------------------------------------------------------


class Gradients:
    """The way of gradients of these kinds; None for a tensor without.

    Parameters
    ----------
    layout : Layout
    communicator : Communicator
    kinds : sequence of Kind or None
        Of the gradient of each tensor.
    shapes : sequence of tuple or None
        Of the part that this rank steps of each; None if it does not step it.
    order : {"tree", "library"}
    limit : int
        Bytes of a bucket.
    memory : Memory
    """

    def __init__(
        self,
        layout: Layout,
        communicator: Communicator,
        kinds: Sequence[Kind | None],
        shapes: Sequence[tuple[int, ...] | None],
        order: str,
        limit: int,
        memory: Memory,
    ) -> None:
        self._communicator = communicator
        self.parts: list[Array | None] = [
            None if kind is None or shape is None else np.empty(shape, kind.total)
            for kind, shape in zip(kinds, shapes, strict=True)
        ]
        self._steps: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self._grads: list[Any] = []
        way = _ByTree if order == "tree" else _ByLibrary
        for number, kind in enumerate(dict.fromkeys(kind for kind in kinds if kind is not None)):
            self._add(kind, number, kinds, shapes, layout, way, limit, memory)

    def _add(
        self,
        kind: Kind,
        number: int,
        kinds: Sequence[Kind | None],
        shapes: Sequence[tuple[int, ...] | None],
        layout: Layout,
        way: Any,
        limit: int,
        memory: Memory,
    ) -> None:
        """Plan the way of those of one kind, which has a number."""
        itemsize = kind.wire.itemsize
        ranks = rows_of(
            layout, lambda tensor: kinds[tensor] == kind, LINE // itemsize, kind.least_sent
        )
        own = ranks[self._communicator.rank]
        size = (own[-1].end if own else 0) * kind.total.itemsize
        total = memory.buffer(f"total {number}", size).view(kind.total)
        for one in own:
            shape = shapes[one.tensor]
            if shape is not None:
                self.parts[one.tensor] = total[one.place : one.end].reshape(shape)
        buckets = buckets_of(ranks, itemsize, limit)
        memory.reserve("send", [bucket.size * itemsize for bucket in buckets])
        for bucket in buckets:
            parity = len(self._steps) % 2  # those of another kind are under way beside it, too
            step = way(self._communicator, kind, bucket, total, parity, memory)
            self._steps.append((partial(self._begin, step), step.end))

    def _begin(self, step: Any) -> Any:
        return step.begin(self._grads)

    def exchange(self, grads: Sequence[Array | None]) -> list[Array | None]:
        """The sums over all ranks of what this one has of each gradient, in arrays that the next
        exchange uses again."""
        self._grads = [*grads]
        try:
            overlapped(self._steps)
        finally:
            self._grads = []
        return self.parts


Target = tuple[Array, Array, Placed]
"""A place in a buffer, the same as numbers that NumPy copies fast, and what goes there."""


class _Way:
    """A bucket of gradients."""

    def __init__(
        self,
        communicator: Communicator,
        kind: Kind,
        bucket: Bucket,
        total: Array,
        parity: int,
        memory: Memory,
    ) -> None:
        self.communicator, self.kind, self.bucket = communicator, kind, bucket
        self.rank = communicator.rank
        self.itemsize = kind.wire.itemsize
        self.own = bucket.pieces[self.rank]
        self.total = total[self.own.begin : self.own.begin + self.own.length]
        self.parity, self.memory = parity, memory
        self.send = memory.buffer(f"send {parity}", bucket.size * self.itemsize)

    def packing(self, rank: int, segments: Sequence[Placed]) -> list[Target]:
        """Where segments of a rank's piece are packed."""
        buffer, begin = self.send.view(self.kind.wire), self.bucket.begins[rank]
        targets = [buffer[begin + one.place : begin + one.end] for one in segments]
        bits = [target.view(np.uint16) if self.itemsize == 2 else target for target in targets]
        return [*zip(targets, bits, segments, strict=True)]

    def pack(self, targets: Sequence[Target], grads: list[Any]) -> None:
        """Copy segments into the buffer."""
        plain = self.kind.as_they_are
        for target, bits, (tensor, first, stop, _) in targets:
            grad = grads[tensor]
            if plain and grad.flags.c_contiguous:
                row = grad.reshape(-1)[first:stop]
                bits[...] = row if bits is target else row.view(bits.dtype)
            else:
                fill(target, grad, first, stop, self.kind)


class _Outgoing(NamedTuple):
    """A message, and where it is packed if it must be."""

    rank: int
    packed: Array
    targets: list[Target]
    long: Placed | None


class _ByTree(_Way):
    """All pieces go to the ranks that step them, and are added up there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        size, rank = self.communicator.size, self.rank
        least = self.kind.least_sent
        self.outgoing = [
            self._outgoing(other, message)
            for other in (*others_of(rank, size, 1), rank)
            for message in messages_of(self.bucket.pieces[other], least)
        ]
        own = [*messages_of(self.own, least)]
        rooms = self._rooms()
        self.receives = [
            (other, as_bytes(rooms[other][message.place : message.end]))
            for other in others_of(rank, size, -1)
            for message in own
        ]
        self.sums = [
            (
                self.total[message.place : message.end],
                [room[message.place : message.end] for room in rooms],
            )
            for message in own
        ]

    def _outgoing(self, rank: int, message: Message) -> _Outgoing:
        targets = self.packing(rank, message.segments)
        begin = self.bucket.begins[rank]
        whole = self.send.view(self.kind.wire)[begin + message.place : begin + message.end]
        return _Outgoing(rank, whole, targets, message.segments[0] if message.long else None)

    def _rooms(self) -> list[Array]:
        """Where the pieces of all ranks arrive; this one's own does not. That of the first other
        one arrives in the place of the sum, which may be that of the first two pieces."""
        rank, length = self.rank, self.own.length
        rooms = [self.total] * self.communicator.size
        others = [other for other in range(self.communicator.size) if other != rank]
        if self.kind.wire == self.kind.total:
            others = others[1:]
        stride = up(length * self.itemsize, LINE)
        receive = self.memory.buffer(f"receive {self.parity}", stride * len(others))
        for k, other in enumerate(others):
            room = receive[k * stride : k * stride + length * self.itemsize]
            rooms[other] = room.view(self.kind.wire)
        return rooms

    def begin(self, grads: list[Any]) -> tuple[Pending, list[Array]]:
        """Send the pieces; return what is to be waited for, and this rank's own."""
        sends, own = [], []
        for rank, target, targets, long in self.outgoing:
            if long is not None and grads[long.tensor].flags.c_contiguous:
                row = grads[long.tensor].reshape(-1)[long.first : long.stop]
            else:
                self.pack(targets, grads)
                row = target
            if rank == self.rank:
                own.append(row)
            else:
                sends.append((rank, as_bytes(row)))
        return self.communicator.exchange(sends, self.receives), own

    def end(self, begun: tuple[Pending, list[Array]]) -> None:
        """Add up what has arrived."""
        pending, own = begun
        pending.wait()
        rank = self.rank
        for (total, pieces), row in zip(self.sums, own, strict=True):
            sum_pieces(total, [*pieces[:rank], row, *pieces[rank + 1 :]], self.kind.codec)


class _ByLibrary(_Way):
    """The library adds up the pieces on their way, in an order of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.places = self.bucket.places(self.itemsize)
        self.targets = [
            target
            for rank, piece in enumerate(self.bucket.pieces)
            for target in self.packing(rank, piece.segments)
        ]

    def begin(self, grads: list[Any]) -> Pending:
        """Let it begin."""
        self.pack(self.targets, grads)
        scalar = np.zeros(0, self.kind.total).real.dtype  # it adds up complex numbers by parts
        receive = as_bytes(self.total)
        return self.communicator.reduce_scatter(self.send, self.places, receive, scalar)

    def end(self, begun: Pending) -> None:
        """Wait for the sum."""
        begun.wait()


def fill(target: Array, grad: Array, first: int, stop: int, kind: Kind) -> None:
    """Copy elements of a gradient, as they travel."""
    if grad.flags.c_contiguous:
        _fill(target, grad.reshape(-1)[first:stop], kind)
        return
    place = 0
    for block in blocks(grad, first, stop):
        _fill(target[place : place + block.size], block, kind)
        place += block.size


def _fill(target: Array, block: Array, kind: Kind) -> None:
    if kind.rounds:
        values = np.asarray(block, np.float32, order="C")
        encode_array(values.reshape(-1), target, None, kind.codec or "")
    elif kind.widens:
        target.reshape(block.shape)[...] = widened(block)
    else:
        target.reshape(block.shape)[...] = block.view(kind.wire)


# --- parameters -----------------------------------------------------------------------------------


class Parameters:
    """The way of stepped parameters to all ranks.

    Parameters
    ----------
    layout : Layout
    communicator : Communicator
    arrays : sequence of ndarray
        The memory of all tensors.
    parts : sequence of ndarray
        What this rank steps of each: views of these, or copies.
    moved : sequence of bool
        Which tensors have changed.
    limit : int
        Bytes of a bucket.
    memory : Memory
    """

    def __init__(
        self,
        layout: Layout,
        communicator: Communicator,
        arrays: Sequence[Array],
        parts: Sequence[Array],
        moved: Sequence[bool],
        limit: int,
        memory: Memory,
    ) -> None:
        rank = communicator.rank
        ranks = [
            packed(_scaled(layout.segments(other), arrays, moved), LINE)
            for other in range(communicator.size)
        ]
        self._copies = [
            pair
            for one in layout.segments(rank)
            if moved[one.tensor]
            for pair in _copies(arrays[one.tensor], parts[one.tensor], one)
        ]
        self._steps = []
        buckets = buckets_of(ranks, 1, limit)
        memory.reserve("send", [bucket.size for bucket in buckets])
        way = _ToEach if communicator.size <= NEIGHBOURS else _InARing
        for number, bucket in enumerate(buckets):
            step = way(communicator, bucket, arrays, number % 2, memory)
            self._steps.append((step.begin, step.end))

    def gather(self) -> None:
        """Let every rank have what the others have stepped."""
        for target, source in self._copies:
            target[...] = source
        overlapped(self._steps)


def _scaled(
    segments: Iterable[Segment], arrays: Sequence[Array], moved: Sequence[bool]
) -> list[tuple[Segment, int]]:
    """Those that travel, first what is packed, with the bytes of an element."""
    pairs = [(one, arrays[one.tensor].itemsize) for one in segments if moved[one.tensor]]
    return sorted(pairs, key=lambda pair: (pair[0].stop - pair[0].first) * pair[1] >= LONG)


def _copies(array: Array, part: Array, one: Segment) -> Iterator[tuple[Array, Array]]:
    """What is to be copied into a tensor's memory, where its part does not lie in it."""
    if np.may_share_memory(array, part):
        return
    place, row = 0, part.reshape(-1)
    for block in blocks(array, one.first, one.stop):
        yield block, row[place : place + block.size].reshape(block.shape)
        place += block.size


Pairs = list[tuple[Array, Array]]
"""Places in a buffer, and memory of the parameters."""


class _Gathered:
    """A bucket of parameters."""

    def __init__(
        self,
        communicator: Communicator,
        bucket: Bucket,
        arrays: Sequence[Array],
        parity: int,
        memory: Memory,
    ) -> None:
        self.communicator, self.bucket, self.arrays = communicator, bucket, arrays
        self.buffer = memory.buffer(f"send {parity}", bucket.size)
        self.packs: Pairs = []
        self.unpacks: Pairs = []
        self.plan()

    def plan(self) -> None:
        """Note what is packed, and where it is unpacked."""
        raise NotImplementedError

    def pass_through(self, rank: int, segments: Sequence[Placed]) -> None:
        """Let segments of a rank's piece go through the buffer."""
        begin = self.bucket.begins[rank]
        pairs = [*_pairs(self.buffer, begin, segments, self.arrays)]
        if rank == self.communicator.rank:
            self.packs += pairs
        else:
            self.unpacks += [(theirs, packed) for packed, theirs in pairs]

    def pack(self) -> None:
        """Copy into the buffer what goes through it."""
        for target, source in self.packs:
            target[...] = source

    def end(self, pending: Pending) -> None:
        """Receive the pieces of the others."""
        pending.wait()
        for target, source in self.unpacks:
            target[...] = source


class _ToEach(_Gathered):
    """Every rank sends its piece to each of the others."""

    def plan(self) -> None:
        """Long segments are received where they belong."""
        rank, size = self.communicator.rank, self.communicator.size
        memory = [self._memory(other) for other in range(size)]
        self.sends = [(other, row) for other in others_of(rank, size, 1) for row in memory[rank]]
        self.receives = [
            (other, row) for other in others_of(rank, size, -1) for row in memory[other]
        ]

    def _memory(self, rank: int) -> list[Array]:
        """Where the messages of a rank's piece are."""
        return [self._row(rank, one) for one in messages_of(self.bucket.pieces[rank], LONG)]

    def _row(self, rank: int, message: Message) -> Array:
        tensor, first, stop, _ = message.segments[0]
        if message.long and self.arrays[tensor].flags.c_contiguous:
            return as_bytes(self.arrays[tensor])[first:stop]
        self.pass_through(rank, message.segments)
        begin = self.bucket.begins[rank]
        return self.buffer[begin + message.place : begin + message.end]

    def begin(self) -> Pending:
        """Send this rank's piece."""
        self.pack()
        return self.communicator.exchange(self.sends, self.receives)


class _InARing(_Gathered):
    """The library brings all pieces to all ranks, which costs each link between machines as much as
    one copy of them."""

    def plan(self) -> None:
        """What lies in one array stays there."""
        tensor = self.bucket.tensor
        if tensor is not None and self.arrays[tensor].flags.c_contiguous:
            self.buffer, self.places = as_bytes(self.arrays[tensor]), self.bucket.own_places(1)
            return
        self.places = self.bucket.places(1)
        for rank, piece in enumerate(self.bucket.pieces):
            self.pass_through(rank, piece.segments)

    def begin(self) -> Pending:
        """Send this rank's piece."""
        self.pack()
        return self.communicator.allgather(self.buffer, self.places)


def _pairs(
    buffer: Array, begin: int, segments: Sequence[Placed], arrays: Sequence[Array]
) -> Iterator[tuple[Array, Array]]:
    """Places in a buffer, and the memory of the parameters that belongs there."""
    for tensor, first, stop, place in segments:
        array, at = arrays[tensor], begin + place
        for block in blocks(array, first // array.itemsize, stop // array.itemsize):
            end = at + block.size * block.itemsize
            yield buffer[at:end].view(block.dtype).reshape(block.shape), block
            at = end

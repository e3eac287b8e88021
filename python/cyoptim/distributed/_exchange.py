"""The way of gradients to the ranks that step them, and of parameters back to all ranks.

(a) What a rank has of the tensors is cut into as many pieces on every rank. Bucket b has piece b of
each: in its exchange every rank sends and receives about as much.
(b) Two buckets are under way at once: one is packed, or what has arrived of it is added up, while
the other travels.
(c) If all of a bucket lies in one array, it is sent from there, and parameters are received there.
Otherwise it is packed, in places that are planned once. Segments begin at multiples of 64 bytes.
(d) Gradients of all ranks are added up in the order of the ranks' tree, by the rank that steps
them: the library's own sums have another order for each number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from cyoptim._engine import DTYPES, encode_array, name_of_dtype, sum_pieces, widened
from cyoptim._types import Array
from cyoptim.distributed._communicators import Communicator, Pending, Places
from cyoptim.distributed._layout import Layout, Segment, blocks

LINE = 64  # bytes: of a cache line, and of the widest vector
MOST_DIRECT = 2**31  # bytes of an array that some libraries can address


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


class Placed(NamedTuple):
    """A segment and where it begins in what is packed, in elements."""

    tensor: int
    first: int
    stop: int
    place: int

    @property
    def end(self) -> int:
        """Where it ends in what is packed."""
        return self.place + self.stop - self.first


def packed(segments: Iterable[tuple[Segment, int]], unit: int) -> list[Placed]:
    """Segments one behind the other; each has a factor from its elements to those of the packing,
    and begins at a multiple of `unit` of these."""
    place, found = 0, []
    for (tensor, first, stop), size in segments:
        found.append(Placed(tensor, first * size, stop * size, place))
        place = _up(found[-1].end, unit)
    return found


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


class Piece(NamedTuple):
    """What one rank has in a bucket: segments, whose places count from its begin."""

    begin: int  # in all that is packed of this rank
    segments: list[Placed]

    @property
    def length(self) -> int:
        return self.segments[-1].end if self.segments else 0


def pieces_of(segments: list[Placed], count: int, unit: int) -> list[Piece]:
    """What is packed of a rank, cut at multiples of `unit` into so many pieces of about one
    length."""
    end = segments[-1].end if segments else 0
    cuts = [min(_up(end * k // count, unit), end) for k in range(count)] + [end]
    found, i = [], 0
    for begin, stop in pairwise(cuts):
        inside = []
        while i < len(segments) and segments[i].place < stop:
            tensor, first, last, place = segments[i]
            low, high = max(begin - place, 0), min(stop - place, last - first)
            if high > low:
                start = max(place - begin, 0)
                inside.append(Placed(tensor, first + low, first + high, start))
            if segments[i].end > stop:
                break
            i += 1
        found.append(Piece(begin, inside))
    return found


class Bucket(NamedTuple):
    """Piece b of every rank, and the places in a buffer for all of them."""

    pieces: list[Piece]
    begins: list[int]  # of each rank's piece, in elements
    size: int
    tensor: int | None  # the one in which all of it lies

    @classmethod
    def of(cls, pieces: list[Piece], unit: int) -> Bucket:
        begins, size = [], 0
        for piece in pieces:
            begins.append(size)
            size = _up(size + piece.length, unit)
        single = all(len(piece.segments) <= 1 for piece in pieces)
        tensors = {one.tensor for piece in pieces for one in piece.segments}
        return cls(pieces, begins, size, tensors.pop() if single and len(tensors) == 1 else None)

    def places(self, itemsize: int) -> Places:
        """Of what is packed."""
        return [
            (begin * itemsize, (begin + piece.length) * itemsize)
            for begin, piece in zip(self.begins, self.pieces, strict=True)
        ]

    def own_places(self, itemsize: int) -> Places:
        """Where the pieces lie in the one tensor."""
        return [
            (piece.segments[0].first * itemsize, piece.segments[0].stop * itemsize)
            if piece.segments
            else (0, 0)
            for piece in self.pieces
        ]


def buckets_of(ranks: list[list[Placed]], itemsize: int, limit: int) -> list[Bucket]:
    """Cut what is packed of all ranks into buckets of at most about `limit` bytes."""
    unit = max(LINE // itemsize, 1)
    longest = max(segments[-1].end if segments else 0 for segments in ranks)
    if longest == 0:
        return []
    count = -(-longest * itemsize * len(ranks) // limit)
    columns = zip(*(pieces_of(segments, count, unit) for segments in ranks), strict=True)
    return [Bucket.of([*pieces], unit) for pieces in columns]


def without(places: Places, rank: int) -> Places:
    """The places with an empty one for a rank."""
    return [*places[:rank], (0, 0), *places[rank + 1 :]]


def line_of_memory(count: int, dtype: Any) -> Array:
    """Zeros that begin at a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    raw = np.zeros(count * kind.itemsize + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + count * kind.itemsize].view(kind)


def as_bytes(array: Array) -> Array:
    """The memory of an array without gaps."""
    return array.reshape(-1).view(np.uint8)


class Memory:
    """Buffers that plans share, as only one is under way."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def reserve(self, name: str, sizes: list[int]) -> None:
        """Have two buffers of this name that are enough for all of these."""
        for parity in range(2):
            self.buffer(f"{name} {parity}", max(sizes, default=0))

    def buffer(self, name: str, size: int) -> Array:
        """So many bytes; those of before that had this name, if they were enough."""
        found = self._buffers.get(name)
        if found is None or found.size < size:
            found = self._buffers[name] = line_of_memory(size, np.uint8)
        return found[:size]


def _overlapped(steps: Sequence[tuple[Callable[[], Any], Callable[[Any], None]]]) -> None:
    """Begin and end exchanges, of which two are under way at once."""
    under_way: list[tuple[Callable[[Any], None], Any]] = []
    for begin, end in steps:
        under_way.append((end, begin()))
        if len(under_way) == 2:
            finish, begun = under_way.pop(0)
            finish(begun)
    for finish, begun in under_way:
        finish(begun)


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
        ranks = [
            packed(
                ((one, 1) for one in layout.segments(rank) if kinds[one.tensor] == kind),
                max(LINE // itemsize, 1),
            )
            for rank in range(self._communicator.size)
        ]
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
            _overlapped(self._steps)
        finally:
            self._grads = []
        return self.parts


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
        own = bucket.pieces[self.rank]
        self.length = own.length
        self.total = total[own.begin : own.begin + own.length]
        self.parity, self.memory = parity, memory
        self.places = bucket.places(self.itemsize)
        self.send = memory.buffer(f"send {parity}", bucket.size * self.itemsize)
        self.targets: list[tuple[Array, Array, Placed]] | None = None

    def pack(self, grads: list[Any]) -> None:
        """Copy all pieces into the buffer."""
        if self.targets is None:
            self.targets = [*self._targets()]
        plain = self.kind.as_they_are
        for target, raw, (tensor, first, stop, _) in self.targets:
            grad = grads[tensor]
            if plain and grad.flags.c_contiguous:
                row = grad.reshape(-1)[first:stop]
                raw[...] = row if raw is target else row.view(raw.dtype)
            else:
                fill(target, grad, first, stop, self.kind)

    def _targets(self) -> Iterator[tuple[Array, Array, Placed]]:
        """Each place in the buffer, also as numbers that NumPy copies fast, and what goes there."""
        buffer = self.send.view(self.kind.wire)
        for begin, piece in zip(self.bucket.begins, self.bucket.pieces, strict=True):
            for one in piece.segments:
                target = buffer[begin + one.place : begin + one.end]
                yield target, target.view(np.uint16) if self.itemsize == 2 else target, one

    def in_one(self, grads: list[Any]) -> Array | None:
        """The gradient in which all pieces lie as they travel, as a row of elements."""
        if self.bucket.tensor is None or not self.kind.as_they_are:
            return None
        grad = grads[self.bucket.tensor]
        if grad.flags.c_contiguous and grad.nbytes < MOST_DIRECT:
            row: Array = grad.reshape(-1)
            return row
        return None


class _ByTree(_Way):
    """All pieces go to the ranks that step them, and are added up there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        size = self.communicator.size
        stride = _up(self.length * self.itemsize, LINE)
        others = [rank for rank in range(size) if rank != self.rank]
        self.receive = self.memory.buffer(f"receive {self.parity}", stride * len(others))
        self.receive_places = [(0, 0)] * size
        for k, rank in enumerate(others):
            self.receive_places[rank] = (k * stride, k * stride + self.length * self.itemsize)
        self.received = [self._typed(self.receive[low:high]) for low, high in self.receive_places]

    def _typed(self, memory: Array) -> Array:
        return memory.view(self.kind.wire)

    def begin(self, grads: list[Any]) -> tuple[Pending, Array]:
        """Send the pieces; return what is to be waited for, and this rank's own."""
        row = self.in_one(grads)
        if row is None:
            self.pack(grads)
            send, places = self.send, self.places
        else:
            send, places = row.view(np.uint8), self.bucket.own_places(self.itemsize)
        low, high = places[self.rank]
        own = self._typed(send[low:high])
        pending = self.communicator.alltoall(
            send, without(places, self.rank), self.receive, self.receive_places
        )
        return pending, own

    def end(self, begun: tuple[Pending, Array]) -> None:
        """Add up what has arrived."""
        pending, own = begun
        pending.wait()
        if self.length:
            pieces = [*self.received[: self.rank], own, *self.received[self.rank + 1 :]]
            sum_pieces(self.total, pieces, self.kind.codec)


class _ByLibrary(_Way):
    """The library adds up the pieces on their way, in an order of its own."""

    def begin(self, grads: list[Any]) -> Pending:
        """Let it begin."""
        self.pack(grads)
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
            packed(
                (
                    (one, arrays[one.tensor].itemsize)
                    for one in layout.segments(other)
                    if moved[one.tensor]
                ),
                LINE,
            )
            for other in range(communicator.size)
        ]
        every = {one.tensor for segments in ranks for one in segments}
        if len(every) == 1 and _is_direct(arrays[next(iter(every))]):
            limit = MOST_DIRECT * communicator.size  # nothing is packed meanwhile
        self._copies = [
            pair
            for one in layout.segments(rank)
            if moved[one.tensor]
            for pair in _copies(arrays[one.tensor], parts[one.tensor], one)
        ]
        self._steps = []
        buckets = buckets_of(ranks, 1, limit)
        if len(every) > 1:
            memory.reserve("send", [bucket.size for bucket in buckets])
        for number, bucket in enumerate(buckets):
            step = _Gathered(communicator, bucket, arrays, number % 2, memory)
            self._steps.append((step.begin, step.end))

    def gather(self) -> None:
        """Let every rank have what the others have stepped."""
        for target, source in self._copies:
            target[...] = source
        _overlapped(self._steps)


def _is_direct(array: Array) -> bool:
    return bool(array.flags.c_contiguous and array.nbytes < MOST_DIRECT)


def _copies(array: Array, part: Array, one: Segment) -> Iterator[tuple[Array, Array]]:
    """What is to be copied into a tensor's memory, where its part does not lie in it."""
    if np.may_share_memory(array, part):
        return
    place, row = 0, part.reshape(-1)
    for block in blocks(array, one.first, one.stop):
        yield block, row[place : place + block.size].reshape(block.shape)
        place += block.size


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
        self.communicator, self.bucket = communicator, bucket
        self.packs: list[tuple[Array, Array]] = []
        self.unpacks: list[tuple[Array, Array]] = []
        if bucket.tensor is not None and _is_direct(arrays[bucket.tensor]):
            self.buffer, self.places = as_bytes(arrays[bucket.tensor]), bucket.own_places(1)
            return
        self.buffer = memory.buffer(f"send {parity}", bucket.size)
        self.places = bucket.places(1)
        for rank, (begin, piece) in enumerate(zip(bucket.begins, bucket.pieces, strict=True)):
            pairs = [*_pairs(self.buffer, begin, piece, arrays)]
            if rank == communicator.rank:
                self.packs = pairs
            else:
                self.unpacks += [(theirs, packed) for packed, theirs in pairs]

    def begin(self) -> Pending:
        """Send this rank's piece."""
        for target, source in self.packs:
            target[...] = source
        return self.communicator.allgather(self.buffer, self.places)

    def end(self, pending: Pending) -> None:
        """Receive those of the others."""
        pending.wait()
        for target, source in self.unpacks:
            target[...] = source


def _pairs(
    buffer: Array, begin: int, piece: Piece, arrays: Sequence[Array]
) -> Iterator[tuple[Array, Array]]:
    """Places in a buffer, and the memory of the parameters that belongs there."""
    for tensor, first, stop, place in piece.segments:
        array, at = arrays[tensor], begin + place
        for block in blocks(array, first // array.itemsize, stop // array.itemsize):
            end = at + block.size * block.itemsize
            yield buffer[at:end].view(block.dtype).reshape(block.shape), block
            at = end

"""What the optimizers of parts on all ranks keep, as one state.

Every rank tells the others what it has: numbers, and of each array which elements. From that all
make the same state, whose arrays are in parts. `assembled` puts these together, one after the
other.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import pairwise
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from cyoptim._arrays.doors import is_tensor, stored_array, view_parameter
from cyoptim._checkpoints.dtypes import beyond_numpy
from cyoptim._checkpoints.parts import Parts
from cyoptim._engine import STORAGE_OPTIONS, arithmetic_dtype, dtype_beyond_numpy
from cyoptim._groups.groups import labels_of, parameters_of
from cyoptim._state.mapping import in_kind
from cyoptim._state.storage import BLOCK, SCALE
from cyoptim._types import Array, Group
from cyoptim.distributed._agreement import Ranks

LENGTH = Struct("<Q")


def exchanged(ranks: Ranks, message: bytes, point: bytes) -> list[bytes]:
    """The messages of all ranks, of any length; raises if a rank has failed before."""
    ranks.agree(point)
    if ranks.size == 1:
        return [message]
    lengths = [LENGTH.unpack(n)[0] for n in ranks.communicator.share(LENGTH.pack(len(message)))]
    ends = [0, *np.cumsum(lengths).tolist()]
    places = list(pairwise(ends))
    buffer = np.empty(ends[-1], np.uint8)
    buffer[slice(*places[ranks.rank])] = np.frombuffer(message, np.uint8)
    ranks.communicator.allgather(buffer, places).wait()
    return [buffer[start:stop].tobytes() for start, stop in places]


class Slot(NamedTuple):
    """A parameter, and this rank's part of it."""

    param: Any
    part: Any  # the parameter of the optimizer of parts
    view: Array  # the memory of each
    own: Array
    first: int  # the elements of the part
    stop: int
    group: Group
    label: str

    @property
    def is_whole(self) -> bool:
        return self.stop - self.first == self.view.size

    def is_fortran(self, array: Array) -> bool:
        """Whether an array of the state would lie in Fortran's order if the parameter were whole
        on this rank."""
        if self.part is self.param:
            return array.flags.fnc
        apart = arithmetic_dtype(self.view) != self.view.dtype or any(
            name in self.group for name in STORAGE_OPTIONS
        )
        return self.view.flags.fnc and not apart


def slots_of(sharded: Any) -> list[Slot]:
    groups = sharded.param_groups
    params, parts = (
        list(parameters_of(groups)),
        list(parameters_of(sharded._shard.inner.param_groups)),
    )
    spans = sharded._shard.layout.parts[sharded._ranks.rank]
    owners, labels = [group for group in groups for _ in group["params"]], labels_of(groups)
    slots = []
    for param, part, (first, stop), *rest in zip(params, parts, spans, owners, labels, strict=True):
        view, own = (view_parameter(one, rest[1])[1] for one in (param, part))
        slots.append(Slot(param, part, view, own, first, stop, *rest))
    return slots


# --- what the ranks have, in one state dict -------------------------------------------------------


class Piece(NamedTuple):
    """What a rank tells of an array, or of its part of one."""

    shape: tuple[int, ...]  # of the whole
    dtype: Any  # or the name of one that NumPy lacks
    first: int  # the elements that this rank has
    stop: int
    place: int  # of the array, among those of the rank
    is_tensor: bool
    fortran: bool
    number: bytes | None  # the element of an array without axes


def contents_of_ranks(sharded: Any) -> dict[str, Any]:
    """What the optimizers of parts on all ranks keep, by numbers of parameters: `Parts` for arrays.

    Every rank gets the same.
    """
    ranks = sharded._ranks
    if sharded._sums.count:
        raise ValueError(
            f"gradients of {sharded._sums.count} calls of accumulate() wait on each rank, which no "
            "state dict can hold: save after step(), or drop them by zero_grad()"
        )
    sharded._shard.check_params()
    own = _Own(sharded)
    told = pickle.dumps(own.told())
    every = [pickle.loads(message) for message in exchanged(ranks, told, b"what each rank has")]
    return _Joining(ranks, own.arrays).contents(every)


class _Own:
    """What this rank keeps, as it tells the others."""

    def __init__(self, sharded: Any) -> None:
        self.arrays: list[Array] = []
        self._sharded, self._inner = sharded, sharded._shard.inner
        self._slots = slots_of(sharded)
        self._rank = sharded._ranks.rank

    def told(self) -> dict[str, Any]:
        parts = {id(slot.part): number for number, slot in enumerate(self._slots)}
        state, form, average = self._inner.state, self._inner._form(), self._inner._average
        known = [(parts.get(id(key)), key) for key in state]
        told: dict[str, Any] = {
            "order": [number for number, _ in known if number is not None],
            "others": [(key, state[key]) for number, key in known if number is None],
            "state": {
                number: self._told(number, form.saved(self._slots[number].param, entries))
                for number, entries in self._entries(known)
            },
        }
        if average is not None:
            told["averages"] = {**average.export(parts), "values": {}}
            means = {number: average[slot.part] for number, slot in self._spoken_of()}
            told["means"] = {
                number: self._told(number, in_kind(self._slots[number].param, {"": mean}))[""]
                for number, mean in means.items()
            }
        return told

    def _spoken_of(self) -> Iterator[tuple[int, Slot]]:
        """The parameters that this rank has something of; all empty ones are rank 0's."""
        for number, slot in enumerate(self._slots):
            if slot.first < slot.stop or (self._rank == 0 and not slot.view.size):
                yield number, slot

    def _entries(self, known: list[tuple[int | None, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = {number for number, _ in known}
        for number, slot in self._spoken_of():
            if number in keys:
                yield number, in_kind(slot.param, dict(self._inner.state.arrays(slot.part)))

    def _told(self, number: int, entries: dict[str, Any]) -> dict[str, Any]:
        slot = self._slots[number]
        return {
            name: self._value(value, partial(_place_in_whole, name, entries.keys(), slot), slot)
            for name, value in entries.items()
        }

    def _value(self, value: Any, whole: Callable[[Array], tuple[Any, int]], slot: Slot) -> Any:
        if type(value) is dict:
            return {key: self._value(item, whole, slot) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._value(item, whole, slot) for item in value)
        tensor = is_tensor(value)
        if not tensor and not isinstance(value, np.ndarray):
            return value
        array = stored_array(value, "state") if tensor else np.asarray(value)
        shape, first = whole(array)
        dtype = beyond_numpy(array.dtype) or array.dtype
        number = array.tobytes() if shape == () else None
        fortran = shape == slot.view.shape and slot.is_fortran(array)
        self.arrays.append(array)
        span, place = (first, first + array.size), len(self.arrays) - 1
        return Piece(shape, dtype, *span, place, tensor, fortran, number)


def _place_in_whole(name: str, names: Any, slot: Slot, array: Array) -> tuple[tuple[int, ...], int]:
    """The shape of the whole array of which a part has this one, and its first element there."""
    size = slot.view.size
    if name.endswith(SCALE) and name.removesuffix(SCALE) in names:
        return (-(-size // BLOCK),), slot.first // BLOCK
    if array.shape == slot.own.shape:
        return slot.view.shape, slot.first
    if slot.is_whole:
        return array.shape, 0
    if array.shape == (slot.stop - slot.first,):
        return (size,), slot.first
    if array.shape == ():
        return (), 0
    raise RuntimeError(
        f"state {name!r} of {slot.label} has shape {array.shape}, where a rank has elements "
        f"{slot.first} to {slot.stop} of {size}: it is no array of its elements"
    )


class _Joining:
    """Makes one state of those that the ranks have told of."""

    def __init__(self, ranks: Ranks, arrays: list[Array]) -> None:
        self._ranks, self._arrays = ranks, arrays

    def contents(self, every: list[dict[str, Any]]) -> dict[str, Any]:
        state: dict[Any, Any] = {}
        for number in _in_one_order([told["order"] for told in every]):
            states = [(rank, told["state"].get(number)) for rank, told in enumerate(every)]
            known = [(rank, entries) for rank, entries in states if entries is not None]
            if known:
                state[number] = self._joined(known, f"the state of parameter {number}")
        state.update(every[0]["others"])
        joined: dict[str, Any] = {"state": state}
        if "averages" in every[0]:
            means: dict[int, list[tuple[int, Any]]] = {}
            for rank, told in enumerate(every):
                for number, mean in told["means"].items():
                    means.setdefault(number, []).append((rank, mean))
            values = {n: self._joined(means[n], f"the average of {n}") for n in sorted(means)}
            joined["averages"] = {**every[0]["averages"], "values": values}
        return joined

    def _joined(self, values: list[tuple[int, Any]], what: str) -> Any:
        rank, value = values[0]
        if isinstance(value, Piece):
            return self._number(value) if value.number is not None else self._parts(values, what)
        if type(value) is dict:
            for other, entries in values[1:]:
                if entries.keys() != value.keys():
                    raise RuntimeError(
                        f"{what} has {sorted(value)} on rank {rank}, and {sorted(entries)} on "
                        f"rank {other}"
                    )
            return {k: self._joined([(r, v[k]) for r, v in values], f"{what}: {k}") for k in value}
        if type(value) in (list, tuple):
            items = zip(*(items for _, items in values), strict=True)
            owners = [r for r, _ in values]
            return type(value)(
                self._joined(list(zip(owners, item, strict=True)), what) for item in items
            )
        return value

    def _number(self, piece: Piece) -> Any:
        number = piece.number
        assert number is not None
        array = np.frombuffer(bytearray(number), _dtype_of(piece)).reshape(())
        return _in_kind(array, piece.is_tensor)

    def _parts(self, values: list[tuple[int, Piece]], what: str) -> Parts:
        (_, piece), spans = values[0], [(0, 0)] * self._ranks.size
        dtype, own, end = _dtype_of(piece), np.empty(0, _dtype_of(piece)), 0
        for rank, other in values:
            if (other.shape, other.dtype, other.first) != (piece.shape, piece.dtype, end):
                raise RuntimeError(
                    f"{what}: rank {rank} has elements from {other.first} on, of an array of "
                    f"{other.dtype} and shape {other.shape}; expected them from {end} on, of "
                    f"{piece.dtype} and {piece.shape}"
                )
            spans[rank] = other.first, other.stop
            end = other.stop
            if rank == self._ranks.rank:
                own = self._arrays[other.place]
        return Parts(
            piece.shape, dtype, spans, own, is_tensor=piece.is_tensor, fortran=piece.fortran
        )


def _dtype_of(piece: Piece) -> np.dtype[Any]:
    dtype = piece.dtype
    return dtype_beyond_numpy(dtype) if isinstance(dtype, str) else dtype


def _in_one_order(orders: list[list[int]]) -> list[int]:
    """All numbers, in an order that is that of each list; the smaller first where none says."""
    if all(order == orders[0] for order in orders):
        return orders[0]
    behind: dict[int, set[int]] = {number: set() for order in orders for number in order}
    for order in orders:
        for number, following in pairwise(order):
            behind[number].add(following)
    before = Counter(number for following in behind.values() for number in following)
    free = [number for number in behind if not before[number]]
    heapify(free)
    merged = []
    while free:
        merged.append(heappop(free))
        for number in behind[merged[-1]]:
            before[number] -= 1
            if not before[number]:
                heappush(free, number)
    return merged + sorted(behind.keys() - {*merged})


def _in_kind(array: Array, tensor: bool) -> Any:
    if not tensor:
        return array
    from cyoptim._libraries.torch import as_tensor

    return as_tensor(array)


# --- arrays put together --------------------------------------------------------------------------


def assembled(ranks: Ranks, value: Any) -> Any:
    """A value with whole arrays, on every rank, where it has arrays in parts."""
    if isinstance(value, Parts):
        whole = _assembled(ranks, value)
        return _in_kind(np.asfortranarray(whole) if value.fortran else whole, value.is_tensor)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = assembled(ranks, item)
        return value
    if type(value) in (list, tuple):
        return type(value)([assembled(ranks, item) for item in value])
    return value


def _assembled(ranks: Ranks, parts: Parts) -> Array:
    whole: Array = np.empty(parts.shape, parts.dtype)
    flat = whole.reshape(-1)
    flat[slice(*parts.spans[ranks.rank])] = parts.own
    ranks.agree(b"an array")
    if ranks.size > 1:
        places = [(parts.itemsize * i, parts.itemsize * j) for i, j in parts.spans]
        ranks.communicator.allgather(flat.view(np.uint8), places).wait()
    return whole


def gathered(ranks: Ranks, parts: Parts) -> Array | None:
    """The whole array on rank 0."""
    own, whole = parts.own, np.empty(parts.shape if ranks.rank == 0 else 0, parts.dtype)
    ranks.agree(b"an array for rank 0")
    if ranks.rank:
        sends = [(0, own.view(np.uint8))] if own.size else []
        ranks.communicator.exchange(sends, []).wait()
        return None
    flat = whole.reshape(-1)
    places = [flat[first:stop] for first, stop in parts.spans]
    places[0][...] = own
    receives = [(rank, place.view(np.uint8)) for rank, place in enumerate(places) if place.size]
    ranks.communicator.exchange([], [pair for pair in receives if pair[0]]).wait()
    return whole

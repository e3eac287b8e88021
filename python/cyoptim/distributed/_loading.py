"""Loads a whole state dict on every rank: each takes its part out of it, and loads that.

Of an array that is still in a file, only the part is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, own_part, stored_array
from cyoptim._engine import Commit
from cyoptim._groups.names import Named
from cyoptim._saving.matching import checked_state_dict, keys_of
from cyoptim._state.form import Form, Kind
from cyoptim._state.storage import BLOCK, KEY, SCALE
from cyoptim._types import Array, Group, StateDict
from cyoptim.distributed._contents import Slot, slots_of


def prepare_load(sharded: Any, state_dict: StateDict, commit: Commit) -> None:
    """Let `commit` load a whole state dict: the groups, and this rank's part of the state."""
    sharded._shard.check_params()
    saved, _ = checked_state_dict(state_dict, sharded)
    if saved.get("accumulated") is not None:
        raise ValueError(
            "the loaded state dict has accumulated gradients of one process, which are not divided "
            "among ranks: call step() or zero_grad() before it is saved"
        )
    groups = sharded._loaded_groups(saved["param_groups"])
    own = cut_for(sharded, saved, commit.sources)
    if commit.sources is not None:
        # What load() returns has the parts, too, so that nothing else is read.
        state_dict["state"].update(own["state"])
        if own.get("averages") is not None:
            own["averages"] = commit.sources.settled(own["averages"])
            state_dict["averages"]["values"].update(own["averages"]["values"])
    sharded._shard.inner._prepare_load(own, commit)
    _prepare_groups(sharded, groups, commit)


def cut_for(sharded: Any, saved: StateDict, sources: Any = None) -> StateDict:
    """This rank's part of a whole state dict."""
    return _Cutting(sharded, sources).cut(saved)


def _prepare_groups(sharded: Any, groups: list[Group], commit: Commit) -> None:
    """Let `commit` give the groups, which have the whole parameters, their loaded options."""
    for group, new in zip(sharded.param_groups, groups, strict=True):
        commit.become(group, {**new, "params": group["params"]})
    commit.set(sharded, "_named", Named(groups, sharded._named))
    commit.set(sharded, "_is_new", False)
    commit.update(vars(sharded._sums), sharded._sums.forgotten())


NUMBERS = (Kind.NUMBER, Kind.COUNT, Kind.COUNTER)


class _Cutting:
    """Takes a rank's part out of a whole state."""

    def __init__(self, sharded: Any, sources: Any) -> None:
        self._shard, self._sources = sharded._shard, sources
        self._form: Form = sharded._shard.inner._form()
        self._slots = slots_of(sharded)
        self._counts = ("step", sharded._foreign_count, KEY)

    def cut(self, saved: StateDict) -> StateDict:
        state, slots, keys = dict(saved["state"]), self._slots, keys_of(saved)
        for number, (key, slot) in enumerate(zip(keys, slots, strict=True)):
            if self._shard.is_elsewhere(number):
                state.pop(key, None)
            elif isinstance(state.get(key), dict) and not slot.is_whole:
                state[key] = self._entries(state[key], slot)
        own = {**saved, "state": state}
        averages = saved.get("averages")
        if isinstance(averages, dict) and isinstance(averages.get("values"), dict):
            values = dict(averages["values"])
            for key, slot in zip(keys, slots, strict=True):
                if key in values and not slot.is_whole:
                    what = f"loaded average of {slot.label}"
                    values[key] = self._elements(self._array(values[key], slot, what), slot, what)
            own["averages"] = {**averages, "values": values}
        return own

    def _entries(self, entries: dict[str, Any], slot: Slot) -> dict[str, Any]:
        return {name: self._entry(name, value, entries, slot) for name, value in entries.items()}

    def _entry(self, name: str, value: Any, entries: dict[str, Any], slot: Slot) -> Any:
        if not (is_tensor(value) or isinstance(value, np.ndarray)):
            return value
        what = f"loaded state {name!r} of {slot.label}"
        array = self._array(value, slot, what)
        if name.endswith(SCALE) and name.removesuffix(SCALE) in entries:
            return self._scales(array, slot, what)
        entry = self._form.entry(name, slot.own, slot.group)
        if name in self._counts or entry.kind in NUMBERS:
            return value
        if slot.first == slot.stop and entry.shape == (0,):  # also of an array of other elements
            return self._part(array, 0, 0, entry.shape)
        return self._elements(array, slot, what)

    def _array(self, value: Any, slot: Slot, what: str) -> Array:
        array: Array = stored_array(own_part(value, slot.param, what), what)
        return array

    def _elements(self, array: Array, slot: Slot, what: str) -> Array:
        if array.shape == slot.view.shape:
            return self._part(array, slot.first, slot.stop, slot.own.shape)
        if array.shape == (slot.view.size,):
            return self._part(array, slot.first, slot.stop, (slot.stop - slot.first,))
        if array.ndim == 0:  # one number for all
            return array
        raise ValueError(f"{what} has shape {array.shape}, expected {slot.view.shape}")

    def _scales(self, array: Array, slot: Slot, what: str) -> Array:
        expected = (-(-slot.view.size // BLOCK),)
        if array.shape != expected:
            raise ValueError(
                f"{what} has dtype {array.dtype} and shape {array.shape}, expected float32 and "
                f"{expected}: a scale for each {BLOCK} elements"
            )
        first, stop = slot.first // BLOCK, -(-slot.stop // BLOCK)
        first, stop = (first, stop) if slot.first < slot.stop else (0, 0)
        return self._part(array, first, stop, (stop - first,))

    def _part(self, array: Array, first: int, stop: int, shape: tuple[int, ...]) -> Array:
        if self._sources is not None:
            part: Array = self._sources.part(array, first, stop, shape)
            return part
        return np.ascontiguousarray(array).reshape(-1)[first:stop].reshape(shape)


def described(state_dict: Any) -> dict[str, object]:
    """What must be equal on all ranks that load a state dict: options, and a digest of names and
    numbers."""
    if not isinstance(state_dict, Mapping) or "param_groups" not in state_dict:
        return {}
    groups = state_dict["param_groups"]
    content = blake2b(digest_size=16)
    for number in _numbers_in(state_dict.get("state")):
        content.update(repr(number).encode())
    return {"options": repr(groups), "digest": content.hexdigest()}


def _numbers_in(value: Any) -> Iterator[Any]:
    """Names and numbers of a state, without its arrays."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _numbers_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers_in(item)
    elif is_tensor(value) or isinstance(value, np.ndarray):
        if value.ndim == 0:
            yield value.item()
    else:
        yield value

"""Loads a state dict into an optimizer: everything is checked before anything changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from cyoptim._arrays.doors import view_parameter
from cyoptim._averages.moving import MovingAverage, continued, loaded_average
from cyoptim._engine import Commit, Room, Turn, same_layout_as
from cyoptim._gradients.sums import Sums, loaded_sums
from cyoptim._groups.groups import labels_of, parameters_of
from cyoptim._groups.options import check_group
from cyoptim._saving.foreign import from_the_package
from cyoptim._saving.matching import checked_state_dict, keys_of
from cyoptim._saving.origin import check_origin, check_whole
from cyoptim._state.form import Form
from cyoptim._state.mapping import State
from cyoptim._types import Array, Group, StateDict


def prepare_load(state_dict: StateDict, optimizer: Any, commit: Commit) -> None:
    """Let `commit` load a state dict into an optimizer.

    A twin loads it first, by the class's own ``__setstate__``; the twin's attributes then
    become the optimizer's.
    """
    new = _loaded(state_dict, optimizer, commit)
    twin = _twin_of(optimizer)
    twin._sums = new.sums
    twin._average = continued(twin._average, new.average)
    twin.__setstate__({"state": new.state, "param_groups": new.groups})
    _take_over(optimizer, twin, commit)


def _twin_of(optimizer: Any) -> Any:
    """A copy of an optimizer, to be changed without effect on the first."""
    twin = object.__new__(type(optimizer))
    vars(twin).update(vars(optimizer))
    twin._turn, twin._plan = Turn(), None
    if optimizer._average is not None:
        twin._average = optimizer._average.twin()
    return twin


def _take_over(optimizer: Any, twin: Any, commit: Commit) -> None:
    """Let `commit` give an optimizer the attributes of its twin."""
    attributes = {k: v for k, v in vars(twin).items() if k not in ("_turn", "_plan")}
    average = optimizer._average
    if average is not None and twin._average is not None:
        attributes["_average"] = average
        commit.update(vars(average), vars(twin._average))
    commit.update(vars(optimizer), {**attributes, "_is_new": False})
    optimizer._plan_for(twin.param_groups, twin.state, twin._average, commit)


# --- what a state dict holds ----------------------------------------------------------------------


class _Loaded(NamedTuple):
    """The contents of a state dict, in the optimizer's own form."""

    groups: list[Group]
    state: State
    average: MovingAverage | None
    sums: Sums


def _loaded(state_dict: StateDict, optimizer: Any, commit: Commit) -> _Loaded:
    """The contents of a state dict for an optimizer; raises for the state of another class."""
    saved, groups = checked_state_dict(state_dict, optimizer)
    saved, groups = from_the_package(saved, groups, optimizer)
    check_origin(optimizer, saved["param_groups"], saved["state"].values())
    groups = [optimizer._plain_group(group) for group in groups]
    for number, group in enumerate(groups):
        _check_options(optimizer, group, number)
    keys, labels, params = keys_of(saved), labels_of(groups), list(parameters_of(groups))
    views = [view_parameter(p, label)[1] for p, label in zip(params, labels, strict=True)]
    form = optimizer._form()
    entries = form.ordered(saved["state"], keys_of(state_dict), keys, views)
    sums, average = Sums(), None
    if saved.get("accumulated") is not None:
        optimizer._check_sums_are_of_use()
        sums = loaded_sums(saved["accumulated"], keys, params, views, labels)
    if saved.get("averages") is not None:
        average = loaded_average(saved["averages"], keys, params, views, labels)
    room = Room(views)
    if commit.sources is not None:
        room = _RoomOfOld(views, params, optimizer.state, commit)
    state = _state(form, entries, keys, groups, views, labels, room, optimizer)
    form.tell_losses()
    return _Loaded(groups, state, average, sums)


def _check_options(optimizer: Any, group: Group, number: int) -> None:
    try:
        check_group(group, optimizer, optimizer._check_loaded_options)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"options of the loaded param group {number}: {error}") from error


def _state(
    form: Form,
    entries: Mapping[Any, Any],
    keys: list[Any],
    groups: list[Group],
    views: list[Array],
    labels: list[str],
    room: Room,
    optimizer: Any,
) -> State:
    params = [(param, group) for group in groups for param in group["params"]]
    places = {key: i for i, key in reversed(list(enumerate(keys)))}
    state = State()
    for key, values in entries.items():
        if key in places:
            i = places[key]
            param, group = params[i]
            state[param] = form.loaded(param, views[i], values, labels[i], room, group)
            if isinstance(values, dict):
                check_whole(optimizer, values, views[i].shape, group, labels[i])
        else:  # not of a parameter
            state[key] = copy.deepcopy(room.read(values))
    return state


class _RoomOfOld(Room):
    """Memory for state that is still in a file: the present arrays, where they fit.

    Arrays of other sizes, and those that are not in the file as they are needed, are new.
    """

    def __init__(self, views: list[Array], params: list[Any], state: State, commit: Commit) -> None:
        super().__init__(views)
        self._commit = commit
        self._old: dict[int, dict[str, Any]] = {}
        for view, param in zip(views, params, strict=True):
            if isinstance(state.get(param, {}), dict):
                self._old[id(view)] = state.arrays(param)

    def filled(
        self, name: str, view: Array, array: Array, dtype: Any = None, order: Any = "K"
    ) -> Array:
        if array not in self._commit.sources:
            return super().filled(name, view, array, dtype, order)
        old: Array | None = self._old.get(id(view), {}).get(name)
        dtype = view.dtype if dtype is None else dtype
        if _fits(old, view, dtype, order) and self._commit.read(old, array):
            return old
        own = self.zeros(name, view, dtype, order)
        self._commit.sources.read_into(own, array)
        return own

    def read(self, value: Any) -> Any:
        return self._commit.sources.settled(value)


def _fits(old: Array | None, view: Array, dtype: np.dtype[Any], order: Any) -> TypeGuard[Array]:
    """Whether an array is as the memory's zeros() would be."""
    if old is None or type(old) not in (np.ndarray, np.memmap):
        return False
    if not old.flags.writeable or old.dtype != dtype:
        return False
    if order == "C" or view.flags.c_contiguous:
        return old.shape == view.shape and old.flags.c_contiguous and old.flags.aligned
    wanted = view if dtype == view.dtype else np.empty_like(view, dtype, subok=False)
    return same_layout_as(old, wanted)

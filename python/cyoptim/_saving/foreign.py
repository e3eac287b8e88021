"""State dicts of packages that keep something elsewhere than ours, or under another name: step
counts of groups, their own name of the count, entries of groups that only they use."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from cyoptim._types import Group, StateDict


def to_the_package(state_dict: StateDict, optimizer: Any) -> StateDict:
    """A state dict of ours with all that the package needs that an optimizer comes from."""
    if optimizer._exchanges_group_steps:
        state_dict = _with_counts_of_groups(state_dict)
    if optimizer._foreign_options:
        groups = [
            {**copy.deepcopy(optimizer._foreign_options), **group}
            for group in state_dict["param_groups"]
        ]
        state_dict = {**state_dict, "param_groups": groups}
    if optimizer._foreign_count:
        state_dict = _renamed(state_dict, "step", optimizer._foreign_count)
    return state_dict


def from_the_package(
    state_dict: StateDict, groups: list[Group], optimizer: Any
) -> tuple[StateDict, list[Group]]:
    """A state dict in our form, and the groups that it is loaded into without what is not ours."""
    foreign = {*optimizer._foreign_options}
    if optimizer._exchanges_group_steps:
        state_dict = _with_counts_of_parameters(state_dict)
        foreign.add("step")
    if optimizer._foreign_count:
        state_dict = _renamed(state_dict, optimizer._foreign_count, "step")
    if optimizer._foreign_state:
        state_dict = _without_entries(state_dict, optimizer._foreign_state)
    saved = {**state_dict, "param_groups": _without(foreign, state_dict["param_groups"])}
    return saved, _without(foreign, groups)


def _without(names: set[str], groups: Iterable[Group]) -> list[Group]:
    return [{name: value for name, value in g.items() if name not in names} for g in groups]


def _without_entries(state_dict: StateDict, names: Iterable[str]) -> StateDict:
    state = {
        key: {name: value for name, value in entries.items() if name not in names}
        if isinstance(entries, dict)
        else entries
        for key, entries in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _renamed(state_dict: StateDict, name: str, other: str) -> StateDict:
    """A state dict with another name for an entry of its states."""
    state = {
        key: {other if entry == name else entry: value for entry, value in entries.items()}
        if isinstance(entries, dict)
        else entries
        for key, entries in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _with_counts_of_groups(state_dict: StateDict) -> StateDict:
    """A state dict of ours whose groups have the largest step count of their parameters."""
    groups = []
    for group in state_dict["param_groups"]:
        states = [state_dict["state"].get(key, {}) for key in group["params"]]
        counts = [s["step"] for s in states if isinstance(s, dict) and "step" in s]
        groups.append({**group, "step": max(map(int, counts))} if counts else group)
    return {**state_dict, "param_groups": groups}


def _with_counts_of_parameters(state_dict: StateDict) -> StateDict:
    """A state dict in which the step count of a group is that of its parameters that have none."""
    state: dict[Any, Any] = dict(state_dict["state"])
    for group in state_dict["param_groups"]:
        for key in group["params"] if "step" in group else ():
            entries = state.get(key)
            if isinstance(entries, dict) and entries:
                state[key] = {"step": group["step"], **entries}
    return {**state_dict, "state": state}

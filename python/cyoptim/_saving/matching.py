"""Matches a state dict with an optimizer: its groups, and named entries in the order of the
optimizer's parameters."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cyoptim._arrays.doors import type_name
from cyoptim._arrays.trees import shown
from cyoptim._engine import STORAGE_OPTIONS
from cyoptim._types import Group, StateDict


def checked_state_dict(state_dict: Any, optimizer: Any) -> tuple[StateDict, list[Group]]:
    """A state dict in the order of the optimizer's groups and parameters, and its groups, copied,
    with the optimizer's own parameters in them, and the defaults of each for what it lacks."""
    check_form(state_dict)
    state_dict = optimizer._own_form(state_dict)
    saved, groups = state_dict["param_groups"], optimizer.param_groups
    if len(saved) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, expected {len(groups)}"
        )
    saved = [_checked_group(number, new) for number, new in enumerate(saved)]
    if len({"param_names" in group for group in saved}) > 1:
        raise ValueError(
            "some groups of the loaded state dict have 'param_names', and some have none"
        )
    saved = in_order_of_names(saved, groups)
    for number, (old, new) in enumerate(zip(groups, saved, strict=True)):
        _check_size(number, old, new)
    merged = [_merged(old, new) for old, new in zip(groups, saved, strict=True)]
    merged = [{**optimizer._defaults_for(g, optimizer.defaults), **g} for g in merged]
    return {**state_dict, "param_groups": saved}, merged


def keys_of(state_dict: StateDict) -> list[Any]:
    """The keys of all parameters, in the order of the groups."""
    return [key for group in state_dict["param_groups"] for key in group["params"]]


def check_form(state_dict: Any) -> None:
    """Refuse what is no state dict."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns, "
            f"got {_found(state_dict)}"
        )
    if not isinstance(state_dict["state"], Mapping):
        raise TypeError(f"'state' is a {type_name(state_dict['state'])}, expected a dict")
    saved = state_dict["param_groups"]
    if not isinstance(saved, (list, tuple)):
        raise TypeError(f"'param_groups' is a {type_name(saved)}, expected a list of dicts")


def _found(value: Any) -> str:
    """What was given for a state dict, and what to write instead."""
    if isinstance(value, (str, os.PathLike)):
        return "a path: write cyoptim.load(path, optimizer=optimizer)"
    if hasattr(value, "state_dict"):
        return f"a {type_name(value)}: write load_state_dict(other.state_dict())"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, list(value)[:8])) or 'of nothing'}"
    return f"a {type_name(value)}"


def _checked_group(number: int, new: Any) -> Group:
    """A copy of a saved group, with a list of its keys."""
    keys = new.get("params") if isinstance(new, dict) else None
    if isinstance(keys, np.ndarray):
        keys = keys.tolist()
    if not isinstance(keys, Sequence) or isinstance(keys, (str, bytes)):
        raise TypeError(
            f"loaded param group {number} must be a dict with a list of numbers under 'params'"
        )
    for key in keys:
        if not isinstance(key, (int, str, np.integer)):
            raise TypeError(
                f"'params' of loaded param group {number} holds a {type_name(key)}, expected "
                "numbers of parameters"
            )
    for key in new:
        if not isinstance(key, str):
            raise TypeError(
                f"loaded param group {number} has an option {key!r}, expected names of options"
            )
    if "param_names" in new:
        _check_names(number, new["param_names"])
    return {**new, "params": list(keys)}


def _check_size(number: int, old: Group, new: Group) -> None:
    expected = len(old["params"])
    if len(new["params"]) != expected:
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of "
            f"optimizer's group: group {number} has {len(new['params'])} parameters, "
            f"expected {expected}"
        )
    names: Any = new.get("param_names", new["params"])
    if len(names) != expected:
        raise ValueError(
            f"'param_names' of loaded param group {number} holds {len(names)} names, expected "
            f"{expected}"
        )


def _check_names(number: int, names: Any) -> None:
    if not isinstance(names, (list, tuple)):
        raise TypeError(
            f"'param_names' of loaded param group {number} is a {type_name(names)}, expected a "
            "list of names"
        )
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"'param_names' of loaded param group {number} holds a {type_name(name)}, "
                "expected names"
            )


def _merged(old: Group, new: Group) -> Group:
    # How a state is stored, the optimizer that loads it decides.
    own = {name: old[name] for name in STORAGE_OPTIONS if name in old}
    left = ("params", *STORAGE_OPTIONS)
    merged = copy.deepcopy({key: value for key, value in new.items() if key not in left})
    merged |= {"params": old["params"], **own}
    if "param_names" in old:
        merged.setdefault("param_names", old["param_names"])
    return merged


# --- names ----------------------------------------------------------------------------------------


def in_order_of_names(saved: Sequence[Group], groups: list[Group]) -> list[Group]:
    """Saved groups in the optimizer's order, matched by name. If either side has no names, the
    order is the saved one.
    """
    if not all("param_names" in group for group in (*saved, *groups)):
        return list(saved)
    if any(len(group["param_names"]) != len(group["params"]) for group in saved):
        return list(saved)  # refused later
    own = [list(group["param_names"]) for group in groups]
    theirs = [list(group["param_names"]) for group in saved]
    if own == theirs:
        return list(saved)
    _check_told_apart(own, "the optimizer")
    _check_told_apart(theirs, "the loaded state dict")
    _check_same_names(own, theirs)
    places = {frozenset(names): number for number, names in enumerate(theirs)}
    ordered = []
    for number, names in enumerate(own):
        if frozenset(names) not in places:
            raise _scattered(number, own, theirs)
        ordered.append(_reordered(saved[places[frozenset(names)]], names))
    return ordered


def _reordered(group: Group, names: list[Any]) -> Group:
    keys = dict(zip(group["param_names"], group["params"], strict=True))
    return {**group, "params": [keys[name] for name in names], "param_names": names}


def _check_told_apart(names: list[list[Any]], whose: str) -> None:
    counts = Counter(name for group in names for name in group)
    name, count = counts.most_common(1)[0] if counts else (None, 0)
    if count > 1:
        raise ValueError(
            f"{whose} has {count} parameters of the name {name!r}, and its names are in another "
            "order than the names to match: delete 'param_names' from the loaded groups to match "
            "parameters by their order"
        )


def _check_same_names(own: list[list[Any]], theirs: list[list[Any]]) -> None:
    ours, found = ({name: None for group in names for name in group} for names in (own, theirs))
    missing = [name for name in ours if name not in found]
    extra = [name for name in found if name not in ours]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"has no parameter {shown([repr(name) for name in missing])}")
        if extra:
            parts.append(
                f"has {shown([repr(name) for name in extra])}, which the optimizer does not have"
            )
        raise ValueError(
            f"loaded state dict {' and '.join(parts)}: rename the entries of its 'param_names', or "
            "delete all 'param_names' from it to load in the order of the parameters"
        )


def _scattered(number: int, own: list[list[Any]], theirs: list[list[Any]]) -> ValueError:
    homes = {name: place for place, names in enumerate(theirs) for name in names}
    first, *others = own[number]
    other = next((name for name in others if homes[name] != homes[first]), None)
    if other is not None:
        what = f"{first!r} and {other!r} are in groups {homes[first]} and {homes[other]}"
        return ValueError(
            f"{what} of the loaded state dict, and both in group {number} here: make the optimizer "
            "with the same groups"
        )
    return ValueError(
        f"group {homes[first]} of the loaded state dict has other parameters beside {first!r} than "
        f"group {number} here: make the optimizer with the same groups"
    )

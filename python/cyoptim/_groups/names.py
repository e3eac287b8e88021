"""Names of parameters: as they are given, and as they follow their parameters in the groups."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from cyoptim._arrays.containers import is_branch, is_record
from cyoptim._arrays.doors import are_known, is_parameter
from cyoptim._arrays.trees import is_number, list_of_numbers, named_leaves
from cyoptim._engine import Commit
from cyoptim._types import Group


def split_names(params: Any) -> tuple[list[Any], list[str]]:
    """Parameters, and their names if they are pairs or a tree."""
    if is_parameter(params):
        return [params], []
    if isinstance(params, Mapping) or is_record(params):
        return _split_tree(params)
    entries = list(params)
    if are_known(entries):
        return entries, []
    pairs = [entry for entry in entries if _is_pair(entry)]
    if is_tree(entries):
        return _split_tree(entries)
    if pairs and len(pairs) != len(entries):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing: "
            "give each parameter as a pair (name, parameter), or none"
        )
    if any(is_branch(value) for _, value in pairs):
        return _split_tree(dict(pairs))
    return [value for _, value in pairs] or entries, [name for name, _ in pairs]


def _split_tree(tree: Any) -> tuple[list[Any], list[str]]:
    named = list(named_leaves(tree))
    if any(is_number(leaf) for _, leaf in named) and (path := list_of_numbers(tree)) is not None:
        raise TypeError(
            f"the parameters have a list of numbers at {path!r}, expected an array, which can be "
            "changed in place: write np.array(...) around it"
        )
    return [leaf for _, leaf in named], [name for name, _ in named]


def is_tree(entries: list[Any]) -> bool:
    """Whether the list has containers of parameters, rather than parameters or pairs."""
    return any(_holds_parameters(entry) for entry in entries if not _is_pair(entry))


def _holds_parameters(entry: Any) -> bool:
    return is_branch(entry) and any(is_parameter(leaf) for _, leaf in named_leaves(entry))


def _is_pair(entry: Any) -> bool:
    """Whether this is a name and a parameter, or a tree of them."""
    return (
        isinstance(entry, tuple)
        and len(entry) == 2
        and not (entry[0] is None or is_parameter(entry[0]) or is_branch(entry[0]))
    )


def check_names(names: Any, members: list[Any], number: int) -> None:
    """Refuse one name for two parameters of a group: names match gradients and checkpoints."""
    seen: dict[Any, Any] = {}
    for name, param in zip(names, members, strict=False):
        if seen.setdefault(name, param) is not param:
            raise ValueError(
                f"two parameters of param group {number} have the name {name!r}: "
                "give each a name of its own"
            )


def check_named_alike(group: Group, others: list[Group]) -> None:
    """Refuse names in some but not all groups."""
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            text = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names. "
                f"cannot add param group {text} to the optimizer: give its parameters as pairs "
                "(name, parameter), or none"
            )


class Named:
    """The names of parameters at the last check of the groups, including parameters that were
    removed, as they may come back."""

    def __init__(self, groups: list[Group], before: Named | None = None) -> None:
        # By identity: a reference to the parameter, and its name.
        self._names: dict[int, tuple[Callable[[], Any], Any]] = {}
        if before is not None:
            self._names = {i: entry for i, entry in before._names.items() if entry[0]() is not None}
        self._lists: list[list[Any]] = []
        for group in groups:
            names = [*group.get("param_names", ())]
            self._lists.append(names)
            for param, name in zip(group["params"], names, strict=False):
                self._names[id(param)] = _reference(param), name

    def _name_of(self, param: Any) -> Any:
        reference, name = self._names.get(id(param), (None, None))
        return name if reference is not None and reference() is param else None

    def settle(self, groups: list[Group]) -> dict[int, list[Any]]:
        """New lists of names for groups whose parameters have been edited, by the group's number.

        A parameter keeps its name at any position; a new one takes the name at its position. If
        the names have been edited, too, they apply.

        Raises
        ------
        ValueError
            If a parameter has no name, or there are more names than parameters.
        """
        settled = {}
        for number, group in enumerate(groups):
            if "param_names" not in group:
                continue
            params, names = group["params"], [*group["param_names"]]
            before = self._lists[number] if number < len(self._lists) else None
            if names == before:
                own = [self._name_of(param) for param in params]
                taken = {name for name in own if name is not None}
                fits = len(params) == len(names)
                found = [
                    names[i] if name is None and fits and names[i] not in taken else name
                    for i, name in enumerate(own)
                ]
                _check_all_named(number, params, found, names)
                if found != names:
                    settled[number] = found
            elif len(names) != len(params):
                raise _unequal(number, params, names)
        return settled


def renamed(groups: list[Group], names: dict[int, list[Any]], commit: Commit) -> list[Group]:
    """The groups with new names of some of them, by number; `commit` will put the names in."""
    new = [*groups]
    for number, own in names.items():
        commit.put(groups[number], "param_names", own)
        new[number] = {**groups[number], "param_names": own}
    return new


def _reference(param: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(param)
    except TypeError:
        return lambda: param


def _check_all_named(number: int, params: list[Any], found: list[Any], names: list[Any]) -> None:
    if None in found:
        place = found.index(None)
        raise ValueError(
            f"param group {number} has {len(params)} parameters and {len(names)} names: parameter "
            f"{place} is new and has none; edit param_groups[{number}]['param_names'] together "
            "with 'params'"
        )


def _unequal(number: int, params: list[Any], names: list[Any]) -> ValueError:
    return ValueError(
        f"param group {number} has {len(params)} parameters and {len(names)} names in "
        "'param_names', expected one for each"
    )

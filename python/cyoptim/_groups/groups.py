"""Parameter groups as users write them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from cyoptim._arrays.doors import is_parameter, type_name
from cyoptim._arrays.trees import is_branch, is_named_tuple, named_leaves
from cyoptim._engine import Commit
from cyoptim._spelling import close_name
from cyoptim._types import Group, ParamsT
from cyoptim._warnings import warn

# Keys of a group that are not options of its optimizer: users' own and schedulers'.
_NOTES = frozenset({"params", "param_names", "name", "initial_lr", "max_lr", "min_lr"})
_NOTES |= {"base_momentum", "max_momentum", "swa_lr"}


class Members(list[Any]):
    """The parameters of a group in the user's own dict, with the keys that the user gave.

    An optimizer adds its defaults to the dict. If the dict is given to another optimizer,
    these are not options of the user. Copies and pickles are plain lists.
    """

    def __init__(self, members: Iterable[Any], given: frozenset[str], owners: list[Any]) -> None:
        super().__init__(members)
        self.given = given
        self.owners = owners  # weak references to the optimizers that have the dict as a group

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter(self)

    def living(self) -> list[Any]:
        """The owners that still exist."""
        return [owner for ref in self.owners if (owner := ref()) is not None]


def not_iterable(params: Any, optimizer: str) -> TypeError:
    """The error for an argument without parameters, and what to write instead."""
    if is_parameter(params):
        hint = f": put it into a list, {optimizer}([parameter])"
    elif callable(getattr(params, "parameters", None)):
        hint = f": write {optimizer}(model.parameters())"
    elif callable(params):
        hint = f": call it, as in {optimizer}(model.parameters())"
    else:
        hint = f": write {optimizer}([parameter, ...])"
    return TypeError(
        "params argument given to the optimizer should be an iterable of Tensors or dicts, or of "
        f"arrays, but got {type_name(params)}{hint}"
    )


def parameters_of(groups: list[Group]) -> Iterator[Any]:
    """The parameters of all groups."""
    return chain.from_iterable(group["params"] for group in groups)


def as_groups(params: ParamsT, optimizer: str) -> list[Any]:
    """A constructor's argument as groups: dicts, or the parameters of one group.

    A dict with the key "params" is a group; every other dict holds parameters.
    """
    if is_parameter(params):
        raise not_iterable(params, optimizer)
    check_ordered(params)
    if isinstance(params, Mapping):
        if not params:
            raise ValueError("optimizer got an empty dict of parameters")
        return [params] if "params" in params else [{"params": params}]
    try:
        entries = list(params)
    except TypeError:
        raise not_iterable(params, optimizer) from None
    if not entries:
        raise ValueError("optimizer got an empty parameter list")
    if isinstance(entries[0], dict) and not _are_layers(entries):
        return entries
    return [{"params": params if is_named_tuple(params) else entries}]


def _are_layers(entries: list[Any]) -> bool:
    """Whether dicts contain parameters directly, so that they are not groups."""
    if any(isinstance(entry, Mapping) and "params" in entry for entry in entries):
        return False
    leaves = [leaf for _, leaf in named_leaves(entries)]
    return bool(leaves) and all(map(is_parameter, leaves))


def check_ordered(params: Any) -> None:
    """Refuse sets, whose order changes from run to run."""
    if isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the "
            "ordering of tensors in sets will change between runs. Please use a list instead."
        )


def share_groups(params: Any, optimizer: Any) -> None:
    """Record an owner of a list of groups: a user's class that wraps an optimizer passes the
    optimizer's own list, and both share its dicts."""
    for group in params if isinstance(params, list) else ():
        members = group.get("params") if isinstance(group, dict) else None
        if isinstance(members, Members) and any(
            type(owner).__module__.partition(".")[0] != "cyoptim"
            and getattr(owner, "param_groups", None) is params
            for owner in members.living()
        ):
            members.owners.append(weakref.ref(optimizer))


def members_for(group: Group, members: list[Any], optimizer: Any) -> Members:
    """The list that replaces the parameters in a new group of an optimizer."""
    before, owner = group["params"], weakref.ref(optimizer)
    if isinstance(before, Members):
        return Members(members, before.given, [*before.owners, owner])
    return Members(members, frozenset(group), [owner])


def own_group(group: Any, optimizer: Any) -> Any:
    """The dict itself; or, if it is a group of another optimizer that does not wrap this one, a
    copy of the user's entries."""
    members = group.get("params") if isinstance(group, dict) else None
    if not isinstance(members, Members):
        return group
    for owner in members.living():
        if owner is optimizer or any(value is optimizer for value in vars(owner).values()):
            return group
    own = {name: group[name] for name in group if name in {*members.given, "param_names"}}
    own["params"] = list(members)
    if "lr" in own and "initial_lr" in group and "initial_lr" not in own:  # a schedule moved it
        own["lr"] = group["initial_lr"]
    return own


def split_names(params: Any) -> tuple[list[Any], list[str]]:
    """Parameters, and their names if they are pairs or a tree."""
    if is_parameter(params):
        return [params], []
    if isinstance(params, Mapping) or is_named_tuple(params):
        return _split_tree(params)
    entries = list(params)
    pairs = [entry for entry in entries if _is_pair(entry)]
    if is_tree(entries):
        return _split_tree(entries)
    if pairs and len(pairs) != len(entries):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    if any(is_branch(value) for _, value in pairs):
        return _split_tree(dict(pairs))
    return [value for _, value in pairs] or entries, [name for name, _ in pairs]


def _split_tree(tree: Any) -> tuple[list[Any], list[str]]:
    named = list(named_leaves(tree))
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


def check_named_alike(group: Group, others: list[Group]) -> None:
    """Refuse names in some but not all groups."""
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            text = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names. "
                f"cannot add param group {text} to the optimizer"
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


def check_one_group_each(groups: list[Group], labels: list[str]) -> None:
    """Refuse a parameter that is in two groups."""
    seen: dict[int, tuple[int, str]] = {}
    members = [(g, p) for g, group in enumerate(groups) for p in group["params"]]
    for (g, param), label in zip(members, labels, strict=True):
        first, name = seen.setdefault(id(param), (g, label))
        if first != g:
            raise ValueError(
                f"some parameters appear in more than one parameter group: {name} is {label}"
            )


def labels_of(groups: list[Group]) -> list[str]:
    """The name of each parameter in messages."""
    labels = []
    for g, group in enumerate(groups):
        names = group.get("param_names") or ()
        for i in range(len(group["params"])):
            name = f" ({names[i]!r})" if i < len(names) else ""
            labels.append(f"parameter {i}{name} of group {g}")
    return labels


def check_option_names(group: Group, number: int, known: Mapping[str, Any], optimizer: str) -> None:
    """Refuse misspelt options, warn of unknown ones.

    Names that begin with an underscore are the user's own; defaults that another optimizer has
    added are ignored.
    """
    members = group["params"]
    written = members.given if isinstance(members, Members) else group
    for name in written:
        if name in known or name in _NOTES or str(name).startswith("_"):
            continue
        found = f"param group {number} has an option {name!r} that {optimizer} does not know"
        close = close_name(str(name), known)
        if close is not None:
            raise ValueError(
                f"{found}; did you mean {close!r}? A key of your own begins with an underscore"
            )
        warn(f"{found}: it is kept and has no effect")


def check_names(names: Any, members: list[Any], number: int) -> None:
    """Refuse one name for two parameters of a group: names match gradients and checkpoints."""
    seen: dict[Any, Any] = {}
    for name, param in zip(names, members, strict=False):
        if seen.setdefault(name, param) is not param:
            raise ValueError(
                f"two parameters of param group {number} have the name {name!r}: "
                "give each a name of its own"
            )

"""Parameter groups as users write them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, cast

from cyoptim._arrays.containers import is_record
from cyoptim._arrays.doors import buffer_array, is_distributed, is_parameter, type_name
from cyoptim._arrays.trees import named_leaves
from cyoptim._engine import STORAGE_OPTIONS
from cyoptim._groups.storage import has_own_step, why_not
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
    elif hasattr(params, "__array__"):
        hint = f": write {optimizer}([np.array(x)]), a copy that can be changed in place"
    elif isinstance(params, str):
        hint = f": give the parameters themselves, {optimizer}([parameter, ...])"
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
    params = buffer_array(params, "params")
    if is_parameter(params) or isinstance(params, str) or hasattr(params, "__array__"):
        raise not_iterable(params, optimizer)
    check_ordered(params)
    if isinstance(params, Mapping):
        if not params:
            raise ValueError(
                "optimizer got an empty dict of parameters: write "
                f"{optimizer}({{'name': parameter, ...}})"
            )
        if "params" in params:
            return [dict(params)]  # a copy: Flax's variables are such a dict, and stay as they are
    if isinstance(params, Mapping) or is_record(params):
        if next(named_leaves(params), None) is None:
            raise ValueError(
                f"optimizer got a {type_name(params)} without any parameters: its "
                "leaves must be arrays"
            )
        return [{"params": params}]
    try:
        entries = list(cast("Iterable[Any]", params))
    except TypeError:
        raise not_iterable(params, optimizer) from None
    if not entries:
        once = "; an iterator gives them once, its list(...) again" * isinstance(params, Iterator)
        raise ValueError(
            f"optimizer got an empty parameter list: write {optimizer}([parameter, ...]){once}"
        )
    if isinstance(entries[0], dict) and not _are_layers(entries):
        return entries
    return [{"params": entries}]


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


def options_of_others(group: Group) -> set[str]:
    """The options of all optimizers that have the dict as a group."""
    members = group["params"]
    owners = members.living() if isinstance(members, Members) else ()
    return {name for owner in owners for name in owner.defaults}


def check_one_group_each(groups: list[Group], labels: list[str]) -> None:
    """Refuse a parameter that is in two groups."""
    seen: dict[int, tuple[int, str]] = {}
    members = [(g, p) for g, group in enumerate(groups) for p in group["params"]]
    for (g, param), label in zip(members, labels, strict=True):
        first, name = seen.setdefault(id(param), (g, label))
        if first != g:
            raise ValueError(
                f"some parameters appear in more than one parameter group: {name} is {label}; "
                "leave it in one of them"
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


def note_shards(plan: Any, groups: list[Group], labels: list[str], optimizer: Any) -> None:
    """Tell a plan of which parameters other processes have parts, and refuse those that an
    optimizer cannot step by parts."""
    shards = _shards_in(groups, labels)
    for number, shard in shards.items():
        optimizer._check_element_wise(groups[number], shard)
        _check_scales(groups[number], shard)
    if shards:
        plan.note_shards(shards)
    if optimizer._parts is not None:
        plan.note_parts(optimizer._parts.places, optimizer._parts.ranks)


def _check_scales(group: Group, shard: str) -> None:
    """Refuse codes of 8 bits for parts: torch would save the scales of one process for all."""
    asked = group.get("state_dtype")
    names = set(asked.values()) if isinstance(asked, dict) else {asked}
    if names & {"dynamic8", "float8_e4m3fn"}:
        raise TypeError(
            f"{shard}: state_dtype={asked!r} has scales for the elements of this process alone, "
            "and a checkpoint of all processes would have those of one: write "
            "state_dtype='bfloat16'"
        )


def _shards_in(groups: list[Group], labels: list[str]) -> dict[int, str]:
    """For each group that has a parameter of which other processes have parts, which it is, in
    words."""
    shards: dict[int, str] = {}
    members = [(g, p) for g, group in enumerate(groups) for p in group["params"]]
    for (g, param), label in zip(members, labels, strict=True):
        if g not in shards and is_distributed(param):
            from cyoptim._libraries.torch_distributed import placed

            place = placed(param)
            if place is not None:
                shards[g] = f"{label} is a part of a DTensor ({place})"
    return shards


def check_option_names(group: Group, number: int, known: Mapping[str, Any], optimizer: Any) -> None:
    """Refuse misspelt options and those of stored precision that a class does not have, warn of
    unknown ones.

    Names that begin with an underscore are the user's own; defaults that another optimizer has
    added are ignored.
    """
    members = group["params"]
    written = members.given if isinstance(members, Members) else group
    for name in check_spelling(written, number, known, optimizer.__name__):
        if name in STORAGE_OPTIONS and not has_own_step(optimizer):
            raise TypeError(
                f"param group {number} has an option {name!r} that {optimizer.__name__} does not "
                f"have: {why_not(optimizer)}"
            )
        warn(
            f"param group {number} has an option {name!r} that {optimizer.__name__} does not know: "
            "it is kept and has no effect; leave it out, or begin a key of your own with an "
            "underscore"
        )


def check_spelling(
    written: Iterable[Any], number: int, known: Mapping[str, Any], optimizer: str
) -> list[Any]:
    """Refuse misspelt options; return the names of other unknown ones."""
    unknown = []
    for name in written:
        if name in known or name in _NOTES or str(name).startswith("_"):
            continue
        close = close_name(str(name), known)
        if close is not None:
            raise ValueError(
                f"param group {number} has an option {name!r} that {optimizer} does not know; did "
                f"you mean {close!r}? A key of your own begins with an underscore"
            )
        unknown.append(name)
    return unknown

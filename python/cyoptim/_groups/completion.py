"""Completes new groups with names and defaults, and checks them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cyoptim._arrays.containers import is_record
from cyoptim._arrays.doors import buffer_array, is_parameter, type_name
from cyoptim._engine import Commit, Plan
from cyoptim._groups.groups import check_option_names, check_ordered, labels_of, members_for
from cyoptim._groups.names import check_named_alike, check_names, split_names
from cyoptim._groups.options import check_group, required
from cyoptim._groups.storage import check_storage, takes_storage
from cyoptim._groups.stored import warn_of_rounding
from cyoptim._types import Group
from cyoptim._warnings import warn


class Prepared(NamedTuple):
    """New groups, which `commit` adds."""

    groups: list[Group]  # all of the optimizer, complete
    plan: Plan
    commit: Commit

    def add(self) -> None:
        """Add the groups."""
        self.commit.run()
        self.plan.note_options()


def add_groups(groups: list[Any], optimizer: Any) -> None:
    """Check the groups and add all of them; or none, without changing a dict."""
    prepare_groups(groups, optimizer).add()


def prepare_groups(groups: list[Any], optimizer: Any) -> Prepared:
    """Check new groups; nothing changes."""
    before: list[Group] = optimizer.param_groups
    complete: list[Group] = []
    for group in groups:
        complete.append(optimizer._complete_group(group, [*before, *complete]))
    commit = Commit()
    plan = optimizer._plan_for([*before, *complete], optimizer.state, optimizer._average, commit)
    optimizer._prepare_groups(plan, commit)
    if plan.coded:
        every = [*before, *complete]
        warn_of_rounding(every, plan.arrays(), labels_of(every), optimizer, len(before))
    # The users' own dicts become the groups, as in torch.
    pairs = zip(groups, complete, strict=True)
    for number, (group, own) in enumerate(pairs, len(before)):
        commit.update(group, own)
        plan.adopt_group(number, group)
    commit.extend(before, groups)
    return Prepared([*before, *complete], plan, commit)


def complete_group(param_group: Any, others: list[Group], optimizer: Any) -> Group:
    """A copy with names and defaults, checked without the plan."""
    if not isinstance(param_group, dict):
        raise TypeError(
            f"param_group must be a dict, but got {type(param_group)}: "
            "write {'params': [...], 'lr': ...}"
        )
    number = len(others)
    if "params" not in param_group:
        raise ValueError(
            f"param group {number} has no 'params', but {', '.join(map(repr, param_group))}: "
            "write {'params': [...], 'lr': ...}"
        )
    defaults = optimizer._defaults_for(param_group, optimizer.defaults)
    members, names = _members(param_group["params"], number)
    _check_no_options(names, members, defaults, number)
    known = {**optimizer._unset_options(), **defaults}
    check_option_names(param_group, number, known, type(optimizer))
    members = members_for(param_group, members, optimizer)
    group: Group = optimizer._plain_group({**defaults, **param_group, "params": members})
    _check_required(group, number)
    if names:
        group["param_names"] = names
    check_names(group.get("param_names", ()), members, number)
    check_group(group, optimizer, optimizer._check_options)
    if takes_storage(type(optimizer)):
        check_storage(group, optimizer, f"param group {number}: ")
    if len({id(p) for p in members}) != len(members):
        warn(
            "optimizer contains a parameter group with duplicate parameters; "
            "in future, this will cause an error; "
            "see github.com/pytorch/pytorch/issues/40967 for more information: list each once in "
            f"param group {number}, or it is updated as often as it is listed"
        )
    check_named_alike(group, others)
    return group


def _members(params: Any, number: int) -> tuple[list[Any], list[str]]:
    check_ordered(params)
    params = buffer_array(params, f"'params' of param group {number}")
    if not (isinstance(params, Iterable) or is_parameter(params) or is_record(params)):
        raise TypeError(
            f"'params' of param group {number} is a {type_name(params)}, expected parameters: "
            "write {'params': [parameter, ...]}"
        )
    members, names = split_names(params)
    members = [
        buffer_array(member, f"parameter {i} of group {number}") for i, member in enumerate(members)
    ]
    if not members and isinstance(params, Iterator):
        warn(
            f"'params' of param group {number} is an empty {type_name(params)}: has it been "
            "used up before?"
        )
    return members, names


def _check_no_options(names: list[str], members: list[Any], known: Group, number: int) -> None:
    """Refuse options in the place of parameters, as in ``Adam({"W": W, "lr": 0.1})``."""
    for name, member in zip(names, members, strict=False):
        if name in known and not is_parameter(member):
            raise TypeError(
                f"the parameters of param group {number} have {name!r}, a {type_name(member)}, "
                f"which is an option: write it as an argument, (params, {name}=...), or into a "
                f"group, {{'params': params, {name!r}: ...}}"
            )


def _check_required(group: Group, number: int) -> None:
    for name, value in group.items():
        if value is required:
            raise ValueError(
                "parameter group didn't specify a value of required optimization parameter "
                f"{name}: param group {number}"
            )

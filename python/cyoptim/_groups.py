"""Parameter groups as users write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from cyoptim._doors import type_name
from cyoptim._types import Group, ParamsT
from cyoptim._warnings import warn

# Keys of a group that are no options of its optimizer: users' own notes and the schedulers'.
_NOTES = frozenset({"params", "param_names", "name", "initial_lr", "max_lr", "min_lr"})
_NOTES |= {"base_momentum", "max_momentum", "swa_lr"}

NOT_ITERABLE = (
    "params argument given to the optimizer should be an iterable of Tensors or dicts, or of "
    "arrays, but got {}"
)


def parameters_of(groups: list[Group]) -> Iterator[Any]:
    """The parameters of all groups."""
    return chain.from_iterable(group["params"] for group in groups)


def as_groups(params: ParamsT) -> list[Any]:
    """The groups of what a constructor was given: dicts, or parameters of one group."""
    if isinstance(params, Mapping):
        raise TypeError(
            "params is a dict; give its items, as in SGD(params.items()), to optimize its values"
        )
    try:
        entries = list(params)
    except TypeError:
        raise TypeError(NOT_ITERABLE.format(type_name(params))) from None
    if not entries:
        raise ValueError("optimizer got an empty parameter list")
    return entries if isinstance(entries[0], dict) else [{"params": entries}]


def split_names(entries: list[Any]) -> tuple[list[Any], list[str]]:
    """Parameters, and their names if they were given as pairs."""
    names = [entry[0] for entry in entries if isinstance(entry, tuple)]
    if names and len(names) != len(entries):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are missing"
        )
    return [entry[1] if isinstance(entry, tuple) else entry for entry in entries], names


def check_named_alike(group: Group, others: list[Group]) -> None:
    """Refuse names in some groups only."""
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            text = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names. "
                f"cannot add param group {text} to the optimizer"
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
    """How errors name each parameter."""
    labels = []
    for g, group in enumerate(groups):
        names = group.get("param_names")
        for i in range(len(group["params"])):
            name = f" ({names[i]!r})" if names else ""
            labels.append(f"parameter {i}{name} of group {g}")
    return labels


def check_option_names(group: Group, number: int, known: Mapping[str, Any], optimizer: str) -> None:
    """Refuse misspelt options, warn of unknown ones."""
    for name in group:
        if name not in known and name not in _NOTES:
            found = f"param group {number} has an option {name!r} that {optimizer} does not know"
            import difflib  # here, because it is slow to import

            close = difflib.get_close_matches(str(name), known, n=1)
            if close:
                raise ValueError(f"{found}; did you mean {close[0]!r}?")
            warn(f"{found}: it is kept and has no effect")

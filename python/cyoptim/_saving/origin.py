"""Checks the optimizer class of a state dict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cyoptim._groups.native import rules_of
from cyoptim._groups.options import as_sequence
from cyoptim._state.form import (
    entries_of_rules,
    essential_entries,
    essential_options,
    numbers_of_groups,
)
from cyoptim._types import Group

_ADVICE = ". Load it into an optimizer of the kind that saved it"


def check_origin(optimizer: Any, groups: Sequence[Group], states: Collection[Any]) -> None:
    """Refuse groups without options, and states without entries, that this optimizer class always
    has; and groups with numbers that only the steps of another class keep there."""
    name, essential = type(optimizer).__name__, essential_entries(type(optimizer))
    for number, group in enumerate(groups):
        missing = [o for o in essential_options(type(optimizer)) if o not in group]
        if missing:
            nowhere = [e for e in essential if states and not any(_has(s, e) for s in states)]
            also = f", and no parameter has a state {_listed(nowhere)}" if nowhere else ""
            raise ValueError(
                f"the loaded state dict is not that of {name}: param group {number} has no "
                f"{_listed(missing)}{also}{_resemblance(group, states)}{_ADVICE}"
            )
        numbers = _numbers_of_others(group, optimizer)
        if numbers:
            raise ValueError(
                f"the loaded state dict is not that of {name}: param group {number} has "
                f"{_listed(numbers)}, unknown to its steps{_resemblance(group, states)}{_ADVICE}"
            )
        for option in essential_options(type(optimizer)):
            ours, found = optimizer.defaults.get(option), as_sequence(group[option])
            both = isinstance(ours, (tuple, list)) and isinstance(found, (tuple, list))
            if both and len(ours) != len(found):
                raise ValueError(
                    f"the loaded state dict is not that of {name}: {option!r} of param group "
                    f"{number} are {len(found)} numbers, expected {len(ours)}"
                    f"{_resemblance(group, states)}{_ADVICE}"
                )
    known = entries_of_rules()
    for entries in states:
        if not isinstance(entries, dict) or not (known & entries.keys()):
            continue
        missing = [entry for entry in essential if entry not in entries]
        if missing:
            found = _listed([entry for entry in entries if entry in known])
            raise ValueError(
                f"the loaded state dict is not that of {name}: the state of a parameter has "
                f"{found} and no {_listed(missing)}{_resemblance(groups[0], states)}{_ADVICE}"
            )


def _numbers_of_others(group: Group, optimizer: Any) -> list[str]:
    """The numbers of a group that the steps of other optimizer classes keep there. One alone, or
    those of a step in Python, may be a user's own."""
    if optimizer._has_update() or optimizer._steps_itself:
        return []
    own = {name for rule in rules_of(type(optimizer)) for name in rule.group_numbers}
    found = sorted(numbers_of_groups() - own & group.keys())
    return found if len(found) > 1 else []


def check_whole(
    optimizer: Any, entries: Mapping[str, Any], shape: tuple[int, ...], group: Group, label: str
) -> None:
    """Refuse a part of the state of a parameter of this shape and group."""
    missing = optimizer._lacks(shape, entries, group)
    if missing:
        raise ValueError(
            f"the loaded state dict is not that of {type(optimizer).__name__}: the state of "
            f"{label} has {_listed([*entries])} and no {_listed(missing)}{_ADVICE}"
        )


def _resemblance(group: Group, states: Collection[Any]) -> str:
    """The likely optimizer class of a state, for a message."""
    from cyoptim import optimizers

    names = {name for entries in states if isinstance(entries, dict) for name in entries}
    found = []
    for name in optimizers.__all__:
        cls = getattr(optimizers, name)
        options, entries = essential_options(cls), essential_entries(cls)
        if {*options} <= group.keys() and (not names or {*entries} <= names):
            found.append((len(options) + len(entries), name))
    best = [name for count, name in found if count == max(found)[0]]
    return f"; it looks like that of {' or '.join(best)}" if best else ""


def _has(entries: Any, name: str) -> bool:
    return isinstance(entries, dict) and name in entries


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)

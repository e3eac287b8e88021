"""Stored precision and parameters: which do not go together, and where small steps are lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from cyoptim._engine import (
    NONNEGATIVE,
    STORAGE_OPTIONS,
    Rule,
    name_of_dtype,
    stored_dtype_of,
)
from cyoptim._groups.storage import check_storage, has_own_step, is_given, takes_storage, why_not
from cyoptim._types import Array, Group
from cyoptim._warnings import warn


class _Stored(NamedTuple):
    """A group, its number, and the arrays and labels of its parameters."""

    number: int
    group: Group
    members: list[tuple[Array, str]]

    @property
    def sixteen(self) -> list[tuple[Array, str]]:
        """Those of 16 bits."""
        return [(view, label) for view, label in self.members if view.dtype.itemsize == 2]

    @property
    def master(self) -> Any:
        return self.group.get("master", STORAGE_OPTIONS["master"])

    @property
    def given(self) -> list[str]:
        return [name for name in STORAGE_OPTIONS if name in self.group]


def _stored(
    groups: Sequence[Group], views: Iterable[Array], labels: Iterable[str]
) -> Iterator[_Stored]:
    members = zip(views, labels, strict=True)
    for number, group in enumerate(groups):
        yield _Stored(number, group, list(islice(members, len(group["params"]))))


def check_stored(
    groups: Sequence[Group], views: Iterable[Array], labels: Iterable[str], optimizer: Any
) -> None:
    """Refuse options that do not fit the parameters of their groups, and parameters of 16 bits
    where no native rule steps them."""
    found = list(_stored(groups, views, labels))
    for stored in found:
        where = f"param group {stored.number}: "
        check_storage(stored.group, optimizer, where)
        if stored.given or stored.sixteen:
            _check_rule(stored, optimizer)
        _check_widths(stored, where)
        if stored.master == "split":
            _check_split(stored, where)
    _check_masters(found)


def _check_rule(stored: _Stored, optimizer: Any) -> None:
    """Refuse all of it in a group that no native rule steps."""
    of_class = takes_storage(type(optimizer))
    if of_class and optimizer._rule_of_state(stored.group) is not None:
        return
    if has_own_step(type(optimizer)):
        return
    name = type(optimizer).__name__
    if stored.given:
        reason = "no native rule steps it: leave it out" if of_class else why_not(type(optimizer))
        raise TypeError(
            f"param group {stored.number} has an option {stored.given[0]!r} that {name} does not "
            f"take there: {reason}"
        )
    view, label = stored.sixteen[0]
    raise TypeError(
        f"{label} has dtype {name_of_dtype(view.dtype)}, which steps by native rules take, such as "
        f"AdamW's; {name} has none{' there' if of_class else ''}: make it float32, or give it to "
        "another optimizer"
    )


def _check_widths(stored: _Stored, where: str) -> None:
    """Refuse other types for the state of complex parameters, and more bits than steps compute
    in."""
    asked = stored.group.get("state_dtype")
    if asked is None:
        return
    names = set(asked.values()) if isinstance(asked, dict) else {asked}
    for view, label in stored.members:
        if view.dtype.kind == "c":
            raise TypeError(
                f"{where}state_dtype={asked!r} is not for complex parameters, and {label} has "
                f"dtype {view.dtype}: put it into a group with 'state_dtype': None"
            )
        if "float64" in names and view.dtype != "float64":
            raise ValueError(
                f"{where}state_dtype={asked!r}, but {label} has dtype {name_of_dtype(view.dtype)}, "
                "and its steps compute in float32: leave float64 out, or make the parameter float64"
            )


def _check_split(stored: _Stored, where: str) -> None:
    for view, label in stored.sixteen:
        if name_of_dtype(view.dtype) == "float16":
            raise ValueError(
                f"{where}master='split' is for bfloat16 parameters, whose bits are the upper half "
                f"of a float32's, and {label} has dtype float16: write master='float32'"
            )


def _check_masters(found: list[_Stored]) -> None:
    """Refuse a master where there is nothing to keep one of. It may be that of all groups, of which
    some have parameters of 16 bits."""
    for stored in found:
        if not (stored.members and is_given("master", stored.group)):
            continue
        if not any(other.sixteen and other.master == stored.master for other in found):
            dtypes = sorted({name_of_dtype(view.dtype) for view, _ in stored.members})
            raise ValueError(
                f"param group {stored.number}: master={stored.master!r} is for parameters of 16 "
                f"bits, and its parameters have dtype {' and '.join(dtypes)}: leave it out, or "
                'make them cyoptim.Parameter(data, dtype="bfloat16")'
            )


# --- warnings -------------------------------------------------------------------------------------

# Sums and averages of squares, and the largest such.
_SQUARES = NONNEGATIVE - {"step_size", "exp_inf"}
# State that changes by a small part of itself at each step.
_SLOW = {name for name in _SQUARES if not name.startswith("max_")} | {"exp_inf", "exp_avg_slow"}


def warn_of_rounding(
    groups: Sequence[Group],
    views: Iterable[Array],
    labels: Iterable[str],
    optimizer: Any,
    first: int = 0,
) -> None:
    """Warn of groups, from the first of them on, that lose small steps or small numbers by
    rounding."""
    for stored in islice(_stored(groups, views, labels), first, None):
        rule = optimizer._rule_of_state(stored.group)
        if rule is None:
            continue
        states = {name: _stored_types(stored, rule, name) for name in rule.states}
        if stored.group.get("rounding") == "nearest":
            _warn_of_params(stored)
            _warn_of_slow_states(stored, states)
        _warn_of_squares(stored, states)


def _warn_of_params(stored: _Stored) -> None:
    if stored.sixteen and stored.master is None:
        name = name_of_dtype(stored.sixteen[0][0].dtype)
        lost = "1e-3" if name == "bfloat16" else "1e-4"
        warn(
            f"param group {stored.number} rounds {name} parameters to nearest, without a master: "
            f"steps smaller than half of their last place are lost (AdamW with lr={lost} never "
            "moves a parameter away from 1.0); leave out master=None or rounding='nearest'"
        )


def _stored_types(stored: _Stored, rule: Rule, name: str) -> set[str]:
    """The types in which a group has an array of its state."""
    views = [view for view, _ in stored.members]
    return {name_of_dtype(stored_dtype_of(rule, name, view, stored.group)) for view in views}


def _warn_of_slow_states(stored: _Stored, states: dict[str, set[str]]) -> None:
    for name in states:
        if name in _SLOW and states[name] & {"bfloat16", "float16"}:
            warn(
                f"param group {stored.number} rounds its state {name!r} to nearest in 16 bits: "
                "changes smaller than half of its last place are lost (with beta2=0.999, an "
                "average of squares in bfloat16 never decays); leave out rounding='nearest', or "
                f"write state_dtype={{{name!r}: 'float32', ...}}"
            )
            return


def _warn_of_squares(stored: _Stored, states: dict[str, set[str]]) -> None:
    for name in states:
        if name in _SQUARES and "float16" in states[name]:
            warn(
                f"param group {stored.number} keeps its state {name!r} in float16, which has no "
                "numbers between 0 and 6e-8: as steps are divided by the root of it, they are too "
                "small along gradients below 1e-3 (a seventh of AdamW's along 1e-4); write "
                f"state_dtype='bfloat16', or state_dtype={{{name!r}: 'float32', ...}}"
            )
            return

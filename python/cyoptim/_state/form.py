"""The form of a state: what each entry of a parameter's state must be, for one optimizer.

Whoever loads, saves, or asks whose a state is, asks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import numpy as np

from cyoptim._arrays.doors import is_tensor, loaded_array, own_part, type_name
from cyoptim._engine import RULES, Room, Rule, make_counter, make_number, rule_named
from cyoptim._groups.native import rules_of
from cyoptim._state.exchange import array_like, arrays_in, as_it_is
from cyoptim._state.mapping import in_kind
from cyoptim._state.storage import PARTNERS, SCALE, Losses, Storage
from cyoptim._types import Array, Group
from cyoptim._warnings import warn


class Kind(Enum):
    """What an entry is."""

    ARRAY = auto()  # of the parameter's dtype, and of a shape that is known
    NUMBER = auto()  # of a rule: one, or one for each unit
    COUNT = auto()  # of steps; a plain number stays one, for those who count themselves
    COUNTER = auto()  # of steps, always an array
    VALUE = auto()  # what an update() works with: arrays of the parameter's dtype, numbers, others
    NOTE = auto()  # what no step looks at, as it is


class Entry(NamedTuple):
    """One entry of a state."""

    kind: Kind
    shape: tuple[int, ...] = ()
    dtype: Any = None
    may_be_none: bool = False  # until the first step
    may_be_zero: bool = False  # one number without axes, for all elements


class Form:
    """What the states of an optimizer's parameters hold."""

    def __init__(self, optimizer: Any) -> None:
        self._updates = optimizer._has_update()
        self._prepares = optimizer._prepares_update
        self._steps_itself = optimizer._steps_itself
        self._is_free = self._steps_itself and not self._updates
        self._shape_of = optimizer._state_shape
        self._step_type = optimizer._step_type
        self._rules = {name: rule for rule in rules_of(type(optimizer)) for name in rule.entries}
        self._rule_of = optimizer._rule_of_state
        self._rule_apart = optimizer._rule_apart
        self._is_apart = optimizer._is_apart
        # By parameter, what of loaded states this optimizer does not keep: see tell_losses().
        self._losses: dict[str, Losses] = {}

    def entry(self, name: str, view: Array, group: Group | None = None) -> Entry:
        """What the entry of this name must be, for the parameter of this memory and group."""
        return self._entry(name, self._storage(view, group, ""))

    def _entry(self, name: str, storage: Storage) -> Entry:
        if name in storage.beside:
            return Entry(Kind.ARRAY, *storage.beside[name])
        rule = self._rule_with(name, storage)
        if rule is not None:
            return _entry_of_rule(rule, name, storage)
        if self._updates and not (self._rules and name == "step"):
            return self._entry_of_update(name, storage.view)
        if self._steps_itself:
            return Entry(Kind.NOTE)
        return Entry(Kind.COUNT if name == "step" else Kind.NOTE)

    def _storage(self, view: Array, group: Group | None, label: str) -> Storage:
        return Storage(self._own_rule(view, group), view, group, label)

    def _own_rule(self, view: Array, group: Group | None) -> Rule | None:
        """The rule that steps a parameter."""
        if group is None or self._steps_itself:
            return None
        apart = self._rule_apart(group) if self._is_apart(view.shape) else None
        return self._rule_of(group) if apart is None else rule_named(apart)

    def _rule_with(self, name: str, storage: Storage) -> Rule | None:
        """The rule that has an entry: that which steps the parameter, or any of the class."""
        if self._steps_itself:
            return None
        own = storage.rule
        return self._rules.get(name) if own is None or own.kind_of(name) is None else own

    def _entry_of_update(self, name: str, view: Array) -> Entry:
        if name == "step" and self._prepares:
            return Entry(Kind.COUNTER)
        shape = self._shape_of(name, view.shape)
        return Entry(Kind.VALUE) if shape is None else Entry(Kind.ARRAY, shape)

    # --- loading and saving -----------------------------------------------------------------------

    def ordered(
        self, state: Mapping[Any, Any], before: list[Any], keys: list[Any], views: list[Array]
    ) -> Mapping[Any, Any]:
        """The states of all parameters, whose keys have been put into another order by names."""
        return state

    def loaded(
        self,
        param: Any,
        view: Array,
        values: Any,
        label: str,
        room: Room,
        group: Group | None = None,
    ) -> Any:
        """A copy of one parameter's loaded state, as the optimizer keeps it in this group."""
        if not isinstance(values, dict):
            if self._is_free:
                return as_it_is(param, room.read(values))
            raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")
        storage = self._storage(view, group, label)
        entries: dict[str, Any] = {}
        for name, value in self._without_partners(values, label).items():
            stored = self._stored(name, param, value, values, storage, room)
            if stored is None:
                stored = {name: self._loaded_entry(name, param, value, storage, room)}
            entries.update(stored)
        if not self._steps_itself:
            entries.update(storage.partners(param, values, room))
        if storage.losses:
            self._losses[label] = storage.losses
        return entries if self._is_free else in_kind(param, entries)

    def _without_partners(self, values: dict[Any, Any], label: str) -> dict[Any, Any]:
        """The entries of a state but for what codecs keep beside elements."""
        if self._steps_itself or not self._rules:
            return values
        scales = {name + SCALE: name for name in self._rules}
        for name in scales.keys() & values.keys():
            if values.get(scales[name]) is None:
                raise ValueError(
                    f"loaded state {name!r} of {label} belongs to {scales[name]!r}, which the "
                    "state does not have"
                )
        partners = {*PARTNERS, *scales}
        return {name: value for name, value in values.items() if name not in partners}

    def _stored(
        self, name: str, param: Any, value: Any, values: Any, storage: Storage, room: Room
    ) -> dict[str, Array] | None:
        """An array of a rule that a codec stores, here or in the loaded state, and its scales."""
        rule = None if value is None else self._rule_with(name, storage)
        if rule is None or rule.kind_of(name) != "array" or name in rule.slices:
            return None
        return storage.array(rule, name, value, values.get(name + SCALE), param, room)

    def _loaded_entry(self, name: str, param: Any, value: Any, storage: Storage, room: Room) -> Any:
        view, label = storage.view, storage.label
        entry = self._entry(name, storage)
        if entry.kind is not Kind.ARRAY or entry.shape != view.shape:  # which the room fills
            value = room.read(value)
        if entry.kind is Kind.NOTE or (value is None and entry.may_be_none):
            return as_it_is(param, value, name, storage.is_apart)
        what = f"loaded state {name!r} of {label}"
        value = own_part(value, param, what)
        if entry.kind is Kind.ARRAY:
            return _array(name, value, entry, view, what, room)
        if entry.kind is Kind.NUMBER:
            return make_number(value, what, name, room, entry.dtype, entry.shape)
        if entry.kind is Kind.VALUE and not (name == "step" and _is_scalar(value)):
            return arrays_in(value, view.dtype, what)
        counter = make_counter(value, label, room)
        return value if entry.kind is Kind.COUNT and isinstance(value, (int, float)) else counter

    def tell_losses(self) -> None:
        """Warn, once for all parameters, of what loaded states have and this optimizer does not."""
        if not self._losses:
            return
        (label, losses), *more = self._losses.items()
        told = "; ".join(f"{', '.join(names)}: {how}" for how, names in losses.items())
        others = f" (and the like of {len(more)} more parameters)" if more else ""
        warn(
            "the loaded state is stored in other types than this optimizer keeps. "
            f"Of {label}{others}, {told}. The options state_dtype, master and rounding of its "
            "groups say what it keeps"
        )

    def saved(self, param: Any, values: Any) -> Any:
        """One parameter's state as state_dict() returns it: tensors where the parameter is one."""
        if not isinstance(values, dict):
            return values
        if not is_tensor(param):
            return dict(values)
        return {name: self._saved_entry(name, value) for name, value in values.items()}

    def _saved_entry(self, name: str, value: Any) -> Any:
        from cyoptim._libraries.torch import export_count, export_state

        if name == "step" and self._step_type is not None:
            return self._step_type(value)
        if name == "step" and not self._steps_itself:
            return export_count(value)
        return export_state(value)


def _is_scalar(value: Any) -> bool:
    return (is_tensor(value) or isinstance(value, np.ndarray)) and value.ndim == 0


def _entry_of_rule(rule: Rule, name: str, storage: Storage) -> Entry:
    is_array = rule.kind_of(name) == "array"
    return Entry(
        Kind.ARRAY if is_array else Kind.NUMBER,
        rule.shape_of(name, storage.view.shape, storage.group),
        storage.dtype_of(rule, name) if is_array else rule.dtype_of(name, storage.view.dtype),
        may_be_none=True,
        may_be_zero=name in rule.slices,
    )


def _array(name: str, value: Any, entry: Entry, view: Array, what: str, room: Room) -> Array:
    dtype = entry.dtype or view.dtype
    if entry.may_be_zero and loaded_array(value, what).shape == () and value == 0:
        return np.zeros(entry.shape, dtype)
    array = array_like(value, entry.shape, dtype, what)
    if entry.shape != view.shape:
        return array.astype(dtype)
    return room.filled(name, view, array, dtype)


# --- what is known of a class ---------------------------------------------------------------------


def essential_entries(optimizer: Any) -> list[str]:
    """What the state of a parameter has that has been stepped, whatever the options."""
    if optimizer._essential_state is not None:
        return list(optimizer._essential_state)
    common = _common(rule.entries for rule in rules_of(optimizer))
    return ["step", *common] if common and optimizer._counts_steps else common


def essential_options(optimizer: Any) -> list[str]:
    """The options that the groups of a class always have."""
    if optimizer._essential_options is not None:
        return list(optimizer._essential_options)
    return _common(rule.options for rule in rules_of(optimizer))


def _common(lists: Iterable[tuple[str, ...]]) -> list[str]:
    """The names that are in all of the lists."""
    first, *others = list(lists) or [()]
    return [name for name in first if all(name in other for other in others)]


def entries_of_rules() -> set[str]:
    """What the native rules of all optimizers keep in the state of a parameter."""
    return {"step", *(name for rule in RULES.values() for name in rule.entries)}


def numbers_of_groups() -> set[str]:
    """What the native rules of all optimizers keep in groups."""
    return {name for rule in RULES.values() for name in rule.group_numbers}

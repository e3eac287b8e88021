"""How a loaded state comes into the types in which its optimizer stores it.

An array of the same type keeps its bytes. Any other is converted by way of float32, to nearest.
What is kept beside elements is taken where the optimizer keeps it, too: scales with their codes,
and a remainder or a master if it is one. All else begins anew at the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cyoptim._arrays.doors import own_part, stored_array
from cyoptim._arrays.rounding import rounded
from cyoptim._engine import (
    NONNEGATIVE,
    STORAGE_OPTIONS,
    Room,
    Rule,
    arithmetic_dtype,
    companions,
    encode_array,
    name_of_dtype,
    stored_dtype_of,
    widened,
)
from cyoptim._types import Array, Group

Losses = dict[str, list[str]]

SCALE = "_scale"
KEY = "rounding_key"
PARTNERS = ("param_remainder", "param_master", KEY)
BLOCK = 256  # elements that share a scale

# The codecs of types that need scales.
SCALED = {"uint8": "dynamic8", "float8_e4m3fn": "float8"}
OPTIONS = {"uint8": "dynamic8"}  # as state_dtype calls a type
# The types that are stored by codecs, and those that have all of their numbers.
WITHIN = {
    "bfloat16": ("float32", "float64"),
    "float16": ("float32", "float64"),
    "uint8": ("float32", "float64"),
    "float8_e4m3fn": ("float32", "float64"),
}


class Storage:
    """How the state of one parameter is stored, as the options of its group ask.

    Parameters
    ----------
    rule : Rule or None
        The rule that steps the parameter.
    view : ndarray
        Its memory.
    group : dict or None
        Its group.
    label : str
        What messages call it.

    Attributes
    ----------
    is_apart : bool
        Whether codecs may have to do with it; then all of it lies in C order.
    beside : dict
        What codecs keep beside elements: the shape and dtype of each entry.
    losses : dict
        What a load has not kept: the names of entries, by what has become of them.
    """

    def __init__(self, rule: Rule | None, view: Array, group: Group | None, label: str) -> None:
        self.rule, self.view, self.group, self.label = rule, view, group, label
        self.is_apart = arithmetic_dtype(view) != view.dtype or any(
            name in (group or ()) for name in STORAGE_OPTIONS
        )
        self.beside = {} if rule is None else companions(rule, view, group)
        self.losses: Losses = {}

    def dtype_of(self, rule: Rule, name: str) -> np.dtype[Any]:
        """The type of a state array of a rule."""
        return stored_dtype_of(rule, name, self.view, self.group)

    def partners(self, param: Any, values: Mapping[str, Any], room: Room) -> dict[str, Any]:
        """What a loaded state has beside arrays and their scales, where it is kept here, too."""
        taken: dict[str, Any] = {}
        for name in PARTNERS:
            if values.get(name) is None:
                continue
            value, what = self._part(name, values[name], param)
            expected = () if name == KEY else self.view.shape
            if value.shape != expected:
                raise ValueError(f"{what} has shape {value.shape}, expected {expected}")
            _, dtype = self.beside.get(name, ((), None))
            # Programs that do not know it may have converted it to the parameter's type.
            if dtype is None or value.dtype != dtype:
                if name != KEY:
                    self.losses.setdefault("not taken", []).append(name)
            elif name == KEY:
                taken[name] = room.number(name, value, dtype)
            else:
                taken[name] = room.filled(name, self.view, value, dtype, "C")
        return taken

    def array(
        self, rule: Rule, name: str, value: Any, scale: Any, param: Any, room: Room
    ) -> dict[str, Array] | None:
        """A loaded array of a rule in its type, with its scales if it has any; None if no codec has
        to do with either side."""
        stored, what = self._part(name, value, param)
        dtype = self.dtype_of(rule, name)
        found, wanted = name_of_dtype(stored.dtype), name_of_dtype(dtype)
        if not {found, wanted} & WITHIN.keys() and scale is None:
            return None
        if stored.shape != self.view.shape:
            raise ValueError(f"{what} has shape {stored.shape}, expected {self.view.shape}")
        _check_codes(name, found, scale is not None, what)
        scales = None if scale is None else self._scales(name + SCALE, room.read(scale), param)
        order = "C" if self.is_apart else "K"
        if found == wanted:
            kept = {name: room.filled(name, self.view, stored, dtype, order)}
            return kept if scales is None else {**kept, name + SCALE: scales}
        values = _numbers(name, room.read(stored), scales, what)
        if wanted not in WITHIN:
            return {name: room.filled(name, self.view, values, dtype, order)}
        if wanted not in WITHIN.get(found, ()):
            how = f"rounded from {OPTIONS.get(found, found)} to {OPTIONS.get(wanted, wanted)}"
            self.losses.setdefault(how, []).append(name)
        return _encoded(name, values, dtype)

    def _scales(self, name: str, scale: Any, param: Any) -> Array:
        """The scales beside an array of 8 bits, as a copy."""
        array, what = self._part(name, scale, param)
        expected = (-(-self.view.size // BLOCK),)
        if array.dtype.kind != "f" or array.shape != expected:
            raise ValueError(
                f"{what} has dtype {array.dtype} and shape {array.shape}, expected float32 and "
                f"{expected}: a scale for each {BLOCK} elements"
            )
        return np.array(array, np.float32)

    def _part(self, name: str, value: Any, param: Any) -> tuple[Array, str]:
        """A loaded entry as an array of the type it is stored in, and what messages call it."""
        what = f"loaded state {name!r} of {self.label}"
        return stored_array(own_part(value, param, what), what), what


def _check_codes(name: str, found: str, has_scale: bool, what: str) -> None:
    """Refuse codes of 8 bits without scales, and scales of anything else."""
    if found in SCALED and not has_scale:
        raise ValueError(
            f"{what} has dtype {found}, and no {name + SCALE!r} is beside it: codes of 8 bits need "
            f"a scale for each {BLOCK} elements"
        )
    if has_scale and found not in SCALED:
        raise ValueError(
            f"{what} has dtype {found}, and {name + SCALE!r} is beside it: another program has "
            "converted codes as if they were numbers. Give that program "
            "cyoptim.checkpoint.to_torch(state_dict), which has no codes"
        )


def numbers_of(name: str, entries: Mapping[str, Any]) -> Array:
    """The numbers of an array of a state, with the scales beside it if it has 8 bits."""
    what, scale = f"state {name!r}", entries.get(name + SCALE)
    scales = None if scale is None else stored_array(scale, f"state {name + SCALE!r}")
    return _numbers(name, stored_array(entries[name], what), scales, what)


def _numbers(name: str, stored: Array, scales: Array | None, what: str) -> Array:
    """The numbers that a stored array stands for."""
    if name_of_dtype(stored.dtype) in WITHIN:
        return widened(stored, scales, name, what)
    if stored.dtype.kind not in "fiub":
        raise TypeError(f"{what} has dtype {stored.dtype}, expected numbers")
    return stored


def _encoded(name: str, values: Array, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Numbers as a codec stores them, to nearest, with their scales if it has any."""
    kind = name_of_dtype(dtype)
    values = np.asarray(values, np.float32, order="C")
    if kind not in SCALED:
        return {name: rounded(values, dtype)}
    stored = np.empty(values.shape, dtype)
    scales = np.zeros(-(-values.size // BLOCK), np.float32)
    codec = SCALED[kind] + ("_positive" if name in NONNEGATIVE else "")
    encode_array(values, stored, scales, codec)
    return {name: stored, name + SCALE: scales}

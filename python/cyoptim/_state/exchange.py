"""Between an optimizer's live state and the ``state_dict`` form that torch shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, loaded_array, type_name, view_parameter
from cyoptim._engine import Room, Rule, make_counter, make_number
from cyoptim._state.mapping import in_kind
from cyoptim._types import Array

Group = dict[str, Any]
StateShape = Callable[[str, tuple[int, ...]], "tuple[int, ...] | None"]


def export_state(param: Any, values: Any, step_type: type | None, counts: bool) -> Any:
    """One parameter's state as state_dict() returns it: tensors where the parameter is one.

    `counts` tells whether "step" is our own count, which torch has as a float.
    """
    if not isinstance(values, dict):
        return values
    if not is_tensor(param):
        return dict(values)
    from cyoptim._libraries.torch import export_state

    return {
        name: step_type(value)
        if step_type and name == "step"
        else export_state(name if counts else "", value)
        for name, value in values.items()
    }


def import_state(
    param: Any, values: Any, label: str, room: Room, rules: Iterable[Rule]
) -> dict[str, Any]:
    """A copy of one parameter's loaded state, as the native rules need it that may step it.

    What none of them knows stays as it is.
    """
    _check_state(values, label)
    arrays = {name for rule in rules for name in rule.states}
    numbers = {name for rule in rules for name in rule.memory}
    entries: dict[str, Any] = {}
    for name, value in values.items():
        what = f"loaded state {name!r} of {label}"
        if name == "step":
            counter = make_counter(value, label, room)
            # Who counts with plain numbers goes on so; a native step makes a counter of one.
            entries[name] = value if isinstance(value, (int, float)) else counter
        elif value is None or name not in arrays | numbers:
            entries[name] = _copied(param, value, name)
        elif name in numbers:
            entries[name] = make_number(value, what, name, room)
        else:
            entries[name] = _import_array(param, name, value, label, room)
    return in_kind(param, entries)


def _check_state(values: Any, label: str) -> None:
    if not isinstance(values, dict):
        raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")


def _import_array(param: Any, name: str, value: Any, label: str, room: Room) -> Any:
    what = f"loaded state {name!r} of {label}"
    _, view = view_parameter(param, label)
    result = room.zeros(name, view)
    result[...] = array_like(value, view, what)
    return result


def array_like(value: Any, view: Array, what: str) -> Array:
    """A loaded array or tensor, to be copied into one like `view`: of its shape, and of a dtype
    that torch would cast, too: floats of any precision, integers and booleans."""
    array = loaded_array(value, what)
    if array.dtype.kind not in ("f", "i", "u", "b", view.dtype.kind):
        raise TypeError(f"{what} has dtype {array.dtype}, expected {view.dtype}")
    _check_shape(array, view.shape, what)
    return array


def _check_shape(array: Any, shape: tuple[int, ...], what: str) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"{what} has shape {np.shape(array)}, expected {shape}")


def copy_state(param: Any, values: Any) -> Any:
    """A copy of one parameter's loaded state for an optimizer that makes its steps by itself: as it
    is, but that tensors of a tensor are of its dtype, as torch has it."""
    if not isinstance(values, dict):
        return _copied(param, values, "")
    return {name: _copied(param, value, name) for name, value in values.items()}


def _copied(param: Any, value: Any, name: str) -> Any:
    if not is_tensor(param):
        return copy.deepcopy(value)
    from cyoptim._libraries.torch import copied_state

    return copied_state(param, value, name)


def import_arrays(param: Any, values: Any, label: str, shape_of: StateShape) -> dict[str, Any]:
    """A copy of one parameter's loaded state for an optimizer that updates arrays itself.

    Tensors become arrays; `shape_of` gives the shape that an entry must have, or None.
    """
    _check_state(values, label)
    _, view = view_parameter(param, label)
    state = {}
    for name, value in values.items():
        what = f"loaded state {name!r} of {label}"
        array_like = is_tensor(value) or isinstance(value, np.ndarray)
        if name == "step" and array_like and value.ndim == 0:
            state[name] = make_counter(value, label)
            continue
        expected = shape_of(name, view.shape)
        state[name] = _as_arrays(value, view.dtype, what)
        if expected is not None:
            _check_kind(state[name], view.dtype, what)
            _check_shape(state[name], expected, what)
            state[name] = state[name].astype(view.dtype, copy=False)
    return in_kind(param, state)


def _check_kind(value: Any, dtype: Any, what: str) -> None:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what} is a {type_name(value)}, expected an array of {dtype}")
    if value.dtype.kind not in ("f", "i", "u", "b", dtype.kind):
        raise TypeError(f"{what} has dtype {value.dtype}, expected {dtype}")


def _as_arrays(value: Any, dtype: Any, label: str) -> Any:
    """A copy with an array of the parameter's dtype for every array or tensor of numbers."""
    if isinstance(value, (list, tuple)):
        return type(value)(_as_arrays(item, dtype, label) for item in value)
    if isinstance(value, dict):
        return {key: _as_arrays(item, dtype, label) for key, item in value.items()}
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = loaded_array(value, label)
    if not isinstance(value, np.ndarray):
        return copy.deepcopy(value)
    return np.array(value, dtype=dtype if value.dtype.kind in "fc" else None, subok=False)

"""Between an optimizer's live state and the ``state_dict`` form that torch shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cyoptim._doors import foreign_array, is_tensor, type_name, view_parameter
from cyoptim._engine import Room, make_counter, make_number, memory_names, state_names
from cyoptim._state import in_kind

Group = dict[str, Any]
StateShape = Callable[[str, tuple[int, ...]], "tuple[int, ...] | None"]


def export_state(param: Any, values: Any, step_type: type | None) -> Any:
    """One parameter's state as state_dict() returns it: tensors where the parameter is one."""
    if not isinstance(values, dict):
        return values
    if not is_tensor(param):
        return dict(values)
    from cyoptim.integrations.torch import export_state

    return {
        name: step_type(value) if step_type and name == "step" else export_state(name, value)
        for name, value in values.items()
    }


def import_state(param: Any, values: Any, label: str, room: Room) -> dict[str, Any]:
    """A copy of one parameter's loaded state, as the native rules need it.

    What no rule knows stays as it is.
    """
    _check_state(values, label)
    return in_kind(
        param,
        {name: _import_entry(param, name, value, label, room) for name, value in values.items()},
    )


def _check_state(values: Any, label: str) -> None:
    if not isinstance(values, dict):
        raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")


def _import_entry(param: Any, name: str, value: Any, label: str, room: Room) -> Any:
    if name == "step":
        counter = make_counter(value, label, room)
        # A number stays one for those who count themselves; a step makes a counter of it.
        return value if isinstance(value, (int, float)) else counter
    what = f"loaded state {name!r} of {label}"
    if value is not None and name in memory_names():
        return make_number(value, what, name, room)
    if value is None or name not in state_names():
        return copy.deepcopy(value)
    array = foreign_array(value, what)
    _, view = view_parameter(param, label)
    _check_shape(array, view.shape, what)
    _check_kind(array, view.dtype, what)
    result = room.zeros(name, view)
    result[...] = array
    return result


def _check_kind(value: Any, dtype: Any, what: str) -> None:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what} is a {type_name(value)}, expected an array of {dtype}")
    if value.dtype.kind not in ("f", dtype.kind):
        raise TypeError(f"{what} has dtype {value.dtype}, expected {dtype}")


def _check_shape(array: Any, shape: tuple[int, ...], what: str) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"{what} has shape {np.shape(array)}, expected {shape}")


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
        state[name] = _as_arrays(value, view.dtype, what)
        expected = shape_of(name, view.shape)
        if expected is not None:
            _check_kind(state[name], view.dtype, what)
            _check_shape(state[name], expected, what)
    return in_kind(param, state)


def _as_arrays(value: Any, dtype: Any, label: str) -> Any:
    """A copy with an array of the parameter's dtype for every array or tensor of numbers."""
    if isinstance(value, (list, tuple)):
        return type(value)(_as_arrays(item, dtype, label) for item in value)
    if isinstance(value, dict):
        return {key: _as_arrays(item, dtype, label) for key, item in value.items()}
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = foreign_array(value, label)
    if not isinstance(value, np.ndarray):
        return copy.deepcopy(value)
    return np.array(value, dtype=dtype if value.dtype.kind in "fc" else None, subok=False)


def checked_groups(
    state_dict: Any, groups: list[Group], defaults: Mapping[str, Any]
) -> list[Group]:
    """The groups of a state dict, copied, with the optimizer's own parameters in them, and defaults
    for what they lack."""
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns"
        )
    if not isinstance(state_dict["state"], Mapping):
        raise TypeError(f"'state' is a {type_name(state_dict['state'])}, expected a dict")
    saved = state_dict["param_groups"]
    if not isinstance(saved, (list, tuple)):
        raise TypeError(f"'param_groups' is a {type_name(saved)}, expected a list of dicts")
    if len(saved) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, expected {len(groups)}"
        )
    for number, (old, new) in enumerate(zip(groups, saved, strict=True)):
        _check_group(number, old, new)
    merged = [{**defaults, **_merged(old, new)} for old, new in zip(groups, saved, strict=True)]
    if len({"param_names" in group for group in merged}) > 1:
        raise ValueError(
            "some groups of the loaded state dict have 'param_names', and some have none"
        )
    return merged


def _check_group(number: int, old: Group, new: Any) -> None:
    if not isinstance(new, dict) or not isinstance(new.get("params"), (list, tuple)):
        raise TypeError(
            f"loaded param group {number} must be a dict with a list of numbers under 'params'"
        )
    for key in new["params"]:
        if not isinstance(key, (int, str)):
            raise TypeError(
                f"'params' of loaded param group {number} holds a {type_name(key)}, expected "
                "numbers of parameters"
            )
    for key in new:
        if not isinstance(key, str):
            raise TypeError(
                f"loaded param group {number} has an option {key!r}, expected names of options"
            )
    expected = len(old["params"])
    if len(new["params"]) != expected:
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of "
            f"optimizer's group: group {number} has {len(new['params'])} parameters, "
            f"expected {expected}"
        )
    if "param_names" in new:
        _check_names(number, new["param_names"], expected)


def _check_names(number: int, names: Any, expected: int) -> None:
    if not isinstance(names, (list, tuple)):
        raise TypeError(
            f"'param_names' of loaded param group {number} is a {type_name(names)}, expected a "
            f"list of {expected} names"
        )
    if len(names) != expected:
        raise ValueError(
            f"'param_names' of loaded param group {number} holds {len(names)} names, expected "
            f"{expected}"
        )
    for name in names:
        try:
            hash(name)
        except TypeError:
            raise TypeError(
                f"'param_names' of loaded param group {number} holds a {type_name(name)}, "
                "expected names"
            ) from None


def _merged(old: Group, new: Group) -> Group:
    merged = copy.deepcopy({key: value for key, value in new.items() if key != "params"})
    merged["params"] = old["params"]
    if "param_names" in old:
        merged.setdefault("param_names", old["param_names"])
    return merged

"""Between an optimizer's live state and the ``state_dict`` form that torch shares."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from cyoptim._doors import foreign_array, is_tensor, type_name, view_parameter
from cyoptim._engine import make_counter, make_number, memory_names, state_names
from cyoptim._state import in_kind

Group = dict[str, Any]


def export_state(param: Any, values: Any) -> Any:
    """One parameter's state as state_dict() returns it: tensors where the parameter is one."""
    if not isinstance(values, dict):
        return values
    if not is_tensor(param):
        return dict(values)
    from cyoptim.integrations.torch import export_state

    return {name: export_state(name, value) for name, value in values.items()}


def import_state(param: Any, values: Any, label: str) -> dict[str, Any]:
    """A copy of one parameter's loaded state, in the parameter's dtype and layout."""
    if not isinstance(values, dict):
        raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")
    return in_kind(
        param,
        {name: _import_entry(param, name, value, label) for name, value in values.items()},
    )


def _import_entry(param: Any, name: str, value: Any, label: str) -> Any:
    if name == "step":
        counter = make_counter(value, label)
        # A number stays one for those who count themselves; a step makes a counter of it.
        return value if isinstance(value, (int, float)) else counter
    what = f"loaded state {name!r} of {label}"
    if value is not None and name in memory_names():
        return make_number(value, what)
    if value is None or name not in state_names():
        return copy.deepcopy(value)
    array = value if isinstance(value, np.ndarray) else foreign_array(value, what)
    _, view = view_parameter(param, label)
    if array.shape != view.shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {view.shape}")
    if array.dtype.kind != "f":
        raise TypeError(f"{what} has dtype {array.dtype}, expected {view.dtype}")
    result = np.empty_like(view, subok=False)
    result[...] = array
    return result


def checked_groups(state_dict: Any, groups: list[Group]) -> list[Group]:
    """The groups of a state dict, copied, with the optimizer's own parameters in them."""
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns"
        )
    saved = state_dict["param_groups"]
    if len(saved) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, expected {len(groups)}"
        )
    for number, (old, new) in enumerate(zip(groups, saved, strict=True)):
        if len(old["params"]) != len(new["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                f"optimizer's group: group {number} has {len(new['params'])} parameters, "
                f"expected {len(old['params'])}"
            )
    return [_merged(old, new) for old, new in zip(groups, saved, strict=True)]


def _merged(old: Group, new: Group) -> Group:
    merged = copy.deepcopy({key: value for key, value in new.items() if key != "params"})
    merged["params"] = old["params"]
    if "param_names" in old:
        merged.setdefault("param_names", old["param_names"])
    return merged

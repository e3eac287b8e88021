"""Makes the state dict of an optimizer, in torch's form."""

from __future__ import annotations

from typing import Any

from cyoptim._arrays.doors import is_parameter
from cyoptim._groups.groups import parameters_of
from cyoptim._types import Group, StateDict


def state_dict_of(groups: list[Group], optimizer: Any) -> StateDict:
    """The state dict: numbers instead of parameters, and arrays that are not copied."""
    params = list(parameters_of(groups))
    numbers: dict[int, int] = {}
    for i, param in enumerate(params):
        numbers.setdefault(id(param), i)
    kept = optimizer._contents(params, numbers)
    state = kept.pop("state")
    numbered = [
        {**group, "params": [numbers[id(param)] for param in group["params"]]} for group in groups
    ]
    return {"state": state, "param_groups": numbered, **kept}


def contents_of(optimizer: Any, params: list[Any], numbers: dict[int, int]) -> dict[str, Any]:
    """What an optimizer keeps for its parameters, by their numbers: its state, and averages and
    accumulated gradients if it has any."""
    form = optimizer._form()
    kept: dict[str, Any] = {
        "state": {
            numbers.get(id(param), param): form.saved(param, values)
            for param, values in optimizer.state.items()
            # Not of parameters that have been taken out of their group.
            if id(param) in numbers or not is_parameter(param)
        }
    }
    if optimizer._average is not None:
        kept["averages"] = optimizer._average.export(numbers)
    if optimizer._sums.count:
        kept["accumulated"] = optimizer._sums.export(params, numbers)
    return kept

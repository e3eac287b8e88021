"""Makes the state dict of an optimizer, in torch's form."""

from __future__ import annotations

from cyoptim._arrays.doors import is_parameter
from cyoptim._averages.moving import MovingAverage
from cyoptim._gradients.sums import Sums
from cyoptim._groups.groups import parameters_of
from cyoptim._state.form import Form
from cyoptim._state.mapping import State
from cyoptim._types import Group, StateDict


def state_dict_of(
    groups: list[Group], state: State, form: Form, average: MovingAverage | None, sums: Sums
) -> StateDict:
    """The state dict: numbers instead of parameters, and arrays that are not copied."""
    params = list(parameters_of(groups))
    numbers: dict[int, int] = {}
    for i, param in enumerate(params):
        numbers.setdefault(id(param), i)
    state_dict: StateDict = {
        "state": {
            numbers.get(id(param), param): form.saved(param, values)
            for param, values in state.items()
            # Not of parameters that have been taken out of their group.
            if id(param) in numbers or not is_parameter(param)
        },
        "param_groups": [
            {**group, "params": [numbers[id(param)] for param in group["params"]]}
            for group in groups
        ],
    }
    if average is not None:
        state_dict["averages"] = average.export(numbers)
    if sums.count:
        state_dict["accumulated"] = sums.export(params, numbers)
    return state_dict

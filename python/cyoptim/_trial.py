"""Steps on trial: a function may do anything to an optimizer, which is afterwards as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cyoptim._arrays.doors import announce_update, arrays_of, is_tensor
from cyoptim._engine import Commit, call_and_end
from cyoptim._gradients.sums import Sums
from cyoptim._groups.groups import parameters_of
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer

T = TypeVar("T")


class _Before(NamedTuple):
    """What a trial changes: attributes by name, contents as views and copies."""

    attributes: dict[str, Any]
    has_stepped: bool
    values: list[tuple[Array, Array]]
    memory: list[tuple[Any, Any]]
    gradients: list[tuple[Any, Any, Array | None]]


def on_trial(optimizer: Optimizer, doing: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function, and then undo all changes of parameters, gradients, groups and state.

    Meanwhile the optimizer works on copies of its groups, state and averages, so the originals
    stay the same objects with the same bits. Parameters and gradients are changed, and copied back.
    """
    inner = optimizer._stepped_by()
    if inner is not None:
        result: T = on_trial(inner, doing, _on_trial, optimizer, doing, function, *args)
        return result
    return _on_trial(optimizer, doing, function, *args)


def _on_trial(optimizer: Optimizer, doing: str, function: Callable[..., T], *args: Any) -> T:
    before: list[_Before] = []

    def run() -> T:
        optimizer._turn.write(doing, _begin, optimizer, doing, before)
        return function(*args)

    def end() -> None:
        for record in before:
            optimizer._turn.write(f"the end of {doing}", _end, optimizer, record)

    return call_and_end(run, end)


def _begin(optimizer: Optimizer, doing: str, before: list[_Before]) -> None:
    if optimizer._average is not None:
        optimizer._average.check_unswapped(f"call {doing}")
    optimizer._settle_names()
    optimizer._refit()
    params = list(parameters_of(optimizer.param_groups))
    work_on_copies = optimizer._on_copies() or _on_copies(optimizer, params)
    record = _Before(
        dict(vars(optimizer)),
        optimizer._opt_called,
        # Views, as the function may make the arrays read-only or give them another shape.
        [(array.view(), array.copy(order="K")) for array in optimizer._plan.arrays()],
        [(param, param.data) for param in params if not isinstance(param, np.ndarray)],
        [_gradient_of(param) for param in params],
    )
    before.append(record)  # first, as an interrupt may come after the next call
    work_on_copies()


def _on_copies(optimizer: Optimizer, params: list[Any]) -> Callable[[], None]:
    """What lets an optimizer work on copies of its groups and state, over the same parameters."""
    own = copy.deepcopy(optimizer.__getstate__(), {id(param): param for param in params})
    # Without the sums: those that wait would join the first step.
    state = {**own, "_sums": Sums(), "_is_new": optimizer._is_new}
    return partial(optimizer.__setstate__, state)


def _end(optimizer: Optimizer, before: _Before) -> None:
    # The plan of before comes back: a new one could fail, over parameters that have been replaced.
    plan, attributes = before.attributes["_plan"], {**before.attributes, "_quick": None}
    commit = Commit()
    commit.become(vars(optimizer), attributes)
    commit.adopt(plan, optimizer._plan)
    for view, values in before.values:
        commit.copy(view, values)
    commit.run()
    optimizer._opt_called = before.has_stepped
    for param, data in before.memory:
        _give_memory(param, data)
    for record in before.gradients:
        _give_gradient(*record)
    tensors = [param for param in parameters_of(attributes["param_groups"]) if is_tensor(param)]
    if tensors:
        announce_update(tensors)


def _give_memory(param: Any, data: Any) -> None:
    """Put back what holds a parameter's memory, if it has been replaced."""
    found = param.data
    # That of a tensor is another object each time.
    if not (_are_one(found, data) if is_tensor(param) else found is data):
        param.data = data


def _are_one(tensor: Any, other: Any) -> bool:
    places = [
        (array.ctypes.data, array.shape, array.strides, array.dtype)
        for array in arrays_of([tensor, other])
    ]
    return len(places) == 2 and places[0] == places[1]


# --- gradients ------------------------------------------------------------------------------------


def _gradient_of(param: Any) -> tuple[Any, Any, Array | None]:
    """A parameter, the object that is its gradient, and a copy of what that contains."""
    gradient = getattr(param, "grad", None)
    array = _array_in(gradient)
    return param, gradient, None if array is None else array.copy(order="K")


def _give_gradient(param: Any, gradient: Any, values: Array | None) -> None:
    found = getattr(param, "grad", None)
    if found is not gradient and not hasattr(param, "null_grad"):
        param.grad = found = gradient
    elif gradient is None and found is not None:
        param.null_grad()
    # MyGrad's tensors take no other object: the one that they hold now gets the values.
    array = _array_in(found)
    if array is not None and values is not None:
        np.copyto(array, values)


def _array_in(gradient: Any) -> Array | None:
    """The memory of a gradient that may be written in place: steps may fill it with zeros."""
    if is_tensor(gradient):
        from cyoptim._libraries.torch import as_array

        gradient = as_array(gradient)  # a sparse one stays as it is
    return gradient if isinstance(gradient, np.ndarray) and gradient.flags.writeable else None

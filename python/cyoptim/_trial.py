"""Steps on trial: a block may do anything to an optimizer, which is afterwards as it was before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from cyoptim._arrays.doors import announce_update, is_tensor
from cyoptim._engine import Commit
from cyoptim._gradients.sums import Sums
from cyoptim._groups.groups import parameters_of
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer


class _Before(NamedTuple):
    """What a trial changes: attributes by name, contents as copies."""

    attributes: dict[str, Any]
    has_stepped: bool
    values: list[Array]
    gradients: list[tuple[Any, Any, Array | None]]


@contextmanager
def on_trial(optimizer: Optimizer, doing: str) -> Iterator[None]:
    """Undo, at the end of a block, all changes of parameters, gradients, groups and state.

    Inside it the optimizer works on copies of its groups, state and averages, so the originals
    stay the same objects with the same bits. Parameters and gradients are changed, and copied back.
    """
    before = optimizer._turn.write(doing, _begin, optimizer, doing)
    try:
        yield
    finally:
        optimizer._turn.write(f"the end of {doing}", _end, optimizer, before)


def _begin(optimizer: Optimizer, doing: str) -> _Before:
    if optimizer._average is not None:
        optimizer._average.check_unswapped(f"call {doing}")
    optimizer._settle_names()
    optimizer._refit()
    params = list(parameters_of(optimizer.param_groups))
    before = _Before(
        dict(vars(optimizer)),
        optimizer._opt_called,
        [array.copy(order="K") for array in optimizer._plan.arrays()],
        [_gradient_of(param) for param in params],
    )
    own = copy.deepcopy(optimizer.__getstate__(), {id(param): param for param in params})
    optimizer.__setstate__({**own, "_sums": Sums()})  # those that wait would join the first step
    return before


def _end(optimizer: Optimizer, before: _Before) -> None:
    attributes = before.attributes
    kept = {"_turn": optimizer._turn, "_plan": optimizer._plan}
    commit = Commit()
    commit.become(vars(optimizer), {**attributes, **kept})
    groups, average = attributes["param_groups"], attributes.get("_average")
    optimizer._plan_for(groups, attributes["_state"], average, commit)
    commit.run()
    optimizer._opt_called = before.has_stepped
    for array, values in zip(optimizer._plan.arrays(), before.values, strict=True):
        np.copyto(array, values)
    for record in before.gradients:
        _give_gradient(*record)
    tensors = [param for param in parameters_of(groups) if is_tensor(param)]
    if tensors:
        announce_update(tensors)


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

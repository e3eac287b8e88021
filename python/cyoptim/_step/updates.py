"""The groups of a step that no native rule steps: their updates in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cyoptim._arrays.doors import foreign_array, view_parameter
from cyoptim._engine import Commit, Extras, Undo, is_usable
from cyoptim._groups.groups import labels_of, parameters_of
from cyoptim._groups.options import check_groups
from cyoptim._step.definition import Found
from cyoptim._types import Array


def update_all(
    optimizer: Any, found: list[tuple[int, Any, Any]], undo: Undo, extras: Extras | None
) -> Commit | None:
    """Make the updates, after `undo` was told what they change; or prepare them and return what is
    to be made, if the optimizer overrides ``_prepare_update()``."""
    if not optimizer._takes_complex and any(array.dtype.kind == "c" for _, array, _ in found):
        optimizer._refuse_complex()
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    params = list(parameters_of(optimizer.param_groups))
    factor = 1.0 if extras is None else extras.factor
    # One at a time: each is a copy.
    scaled = (
        (n, a, g if factor == 1 else np.asarray(g * g.dtype.type(factor))) for n, a, g in found
    )
    optimizer.state.keep(undo)
    # The update of a parameter that occurs twice begins where its first update ends.
    once = len({id(params[number]) for number, _, _ in found}) == len(found)
    if optimizer._prepares_update and once:
        return _prepared(scaled, optimizer, params, groups)
    for number, array, grad in scaled:
        undo.keep(array)
        with optimizer.state.as_arrays(params[number], undo) as state:
            optimizer.update(array, grad, state, groups[number])
    return None


def _prepared(found: Found, optimizer: Any, params: list[Any], groups: list[Any]) -> Commit:
    check_groups(optimizer.param_groups, optimizer._check_options)
    commit = Commit()
    for number, array, grad in optimizer._prepare_known(found, params, groups, commit):
        known = dict(optimizer.state.arrays(params[number]))
        new = optimizer._prepare_update(array, grad, known, groups[number], commit)
        optimizer.state.prepare(params[number], new, commit)
    return commit


def update_now(
    prepare: Callable[..., dict[str, Any]], param: Any, grad: Any, state: Any, group: Any
) -> None:
    """Make one update, which a function like ``_prepare_update()`` prepares."""
    commit = Commit()
    new = prepare(param, grad, state, group, commit)
    commit.run()
    state.update(new)


# --- for those that prepare updates ---------------------------------------------------------------


def missing_arrays(
    optimizer: Any, param: Array, state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Arrays for the entries of a parameter's state that it lacks, or has in another form."""
    return {
        name: _state_array(optimizer, param, name, state.get(name), shape)
        for name, shape in shapes.items()
        if not is_usable(state.get(name), shape, param.dtype)
    }


def _state_array(
    optimizer: Any, param: Array, name: str, value: Any, shape: tuple[int, ...]
) -> Array:
    """Zeros, or a copy of a value that an update cannot use as it is."""
    if value is None:
        same = shape == param.shape
        return np.zeros_like(param, subok=False) if same else np.zeros(shape, param.dtype)
    what = f"state {name!r} of {label_of(optimizer, param)}"
    array = foreign_array(value, what)
    if array.shape != shape or array.dtype.kind != param.dtype.kind:
        raise ValueError(
            f"{what} has shape {array.shape} and dtype {array.dtype}, expected {shape} and "
            f"{param.dtype}"
        )
    return array.astype(param.dtype, order="C")


def label_of(optimizer: Any, array: Array) -> str:
    """What messages call the parameter with this memory."""
    groups = optimizer.param_groups
    for param, label in zip(parameters_of(groups), labels_of(groups), strict=False):
        _, view = view_parameter(param, label)
        if view.ctypes.data == array.ctypes.data and view.shape == array.shape:
            return label
    return "the parameter"

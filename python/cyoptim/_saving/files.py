"""Moves all that an optimizer keeps for its parameters into mapped files, or back."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, type_name
from cyoptim._engine import Commit, Files
from cyoptim._state.mapping import State, in_kind

LEAST = 1 << 20  # bytes of an array that gets a file


def map_state(optimizer: Any, folder: Any) -> None:
    """As :meth:`Optimizer.map_state`, in a turn."""
    files = None if folder is None else Files(_checked(folder), LEAST)
    optimizer._turn.move(files, _move, optimizer)


def follow(twin: Any, optimizer: Any) -> None:
    """Let a new copy of an optimizer have its memory where the optimizer has its own."""
    files = optimizer._turn.files
    twin._turn.follow(optimizer._turn)
    if files is not None and any(map(is_tensor, twin.state)):  # torch copies into its own memory
        twin.map_state(files.folder)


def _checked(folder: Any) -> str:
    try:
        path = os.path.abspath(os.fsdecode(folder))
    except TypeError:
        raise TypeError(
            f"folder must be the path of a folder, or None, got {type_name(folder)}"
        ) from None
    if not os.path.isdir(path):
        missing = "does not exist" if not os.path.exists(path) else "is no folder"
        raise ValueError(f"folder {path!r} {missing}: make it first, on a disk with enough room")
    return path


def _move(optimizer: Any) -> Commit:
    optimizer._settle_names()
    commit, state, average = Commit(), State(), optimizer._average
    for param, entries in optimizer.state.items():
        if isinstance(entries, dict):
            state[param] = in_kind(param, _moved(dict(optimizer.state.arrays(param))))
        else:
            state[param] = entries
    twin = None
    if average is not None:
        average.check_unswapped("call map_state()")
        twin = average.twin()
        twin._entries = {k: (param, _moved(mean)) for k, (param, mean) in twin._entries.items()}
    optimizer._plan_for(optimizer.param_groups, state, twin, commit)
    if twin is not None:
        commit.update(vars(average), vars(twin))
    commit.update(vars(optimizer._sums), {"_arrays": _moved(optimizer._sums._arrays)})
    commit.set(optimizer, "_state", state)
    return commit


def _moved(value: Any) -> Any:
    """The value with copies of its large arrays, which are where new arrays now are. Dicts keep
    their kind; masked arrays, and other subclasses of arrays, stay as they are."""
    if type(value) in (np.ndarray, np.memmap):
        return np.array(value, order="K", subok=False) if value.nbytes >= LEAST else value
    if isinstance(value, dict):
        moved = copy.copy(value)
        moved.update({key: _moved(item) for key, item in value.items()})
        return moved
    if type(value) in (list, tuple):
        return type(value)(_moved(item) for item in value)
    if is_tensor(value):
        from cyoptim._libraries.torch import as_array, as_tensor

        array = as_array(value)
        return as_tensor(_moved(array)) if isinstance(array, np.ndarray) else value
    return value

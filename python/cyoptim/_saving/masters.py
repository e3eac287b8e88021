"""The float32 values of parameters of 16 bits: of each and of what its state keeps beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cyoptim._arrays.doors import announce_update, is_tensor, own_part, type_name, view_parameter
from cyoptim._arrays.rounding import rounded
from cyoptim._engine import (
    CODECS,
    Commit,
    arithmetic_dtype,
    decode_array,
    encode_array,
    param_codec,
    widened,
)
from cyoptim._groups.groups import labels_of
from cyoptim._state.exchange import array_like
from cyoptim._state.mapping import in_kind
from cyoptim._types import Array, Group

__all__ = ["master_weights", "set_master_weights"]

# What is kept beside a parameter, by the names of the state's entries, and the codecs that keep it.
BESIDE: dict[str, Any] = {"param_remainder": np.int16, "param_master": np.float32}
PARTNERS = {
    CODECS["bfloat16_split"]: ("bfloat16_split", "param_remainder"),
    CODECS["bfloat16_master"]: ("bfloat16_master", "param_master"),
    CODECS["float16_master"]: ("float16_master", "param_master"),
}


def master_weights(optimizer: Any) -> list[Any]:
    """Compute the float32 values of an optimizer's parameters.

    Steps over bfloat16 and float16 parameters keep more bits than these show: the rest is in the
    optimizer's state, as ``param_remainder`` or ``param_master``. This puts both together, to
    save or to evaluate the weights as they are trained.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer of the parameters.

    Returns
    -------
    list
        New arrays, or tensors for torch tensors, one for each parameter in the order of the groups:
        float32 for a parameter of 16 bits, which is its own value where the state has nothing
        beside it; a copy of any other.

    Raises
    ------
    RuntimeError
        Inside ``with optimizer.averaged():``.

    See Also
    --------
    set_master_weights : the reverse.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> w = np.ones(3, np.float32)
    >>> optimizer = cyoptim.SGD([w], lr=0.5)
    >>> optimizer.step(grads=[w.copy()])
    >>> cyoptim.master_weights(optimizer)
    [array([0.5, 0.5, 0.5], dtype=float32)]
    """
    collected = _weights if optimizer._stepped_by() is None else type(optimizer)._master_weights
    weights: list[Any] = optimizer._turn.read("master_weights()", collected, optimizer)
    return weights


def set_master_weights(optimizer: Any, weights: Sequence[Any] | Mapping[str, Any]) -> None:
    """Give parameters float32 values, with all of their bits.

    A parameter of 16 bits gets the value rounded, and the optimizer's state gets the rest, so that
    training goes on from the value itself. With ``master=None`` there is no rest, and values are
    only rounded. Other parameters get the values as they are.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer of the parameters.
    weights : sequence or mapping
        Arrays or tensors of floats, one for each parameter in the order of the groups, None for one
        that stays as it is; or a mapping from the parameters' names, which need not have all of
        them.

    Raises
    ------
    TypeError, ValueError
        If there are too few or too many, a name is unknown, or one does not fit its parameter. Then
        nothing changes.
    RuntimeError
        Inside ``with optimizer.averaged():``.

    See Also
    --------
    master_weights : the reverse.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> w = np.zeros(2, np.float16)
    >>> optimizer = cyoptim.AdamW([("w", w)], lr=0.5)
    >>> cyoptim.set_master_weights(optimizer, {"w": np.array([0.1, 0.2], np.float32)})
    >>> w
    array([0.1, 0.2], dtype=float16)
    >>> cyoptim.master_weights(optimizer)
    [array([0.1, 0.2], dtype=float32)]
    """
    put = _set_weights if optimizer._stepped_by() is None else type(optimizer)._set_master_weights
    optimizer._turn.write("set_master_weights()", put, optimizer, weights)


class Slot(NamedTuple):
    """A parameter, its memory, and what is kept beside it."""

    param: Any
    label: str
    view: Array
    codec: str  # empty: nothing is kept beside it
    name: str  # of the entry of the state
    beside: Array | None

    @property
    def is_narrow(self) -> bool:
        """Whether rules compute with more bits than the parameter has."""
        return arithmetic_dtype(self.view) != self.view.dtype


def slot_of(optimizer: Any, param: Any, view: Array, group: Group, label: str) -> Slot:
    codec, name = PARTNERS.get(param_codec(view, group), ("", ""))
    found = optimizer.state.arrays(param).get(name)
    fits = isinstance(found, np.ndarray) and found.shape == view.shape
    fits = fits and found.dtype == BESIDE[name]
    return Slot(param, label, view, codec, name, found if fits else None)


def values_of(slot: Slot) -> Array:
    """The numbers of a parameter with all of their bits, in a new array: in C order if narrow."""
    if not slot.is_narrow:
        return slot.view.copy(order="K")
    if slot.beside is None:
        return np.asarray(widened(slot.view), order="C")
    view, beside = (np.asarray(array, order="C") for array in (slot.view, slot.beside))
    return decode_array(view, beside, slot.codec)


def prepare_values(slot: Slot, values: Array, optimizer: Any, commit: Commit) -> None:
    """Let `commit` give a parameter numbers of its arithmetic, and its state the rest of them."""
    view = slot.view
    if not slot.codec:
        commit.copy(view, rounded(values, view.dtype))
        return
    stored, beside = np.empty(view.shape, view.dtype), np.empty(view.shape, BESIDE[slot.name])
    encode_array(np.asarray(values, order="C"), stored, beside, slot.codec)
    commit.copy(view, stored)
    if slot.beside is not None and slot.beside.flags.writeable:
        commit.copy(slot.beside, beside)
    else:
        optimizer.state.prepare(slot.param, {slot.name: beside}, commit)


def _slots(optimizer: Any, call: str) -> list[Slot]:
    if optimizer._average is not None:
        optimizer._average.check_unswapped(f"call {call}")
    groups = optimizer.param_groups
    members = [(param, group) for group in groups for param in group["params"]]
    return [
        slot_of(optimizer, param, view_parameter(param, label)[1], group, label)
        for (param, group), label in zip(members, labels_of(groups), strict=True)
    ]


def _weights(optimizer: Any) -> list[Any]:
    slots = _slots(optimizer, "master_weights()")
    return [in_kind(slot.param, {"": values_of(slot)})[""] for slot in slots]


def _set_weights(optimizer: Any, weights: Any) -> None:
    prepare_weights(optimizer, aligned_weights(weights, optimizer.param_groups)).run()


def prepare_weights(optimizer: Any, weights: list[Any]) -> Commit:
    """What gives each parameter a value, if there is one; nothing changes here."""
    slots = _slots(optimizer, "set_master_weights()")
    commit, changed = Commit(), []
    for slot, value in zip(slots, weights, strict=True):
        if value is not None:
            prepare_values(slot, _checked(value, slot), optimizer, commit)
            changed.append(slot.param)
    tensors = [param for param in changed if is_tensor(param)]
    if tensors:
        announce_update(tensors)
    return commit


def _checked(value: Any, slot: Slot) -> Array:
    return checked_weight(value, slot.param, slot.view, slot.label)


def checked_weight(value: Any, param: Any, view: Array, label: str) -> Array:
    """A given value as an array of the arithmetic of its parameter, whose memory is `view`."""
    what, dtype = f"the weight of {label}", arithmetic_dtype(view)
    return rounded(array_like(own_part(value, param, what), view.shape, dtype, what), dtype)


def aligned_weights(weights: Any, groups: list[Group]) -> list[Any]:
    """One value for each parameter, or None."""
    count = sum(len(group["params"]) for group in groups)
    if isinstance(weights, Mapping):
        names = [name for group in groups for name in group.get("param_names", ())]
        unknown = [name for name in weights if name not in names]
        if len(names) != count or unknown:
            found = f"has {unknown[0]!r}, which is none" if unknown else "is a mapping"
            raise ValueError(
                f"weights {found} of the {len(names)} names of the {count} parameters: give a list "
                "in their order, or make the optimizer from (name, parameter) pairs"
            )
        return [weights.get(name) for name in names]
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise TypeError(
            "weights must be a list of arrays or a mapping from names of parameters, got "
            f"{type_name(weights)}"
        )
    if len(weights) != count:
        raise ValueError(
            f"weights has {len(weights)} items, expected {count}: one for each parameter, None for "
            "one that stays as it is"
        )
    return list(weights)

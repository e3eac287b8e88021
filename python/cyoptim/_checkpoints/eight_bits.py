"""State dicts whose arrays have 8 bits: to and from torchao and bitsandbytes, and to torch.optim.

The codes of these packages are ours, with the same blocks and scales, so they pass unchanged. Codes
of another book, or of blocks of another size, become float32. Objects of theirs are read by their
attributes; only :func:`to_torchao` imports the package, as it makes such objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_tensor, stored_array
from cyoptim._engine import NONNEGATIVE, STORAGE_OPTIONS, decode_array, name_of_dtype, widened
from cyoptim._saving.matching import check_form
from cyoptim._state.storage import BLOCK, PARTNERS, SCALE, SCALED, numbers_of
from cyoptim._types import Array, Group, StateDict

NESTED = "__bnb_optimizer_quant_state__"  # where bitsandbytes hides arrays from FSDP
# The entries that bitsandbytes has as `state1` and `state2`; of AdEMAMix, two in the first.
OF_ADAM = ("exp_avg", "exp_avg_sq")
OF_ADEMAMIX = ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")
# What AdEMAMix calls its options here and there. Other optimizers of bitsandbytes have theirs, too.
OPTIONS = {"alpha_warmup": "t_alpha", "beta3_warmup": "t_beta3"}
OLD_BLOCK = 2048  # of bitsandbytes before 0.44


def to_torch(state_dict: StateDict) -> StateDict:
    """Convert a state dict to one without codes, for ``torch.optim`` and other programs.

    These take the codes of 8-bit state for numbers. Arrays of 8 bits become float32; entries that
    only cyoptim knows (``param_remainder``, ``param_master``, ``rounding_key``) are left out, as
    are the options that say how a state is stored.

    Parameters
    ----------
    state_dict : dict
        From ``state_dict()`` of an optimizer.

    Returns
    -------
    dict
        A new state dict; arrays that need no conversion are shared.

    Raises
    ------
    TypeError
        If it is not a state dict.
    ValueError
        If codes have no scales.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim.checkpoint import to_torch
    >>> codes, scale = np.full(4096, 255, np.uint8), np.full(16, 0.5, np.float32)
    >>> state = {"step": 1, "exp_avg": codes, "exp_avg_scale": scale}
    >>> plain = to_torch({"state": {0: state}, "param_groups": [{"params": [0]}]})["state"][0]
    >>> list(plain), plain["exp_avg"][:2]
    (['step', 'exp_avg'], array([0.5, 0.5], dtype=float32))
    """
    return _converted(state_dict, _plain_entries, _without_storage)


def to_torchao(state_dict: StateDict) -> StateDict:
    """Convert a state dict to the form of torchao's ``AdamW8bit`` and ``AdamWFp8``.

    Parameters
    ----------
    state_dict : dict
        From ``state_dict()`` of an ``Adam`` or ``AdamW``. Arrays of ``state_dtype="dynamic8"``
        become torchao's ``OptimState8bit``, those of ``"float8_e4m3fn"`` ``OptimStateFp8``, with
        the same codes and scales.

    Returns
    -------
    dict
        A state dict of tensors, for ``load_state_dict`` of torchao's optimizers. A state whose last
        block is not whole is float32, as torchao has none of 8 bits for it. Tensors share memory
        with the state: give a ``copy.deepcopy`` of it if both optimizers are to go on.

    Raises
    ------
    ImportError
        If torchao is not installed.
    TypeError, ValueError
        As for :func:`to_torch`.

    See Also
    --------
    from_torchao : the reverse.
    """
    return _converted(state_dict, _entries_for_torchao, _group_for_torchao)


def from_torchao(state_dict: StateDict) -> StateDict:
    """Convert a state dict of torchao's ``AdamW8bit``, ``AdamWFp8`` or ``AdamW4bit`` to ours.

    Parameters
    ----------
    state_dict : dict
        From torchao's ``state_dict()``, or read from its file.

    Returns
    -------
    dict
        A state dict for ``load_state_dict``: codes of 8 bits in blocks of 256 with their scales as
        they are, all else as float32. The optimizer that loads it says by ``state_dtype`` how it
        stores them.

    Raises
    ------
    TypeError
        If it is not a state dict.
    ValueError
        If codes and scales do not belong together.

    See Also
    --------
    to_torchao : the reverse.
    """
    return _converted(state_dict, _entries_of_torchao, _without_storage)


def to_bitsandbytes(state_dict: StateDict, names: Sequence[str] | None = None) -> StateDict:
    """Convert a state dict to the form of bitsandbytes' 8-bit optimizers.

    Parameters
    ----------
    state_dict : dict
        From ``state_dict()`` of an optimizer. Arrays of ``state_dtype="dynamic8"`` keep their codes
        and scales; all others become float32.
    names : sequence of str, optional
        Which entries are ``state1`` and ``state2``: by default ``exp_avg`` and ``exp_avg_sq``, as
        of Adam, AdamW, LAMB and, without the second, Lion; of AdEMAMix three, of which the first
        two are together ``state1``.

    Returns
    -------
    dict
        A state dict of tensors, for ``load_state_dict`` of the optimizer of that kind there. They
        share memory with the state, as from :func:`to_torchao`.

    Raises
    ------
    ImportError
        If torch is not installed.
    TypeError, ValueError
        As for :func:`to_torch`, or if a state has none of these entries.

    See Also
    --------
    from_bitsandbytes : the reverse.
    """

    def entries(entries: dict[str, Any]) -> dict[str, Any]:
        return _entries_for_bitsandbytes(entries, names)

    return _converted(state_dict, entries, _group_for_bitsandbytes)


def from_bitsandbytes(state_dict: StateDict, names: Sequence[str] | None = None) -> StateDict:
    """Convert a state dict of bitsandbytes' optimizers, of 8 or 32 bits, to ours.

    Parameters
    ----------
    state_dict : dict
        From bitsandbytes' ``state_dict()``, or read from its file.
    names : sequence of str, optional
        What its ``state1`` and ``state2`` are called here: by default as for
        :func:`to_bitsandbytes`.

    Returns
    -------
    dict
        A state dict for ``load_state_dict``: codes in blocks of 256 with their scales as they are,
        all else as float32. The optimizer that loads it says by ``state_dtype`` how it stores them.

    Raises
    ------
    TypeError
        If it is not a state dict.
    ValueError
        If codes and scales do not belong together, or `names` are fewer than the arrays.

    See Also
    --------
    to_bitsandbytes : the reverse.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim.checkpoint import from_bitsandbytes
    >>> state = {"step": 3, "state1": np.ones(2, np.float32), "state2": np.ones(2, np.float32)}
    >>> ours = from_bitsandbytes({"state": {0: state}, "param_groups": [{"params": [0]}]})
    >>> list(ours["state"][0])
    ['step', 'exp_avg', 'exp_avg_sq']
    """

    def entries(entries: dict[str, Any]) -> dict[str, Any]:
        return _entries_of_bitsandbytes(entries, names)

    return _converted(state_dict, entries, _group_of_bitsandbytes)


# --- what the directions have in common -----------------------------------------------------------


def _converted(state_dict: StateDict, entries: Any, group: Any) -> StateDict:
    """A state dict with every state and every group converted."""
    check_form(state_dict)
    state = {
        key: entries(dict(value)) if isinstance(value, Mapping) else value
        for key, value in state_dict["state"].items()
    }
    groups = [group(dict(one)) for one in state_dict["param_groups"]]
    return {**state_dict, "state": state, "param_groups": groups}


def _without_storage(group: Group) -> Group:
    """A group with plain numbers, and without the options that say how a state is stored."""
    return {
        name: value.item() if is_tensor(value) and value.numel() == 1 else value
        for name, value in group.items()
        if name not in STORAGE_OPTIONS
    }


def _without_partners(entries: dict[str, Any]) -> dict[str, Any]:
    scales = {name + SCALE for name in entries}
    left = scales.union(PARTNERS)
    return {name: value for name, value in entries.items() if name not in left}


def _numbers(name: str, entries: dict[str, Any]) -> Any:
    """An array of a state as numbers: float32 if it has 8 bits; other values as they are."""
    value = entries[name]
    if not _has_codes(value):
        return value
    return _as(value, numbers_of(name, entries))


def _has_codes(value: Any) -> bool:
    """Whether a value is an array of 8 bits that stand for other numbers."""
    if not (isinstance(value, np.ndarray) or is_tensor(value)):
        return False
    dtype = value.dtype
    name = name_of_dtype(dtype) if isinstance(value, np.ndarray) else str(dtype)[len("torch.") :]
    return name in SCALED


def _array(value: Any) -> Array:
    return stored_array(value, "an array of the state")


def _as(given: Any, array: Array) -> Any:
    """An array as a tensor if what it was made of is one."""
    return _tensor(array) if is_tensor(given) else array


def _tensor(value: Any) -> Any:
    """An array as a tensor that shares its memory; other values as they are."""
    from cyoptim._libraries.torch import as_tensor

    return as_tensor(value)


def _book(name: str) -> Array:
    """The numbers that the codes of dynamic8 stand for, in a state array of this name."""
    codec = "dynamic8_positive" if name in NONNEGATIVE else "dynamic8"
    return decode_array(np.arange(256, dtype=np.uint8), np.ones(1, np.float32), codec)


def _ours(name: str, codes: Any, scale: Any, book: Any) -> dict[str, Any]:
    """Codes and scales of another package as entries of ours. `book` are the numbers of all codes;
    None: they are floats."""
    array, scales = _array(codes), _array(scale).ravel()
    block = _block_size(array.size, scales.size, name)
    is_our_book = book is None or np.allclose(_array(book), _book(name), rtol=1e-6, atol=0)
    if block == BLOCK and is_our_book:
        return {name: codes, name + SCALE: scale}
    values = _floats_of(array) if book is None else _array(book)[array]
    spread = np.repeat(scales, block)[: array.size].reshape(array.shape)
    return {name: _as(codes, np.asarray(values * spread, np.float32))}


def _floats_of(array: Array) -> Array:
    """Numbers of float8_e4m3fn without their scales."""
    ones = np.ones(-(-array.size // BLOCK), np.float32)
    return widened(array, ones)


def _block_size(size: int, scales: int, name: str) -> int:
    """How many elements share a scale."""
    for block in (BLOCK, OLD_BLOCK):
        if -(-size // block) == scales:
            return block
    if scales == 0 or size % scales:
        raise ValueError(
            f"{scales} scales do not fit {size} codes of {name!r}: expected {-(-size // BLOCK)}, "
            f"one for each {BLOCK} elements"
        )
    return size // scales


# --- torch and torchao ----------------------------------------------------------------------------


def _plain_entries(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: _numbers(name, entries) for name in _without_partners(entries)}


def _entries_for_torchao(entries: dict[str, Any]) -> dict[str, Any]:
    converted = {}
    for name, value in _without_partners(entries).items():
        made = _state_of_torchao(name, entries) if _has_codes(value) else _tensor(value)
        converted[name] = made
    if "step" in converted:
        import torch

        converted["step"] = torch.tensor(float(converted["step"]))
    return converted


def _state_of_torchao(name: str, entries: dict[str, Any]) -> Any:
    """An object of torchao with the codes of a state array; float32 if a block is not whole."""
    import torch

    numbers = _numbers(name, entries)  # which checks that codes and scales fit
    codes, scale = _tensor(entries[name]), _tensor(entries[name + SCALE])
    if codes.numel() % BLOCK:
        return _tensor(numbers)
    if codes.dtype is torch.uint8:
        made = import_module("torchao.optim.subclass_8bit").OptimState8bit
        return made(codes, scale, _tensor(_book(name)), name not in NONNEGATIVE, torch.float32)
    return import_module("torchao.optim.subclass_fp8").OptimStateFp8(codes, scale, torch.float32)


def _group_for_torchao(group: Group) -> Group:
    import torch

    plain = _without_storage(group)
    return {**plain, "lr": torch.tensor(float(plain["lr"]))} if "lr" in plain else plain


def _entries_of_torchao(entries: dict[str, Any]) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, value in entries.items():
        codes, scale = getattr(value, "codes", None), getattr(value, "scale", None)
        if codes is None or scale is None:
            converted[name] = value
        elif tuple(codes.shape) != tuple(value.shape):  # two codes of 4 bits in each
            converted[name] = value.dequantize()
        else:
            converted |= _ours(name, codes, scale, getattr(value, "qmap", None))
    return converted


# --- bitsandbytes ---------------------------------------------------------------------------------


def _entries_for_bitsandbytes(
    entries: dict[str, Any], names: Sequence[str] | None
) -> dict[str, Any]:
    if not _without_partners(entries):
        return {}
    wanted = tuple(names or (OF_ADEMAMIX if "exp_avg_slow" in entries else OF_ADAM))
    found = [name for name in wanted if entries.get(name) is not None]
    if not found or len(found) < len(wanted) == 3:
        raise ValueError(
            f"the state of a parameter has {', '.join(map(repr, entries))}, expected "
            f"{', '.join(map(repr, wanted))}: give the names of its arrays in `names`"
        )
    nested: dict[str, Any] = {}
    first, *last = [found[:2], *found[2:]] if len(found) == 3 else found
    for number, part in enumerate((first, *last), 1):
        nested |= _state_of_bitsandbytes(part, number, entries)
    step = entries.get("step", 0)
    return {"step": int(step), NESTED: nested}


def _state_of_bitsandbytes(
    part: str | list[str], number: int, entries: dict[str, Any]
) -> dict[str, Any]:
    """One of the arrays of bitsandbytes, with its scales and its book: of one of ours, or two."""
    import torch

    names = [part] if isinstance(part, str) else part

    def joined(arrays: list[Any]) -> Any:
        return arrays[0] if isinstance(part, str) else torch.stack(arrays)

    numbers = [_tensor(_numbers(name, entries)) for name in names]
    codes = [_tensor(entries[name]) for name in names]
    if not all(array.dtype is torch.uint8 for array in codes):
        return {f"state{number}": joined([array.float() for array in numbers])}
    return {
        f"state{number}": joined(codes),
        f"absmax{number}": joined([_tensor(entries[name + SCALE]) for name in names]),
        f"qmap{number}": _tensor(_book(names[0])),
    }


def _group_for_bitsandbytes(group: Group) -> Group:
    renamed = {OPTIONS.get(name, name): value for name, value in _without_storage(group).items()}
    return {"alpha": 0.0, "t_alpha": None, "t_beta3": None, **renamed}


def _entries_of_bitsandbytes(
    entries: dict[str, Any], names: Sequence[str] | None
) -> dict[str, Any]:
    entries = {**entries, **entries.pop(NESTED, {})}
    converted = {"step": entries["step"]} if "step" in entries else {}
    parts = [part for n in (1, 2) if f"state{n}" in entries for part in _parts(n, entries)]
    if names is None:
        names = OF_ADEMAMIX if len(parts) == 3 else OF_ADAM
    if len(parts) > len(names):
        raise ValueError(
            f"the state of a parameter has {len(parts)} arrays, and names are {list(names)}: give "
            "a name for each"
        )
    for name, (array, scale, book) in zip(names, parts, strict=False):
        if _has_codes(array):
            if scale is None or book is None:
                raise ValueError(f"the codes of {name!r} have no 'absmax' or 'qmap' beside them")
            converted |= _ours(name, array, scale, book)
        else:
            converted[name] = array
    return converted


def _parts(number: int, entries: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """An array of bitsandbytes with its scales and its book; two if it has both of AdEMAMix's."""
    array, book = entries[f"state{number}"], entries.get(f"qmap{number}")
    scale = entries.get(f"absmax{number}")
    is_double = number == 1 and array.ndim == getattr(entries.get("state2"), "ndim", array.ndim) + 1
    if not is_double:
        return [(array, scale, book)]
    return [(array[k], None if scale is None else scale[k], book) for k in (0, 1)]


def _group_of_bitsandbytes(group: Group) -> Group:
    plain = _without_storage(group)
    betas = plain.get("betas", ())
    if isinstance(betas, (list, tuple)) and len(betas) == 3:
        names = {theirs: ours for ours, theirs in OPTIONS.items()}
        return {names.get(name, name): value for name, value in plain.items()}
    left = ("alpha", *OPTIONS.values())
    return {name: value for name, value in plain.items() if name not in left}

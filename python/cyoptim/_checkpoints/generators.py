"""The state of a random generator from a file, checked before NumPy sees it.

NumPy's setters check only the name and a few shapes. They accept a position beyond the end of a
buffer, and the next draw then reads memory outside the generator. So a loaded state must have
the form of the present one, and its numbers must be in the range of NumPy's own generators.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np

from cyoptim._checkpoints.places import Place, describe, show
from cyoptim._types import Array

_NUMPY_S = (
    np.random.MT19937,
    np.random.PCG64,
    np.random.PCG64DXSM,
    np.random.Philox,
    np.random.SFC64,
)
# The largest value of every number in their states; the smallest is 0.
_GREATEST: dict[Place, int] = {
    ("has_uint32",): 1,
    ("uinteger",): 2**32 - 1,
    ("buffer_pos",): 4,  # Philox; at 4 the next draw fills the buffer
    ("state", "pos"): 624,  # MT19937; at 624 the next draw makes new keys
    ("state", "state"): 2**128 - 1,  # PCG64 and PCG64DXSM
    ("state", "inc"): 2**128 - 1,
}


def checked_state(generator: np.random.Generator, saved: Any) -> dict[str, Any]:
    """A copy of `saved` that the bit generator can take; ValueError if it cannot."""
    bits = generator.bit_generator
    present: Any = bits.state
    if not isinstance(saved, dict) or not isinstance(saved.get("bit_generator"), str):
        raise ValueError(f"found {describe(saved)}, expected the state of a random generator")
    if isinstance(present, dict) and saved["bit_generator"] != present.get("bit_generator"):
        raise ValueError(
            f"it is that of {saved['bit_generator'][:80]}, expected {type(bits).__name__}"
        )
    state: dict[str, Any] = _in_form_of(present, saved, ())
    if isinstance(bits, _NUMPY_S):
        _check_numbers(state, ())
    spare = type(bits)()  # raises for everything else that does not fit
    spare.state = state
    return state


def _in_form_of(present: Any, saved: Any, place: Place) -> Any:
    """A copy of `saved`, which must have the keys, lengths, types, dtypes and shapes of present."""
    if isinstance(present, dict):
        if not isinstance(saved, dict) or present.keys() != saved.keys():
            raise _misfit(present, saved, place)
        return {key: _in_form_of(present[key], saved[key], (*place, key)) for key in present}
    if isinstance(present, (list, tuple)):
        if type(saved) is not type(present) or len(saved) != len(present):
            raise _misfit(present, saved, place)
        items = zip(present, saved, strict=True)
        return type(present)(_in_form_of(p, s, (*place, i)) for i, (p, s) in enumerate(items))
    if isinstance(present, np.ndarray):
        return _array_in_form_of(present, saved, place)
    if type(present) is int and _is_whole(saved):
        return operator.index(saved)
    if type(saved) is not type(present):
        raise _misfit(present, saved, place)
    return copy.deepcopy(saved)


def _array_in_form_of(present: Array, saved: Any, place: Place) -> Array:
    fits = (
        isinstance(saved, np.ndarray)
        and saved.shape == present.shape
        and saved.dtype.newbyteorder("=") == present.dtype.newbyteorder("=")
    )
    if not fits:
        raise _misfit(present, saved, place)
    copied: Array = np.array(saved, present.dtype, order="C")
    return copied


def _is_whole(value: object) -> bool:
    return type(value) is int or isinstance(value, np.integer)


def _misfit(present: object, saved: object, place: Place) -> ValueError:
    return ValueError(f"{show(('state', *place))} is {describe(saved)}, not {describe(present)}")


def _check_numbers(state: dict[str, Any], place: Place) -> None:
    for key, value in state.items():
        where = (*place, key)
        if isinstance(value, dict):
            _check_numbers(value, where)
        elif isinstance(value, int) and not 0 <= value <= _GREATEST.get(where, value):
            raise ValueError(
                f"{show(('state', *where))} must be from 0 to {_GREATEST[where]}, "
                f"found {_shown(value)}"
            )
    if not state.get("inc", 1) % 2:
        raise ValueError(f"{show(('state', *place, 'inc'))} must be odd")


def _shown(value: int) -> str:
    return str(value) if value.bit_length() <= 256 else f"one of {value.bit_length()} bits"

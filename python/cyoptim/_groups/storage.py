"""Stored precision: the options that say in how many bits parameters and state are kept.

Here they are described and checked; `src/engine/storage.pxi` finds the codecs that they ask for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_type_hints

import numpy as np

from cyoptim._arrays.doors import type_name
from cyoptim._engine import STORAGE_OPTIONS, STORAGE_TYPES
from cyoptim._groups.native import rules_of
from cyoptim._spelling import nearest, unexpected_argument

Constructor = TypeVar("Constructor", bound=Callable[..., None])
StoredType: TypeAlias = Literal[
    "float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "dynamic8"
]


class StorageOptions(TypedDict, total=False):
    """How parameters and state are stored: options of all optimizers whose steps are native rules.

    They are arguments of the optimizer or entries of a group, and are in a group only where they
    are given. Steps compute in float32 (float64 parameters: in float64), whatever is stored.

    Attributes
    ----------
    state_dtype : str, dict or None
        The type of state arrays: ``"bfloat16"``, ``"float16"``, ``"float32"``, ``"float64"``, or,
        with a scale for each 256 elements, ``"float8_e4m3fn"`` and ``"dynamic8"``. A dict gives it
        by the names of states, as ``{"exp_avg": "bfloat16"}``, and leaves others as they are. None:
        float32; of float64 and complex parameters, their own type.

        A type for all states leaves some as they are: what begins as a copy of the parameter
        (``z``, ``param_init``), which a dict may name; ``s`` and ``p0`` of Prodigy; counts and
        numbers. 8 bits are for parameters of 4,096 elements and more; of rules that take sums over
        array rows, for rows of whole blocks of 256.
    master : {"auto", "split", "float32", None}
        What is kept beside a parameter of 16 bits, so that steps that are smaller than its rounding
        errors are not lost. ``"split"``, for bfloat16: the other 16 bits of its float32 value.
        ``"float32"``: that value. None: nothing; rounding is random. ``"auto"`` is ``"split"`` for
        bfloat16, ``"float32"`` for float16.
    rounding : {"stochastic", "nearest"}
        How numbers are rounded to 16 bits: up or down at random, right on average, or to nearest.
        8 bits and a parameter with a master are rounded to nearest.
    seed : int
        What the random bits begin with. The same seed, steps and order of parameters give the same
        bits, on any number of threads.

    See Also
    --------
    cyoptim.Parameter : ``Parameter(data, dtype="bfloat16")`` makes a parameter of 16 bits.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> w = np.zeros(10_000, np.float32)
    >>> optimizer = cyoptim.AdamW([w], state_dtype="dynamic8")
    >>> optimizer.step(grads=[np.ones_like(w)])
    >>> optimizer.state[w]["exp_avg"].dtype, optimizer.state[w]["exp_avg_scale"].shape
    (dtype('uint8'), (40,))
    """

    state_dtype: StoredType | dict[str, StoredType | None] | None
    master: Literal["auto", "split", "float32"] | None
    rounding: Literal["stochastic", "nearest"]
    seed: int


def with_storage(constructor: Constructor) -> Constructor:
    """Let the ``**storage`` of a constructor be these options, and no others.

    Its signature and its annotations name them, for help and for programs that ask.
    """
    own = inspect.signature(constructor)
    first, *arguments = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(StorageOptions)
    kind = inspect.Parameter.KEYWORD_ONLY
    for name, default in STORAGE_OPTIONS.items():
        arguments.append(inspect.Parameter(name, kind, default=default, annotation=hints[name]))
    known = [argument.name for argument in arguments]

    @functools.wraps(constructor)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in known:
                raise unexpected_argument(constructor.__qualname__, name, known)
        constructor(self, *args, **given)

    annotations = {argument.name: argument.annotation for argument in arguments}
    checked.__annotations__ = {**annotations, "return": own.return_annotation}
    checked.__signature__ = own.replace(parameters=[first, *arguments])  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


def takes_storage(optimizer: Any) -> bool:
    """Whether a class has these options."""
    return bool(optimizer._is_native() and not optimizer._only_sparse)


def has_own_step(optimizer: Any) -> bool:
    """Whether a class has a ``step()`` of the user's, which may do anything: its groups may be
    those of an optimizer that it wraps."""
    return bool(optimizer._steps_itself and not optimizer.__module__.startswith("cyoptim."))


def why_not(optimizer: Any) -> str:
    """The end of a message about one of these options, which a class does not take."""
    if takes_storage(optimizer):
        return "write it into a group, {'params': ..., 'state_dtype': ...}"
    steps = "along sparse gradients" if optimizer._only_sparse else "not by native rules"
    return f"its steps are {steps}, and keep state in the dtype of the parameter: leave it out"


def refuse_storage(options: Mapping[str, Any], reason: str) -> None:
    """Refuse these options where arrays are stored as they are, for a reason."""
    for name in STORAGE_OPTIONS:
        if is_given(name, options):
            raise ValueError(f"{name}={options[name]!r}: {reason}; leave it out")


def is_given(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an option of stored precision is there and is not the default."""
    if name not in options:
        return False
    value, default = options[name], STORAGE_OPTIONS[name]
    return not (type(value) is type(default) and value == default)


def check_storage(options: Mapping[str, Any], optimizer: Any, where: str = "") -> None:
    """Refuse options that are wrong for any parameter of a class; `where` says whose they are."""
    if "state_dtype" in options:
        _check_state_dtype(options["state_dtype"], optimizer, where)
    for name, known in (("master", _MASTERS), ("rounding", _ROUNDINGS)):
        if name in options and options[name] not in known:
            _refuse_word(name, options[name], known, where)
    seed = options.get("seed", 0)
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool):
        raise TypeError(f"{where}seed must be a whole number, got {type_name(seed)}: {seed!r}")


_MASTERS = ("auto", "split", "float32", None)
_ROUNDINGS = ("stochastic", "nearest")


def _refuse_word(name: str, value: Any, known: Sequence[Any], where: str) -> None:
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{where}{name} must be {_listed(known)}, got {value!r}")


def _listed(values: Iterable[Any]) -> str:
    *some, last = map(repr, values)
    return f"{', '.join(some)} or {last}"


def _check_state_dtype(value: Any, optimizer: Any, where: str) -> None:
    if isinstance(value, dict):
        for state, name in value.items():
            _check_state(state, optimizer, where)
            _check_type(name, f"{where}state_dtype[{state!r}]")
    else:
        _check_type(value, f"{where}state_dtype")


def _check_type(value: Any, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        meant = nearest(str(getattr(value, "__name__", value)).rpartition(".")[2], STORAGE_TYPES)
        raise TypeError(
            f"{what} must be the name of a type, got {type_name(value)}: {value!r}; write "
            f"{(meant or 'bfloat16')!r}"
        )
    if value not in STORAGE_TYPES:
        close = nearest(value, STORAGE_TYPES)
        hint = f"did you mean {close!r}? The" if close else "the"
        raise ValueError(
            f"{what}: there is no type {value!r}; {hint} types are {', '.join(STORAGE_TYPES)}"
        )


def _check_state(state: Any, optimizer: Any, where: str) -> None:
    """Refuse a state that a class does not have, or that is never stored in another type."""
    rules = rules_of(type(optimizer))
    slices = {name for rule in rules for name in rule.slices}
    known = sorted({name for rule in rules for name in rule.states} - slices)
    if state in known:
        return
    if state in slices:
        raise ValueError(
            f"{where}state_dtype names the state {state!r}, which always has the precision of the "
            f"arithmetic: leave it out; others are {', '.join(known) or 'none'}"
        )
    close = nearest(str(state), known)
    raise ValueError(
        f"{where}state_dtype names a state {state!r} that {type(optimizer).__name__} does not have"
        f"{f'; did you mean {close!r}? It' if close else ': it'} has {', '.join(known) or 'none'}"
    )

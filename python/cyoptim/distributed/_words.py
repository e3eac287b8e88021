"""What must be equal on all ranks, in words: options, arguments, and which gradients there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import is_
from typing import Any

import numpy as np

from cyoptim._arrays.doors import type_name
from cyoptim._engine import name_of_dtype
from cyoptim._groups.numbers import plain
from cyoptim._types import Array, Group

PLAIN = (bool, int, float, complex, str, bytes, type(None))
NO_OPTIONS = frozenset({"params", "param_names"})


def words_of(value: Any) -> str:
    """A value as text that is the same on all ranks if it is; an object by its type."""
    value = plain(value)
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(words_of, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{words_of(k)}: {words_of(v)}' for k, v in value.items())}}}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return repr(value.tolist())
    return type_name(value)


class _Text(str):
    """Text that is its own `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Options:
    """The options of groups in words, which are made again only where one has changed.

    Attributes
    ----------
    are_new : bool
        Whether they are others than the last time.
    """

    def __init__(self) -> None:
        self._known: list[tuple[list[Any], str]] = []
        self.are_new = True

    def short(self, groups: Sequence[Group], numbers: frozenset[str]) -> str:
        """All in one text; without `numbers`, which steps advance."""
        known, found = self._known, []
        for i, group in enumerate(groups):
            values = [*group.values()]
            if i < len(known) and len(known[i][0]) == len(values):
                before, text = known[i]
                if all(map(is_, before, values)):
                    found.append((before, text))
                    continue
            options = [*_options(group, numbers)]
            text = "".join(sorted([f"{name}={words_of(value)};" for name, value in options]))
            # A value that may change in place is looked at each time.
            found.append((values if all(_is_fixed(v) for _, v in options) else [], text))
        self.are_new = [text for _, text in found] != [text for _, text in known]
        self._known = found
        return "|".join([text for _, text in found])


def _is_fixed(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_fixed, value)))


def _options(group: Group, numbers: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for name, value in group.items():
        if name not in NO_OPTIONS and name not in numbers:
            yield str(name), value


def options_in_full(groups: Sequence[Group], numbers: frozenset[str]) -> dict[str, object]:
    """Each option by its place."""
    return {
        f"param_groups[{i}][{name!r}]": _Text(words_of(value))
        for i, group in enumerate(groups)
        for name, value in _options(group, numbers)
    }


def gradients_in_short(grads: Sequence[Array | None]) -> str:
    """Which there are, and of which types."""
    return ",".join(["" if grad is None else grad.dtype.str + grad.dtype.name for grad in grads])


def gradients_in_full(grads: Sequence[Array | None], labels: Sequence[str]) -> dict[str, object]:
    """The type of each gradient."""
    return {
        f"gradient of {label}": None if grad is None else _Text(name_of_dtype(grad.dtype))
        for grad, label in zip(grads, labels, strict=True)
    }


def parameters_in_full(arrays: Sequence[Array], labels: Sequence[str]) -> dict[str, object]:
    """The shape and type of each parameter."""
    return {
        label: _Text(f"{name_of_dtype(array.dtype)} of shape {array.shape}")
        for array, label in zip(arrays, labels, strict=True)
    }

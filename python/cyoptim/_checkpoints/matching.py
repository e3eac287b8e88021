"""Compares names and arrays of a file with those of the objects, and reports differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cyoptim._arrays.containers import entries_of, is_branch
from cyoptim._arrays.doors import type_name
from cyoptim._checkpoints.dtypes import is_castable, is_same
from cyoptim._checkpoints.places import describe, dtype_text, listed, show
from cyoptim._types import Array

Rename = Mapping[str, str] | Callable[[str], str]

KINDS = ("missing", "unexpected", "shape", "dtype", "length", "type", "refused")
MOST_OF_A_KIND = 8
AVERAGE = {"module", "n_averaged"}  # the entries of the state of an AveragedModel


@dataclass(frozen=True)
class Difference:
    """One difference between a file and the objects.

    Attributes
    ----------
    kind : str
        ``"missing"`` from the file, ``"unexpected"`` in it, another ``"shape"``, ``"dtype"``,
        ``"length"`` or ``"type"``, or a state that was ``"refused"``.
        place : str
        The place, such as ``"params['W']"``.
    found, expected : str
        The entries of the file and of the object.
    """

    kind: str
    place: str
    found: str = ""
    expected: str = ""
    sentence: str = field(default="", repr=False, compare=False)
    cause: Exception | None = field(default=None, repr=False, compare=False)


# Inside the class, dataclass would search for it in a module that is still being imported.
Difference.__module__ = "cyoptim.checkpoint"


def in_short(value: Any) -> str:
    """The value in a cell of the table of differences."""
    if isinstance(value, np.ndarray):
        return f"{dtype_text(value.dtype)} {value.shape}"
    if is_branch(value):
        return f"{type(value).__name__} of {len(list(entries_of(value)))}"
    return type_name(value)


def table(differences: list[Difference]) -> str:
    """A table with one line per difference; only the first lines of each kind."""
    rows = [("", "", "in the file", "expected")]
    for kind in KINDS:
        of_kind = [difference for difference in differences if difference.kind == kind]
        rows += [_row(difference) for difference in of_kind[:MOST_OF_A_KIND]]
        if len(of_kind) > MOST_OF_A_KIND:
            rows.append((kind, f"... and {len(of_kind) - MOST_OF_A_KIND} more", "", ""))
    # A refusal has a sentence instead of the last two columns.
    widths = [
        max(len(row[column]) for row in rows if column < 2 or row[0] != "refused")
        for column in range(4)
    ]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(f"  {line}" for line in lines)


def _row(difference: Difference) -> tuple[str, str, str, str]:
    if difference.kind == "refused":
        return (difference.kind, difference.place, " ".join(difference.found.split()), "")
    cells = (difference.found or "-", difference.expected or "-")
    return (difference.kind, difference.place, *cells)


def misfit(path: str, differences: list[Difference]) -> ValueError:
    """The error that lists all differences; a single one as a sentence."""
    if len(differences) == 1:
        return ValueError(f"{path}: {differences[0].sentence}")
    return ValueError(
        f"{path} differs in {len(differences)} places, and nothing was changed "
        f"(strict=False leaves them out):\n{table(differences)}"
    )


class Loaded(dict[str, Any]):
    """The result of ``load(..., strict=False)``: everything in the file, and what was restored.

    Attributes
    ----------
    loaded : list of str
        The restored places, such as ``"params['W']"``; an optimizer is one place.
    skipped : list of Difference
        The entries that did not fit, with ``kind``, ``place``, ``found`` and ``expected``.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> cyoptim.save("run.npz", params={"W": np.ones(3), "b": np.ones(2)})
    >>> result = cyoptim.load("run.npz", params={"W": np.zeros(3), "b": np.zeros(4)}, strict=False)
    >>> result
    run.npz: 1 loaded, 1 skipped
      loaded params['W']
                          in the file   expected
      shape  params['b']  float64 (2,)  float64 (4,)
    >>> result.skipped[0].kind
    'shape'
    """

    __module__ = "cyoptim.checkpoint"

    def __init__(
        self,
        path: str,
        saved: dict[str, Any],
        loaded: list[str],
        skipped: list[Difference],
    ) -> None:
        super().__init__(saved)
        self.path: str = path
        self.loaded: list[str] = loaded
        self.skipped: list[Difference] = skipped

    def __repr__(self) -> str:
        lines = [f"{self.path}: {len(self.loaded)} loaded, {len(self.skipped)} skipped"]
        if self.loaded:
            lines.append(f"  loaded {listed(self.loaded, MOST_OF_A_KIND)}")
        if self.skipped:
            lines.append(table(self.skipped))
        return "\n".join(lines)

    __str__ = __repr__


class Renaming:
    """Maps names of arrays in a file to names in the objects."""

    def __init__(self, rename: Rename | None) -> None:
        self._map = _checked_map(rename) if isinstance(rename, Mapping) else None
        if rename is not None and self._map is None and not callable(rename):
            raise TypeError(
                f"rename must be a dict of names or a function, found {type_name(rename)}"
            )
        self._function: Any = rename
        self._used: set[str] = set()

    def name(self, name: str) -> str:
        if self._function is None:
            return name
        if self._map is not None:
            self._used.add(name)
            return self._map.get(name, name)
        new = self._function(name)
        if not isinstance(new, str):
            raise TypeError(f"rename({name!r}) must return a name, found {type_name(new)}")
        return new

    def arrays(self, saved: dict[Any, Any], place: tuple[Any, ...]) -> dict[Any, Any]:
        """The dict with its arrays under their new names."""
        if self._function is None:
            return saved
        renamed: dict[Any, Any] = {}
        for key, item in saved.items():
            is_named = isinstance(key, str) and isinstance(item, np.ndarray)
            new = self.name(key) if is_named else key
            if new in renamed:
                raise ValueError(f"{show(place)}: rename gives two entries the name {new!r}")
            renamed[new] = item
        return renamed

    def state(self, saved: Any, target: Any) -> Any:
        """The state of an object, with new names of its parameters (optimizers) or of its arrays
        (averages)."""
        if self._function is None or not isinstance(saved, dict):
            return saved
        if "param_groups" in saved:
            groups = getattr(target, "param_groups", ())
            own = {name for group in groups for name in group.get("param_names", ())}
            return {**saved, "param_groups": [self._group(g, own) for g in saved["param_groups"]]}
        if saved.keys() == AVERAGE:
            return {**saved, "module": self._tree(saved["module"], ("module",))}
        return saved

    def _group(self, group: Any, own: set[Any]) -> Any:
        if not isinstance(group, dict) or "param_names" not in group:
            return group
        return {**group, "param_names": [self._path(name, own) for name in group["param_names"]]}

    def _path(self, name: Any, own: set[Any]) -> Any:
        """The new name of a parameter, which may be a path in a tree that ends in the array's own
        name."""
        if not isinstance(name, str):
            return name
        new = self.name(name)
        branch, dot, leaf = name.rpartition(".")
        if new in own or not dot:
            return new
        inside = f"{branch}.{self.name(leaf)}"
        return inside if inside in own else new

    def _tree(self, saved: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(saved, dict):
            renamed = self.arrays(saved, place)
            return {key: self._tree(item, (*place, key)) for key, item in renamed.items()}
        if type(saved) in (list, tuple):
            return type(saved)(self._tree(item, (*place, k)) for k, item in enumerate(saved))
        return saved

    def unused(self) -> list[str]:
        return [name for name in self._map or () if name not in self._used]


def _checked_map(rename: Mapping[str, str]) -> dict[str, str]:
    for old, new in rename.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise TypeError(f"rename must map names to names, found {old!r}: {new!r}")
    return dict(rename)


def array_difference(
    saved: Array, elements: Array, place: tuple[Any, ...], convert: bool
) -> Difference | None:
    """The difference between an array of a file and its target."""
    castable = is_castable(saved.dtype, elements.dtype)
    if saved.shape != elements.shape:
        kind, hint = "shape", ""
    elif not is_same(saved.dtype, elements.dtype) and not (convert and castable):
        kind, hint = "dtype", "; convert=True converts it" if castable else ""
    else:
        return None
    found, expected = describe(saved), describe(elements)
    sentence = f"{show(place)}: found {found}, expected {expected}{hint}"
    return Difference(kind, show(place), in_short(saved), in_short(elements), sentence)

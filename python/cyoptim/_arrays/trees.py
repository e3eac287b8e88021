"""Arrays in nested containers, named by their paths."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from cyoptim._arrays.containers import entries_of, is_branch, is_named_tuple
from cyoptim._arrays.doors import type_name
from cyoptim._spelling import nearest


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers, each with its name.

    The name is the path to the leaf, joined by dots: keys of dicts, positions in lists and tuples,
    fields of named tuples, dataclasses and classes of attrs, and, once JAX has been imported, the
    entries of every pytree that it knows, such as modules of Equinox and Flax. Everything else is a
    leaf, and is not copied. None is an empty subtree, as in JAX.

    Parameters
    ----------
    tree : dict, list, tuple, dataclass, pytree or leaf
        Nested to any depth. A leaf alone has the name "". Fields with the metadata
        ``{"static": True}``, as in Equinox, or ``{"pytree_node": False}``, as in Flax, are no part
        of the tree.

    Yields
    ------
    (str, object)
        Name and leaf, in the order of the containers.

    Raises
    ------
    ValueError
        If two leaves have the same name, as in ``{"a": {"b": x}, "a.b": y}``, or a container is
        inside of itself.

    Examples
    --------
    >>> import numpy as np
    >>> tree = {"dense": {"W": np.ones((2, 2)), "b": None}, "scales": [np.ones(1), np.ones(3)]}
    >>> for name, leaf in named_leaves(tree):
    ...     print(name, leaf.shape)
    dense.W (2, 2)
    scales.0 (1,)
    scales.1 (3,)

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Dense:
    ...     W: np.ndarray
    ...     b: np.ndarray
    >>> [name for name, _ in named_leaves({"out": Dense(np.ones((2, 2)), np.ones(2))})]
    ['out.W', 'out.b']
    """
    seen: set[str] = set()
    for name, leaf in _walk(tree, "", ()):
        if name in seen:
            raise ValueError(f"two leaves of the tree have the name {name!r}")
        seen.add(name)
        yield name, leaf


def _walk(tree: Any, path: str, around: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    if is_branch(tree):
        if any(branch is tree for branch in around):
            raise ValueError(
                f"the tree contains itself: the {type_name(tree)} at {path!r} is also around it; "
                'write None there, or mark the field of a dataclass by metadata={"static": True}'
            )
        for key, value in entries_of(tree):
            yield from _walk(value, joined(path, key), (*around, tree))
    elif tree is not None:
        yield path, tree


def copied(tree: Any) -> Any:
    """A deep copy. Read-only mappings that cannot be copied become read-only views of copies."""
    copies: dict[int, Any] = {}
    _copy_views(tree, copies)
    return copy.deepcopy(tree, copies)


def _copy_views(tree: Any, copies: dict[int, Any]) -> None:
    if is_branch(tree):
        for _, value in entries_of(tree):
            _copy_views(value, copies)
        if isinstance(tree, MappingProxyType):
            copies[id(tree)] = MappingProxyType(copy.deepcopy(dict(tree), copies))


def joined(path: str, key: object) -> str:
    """The path to an entry of the container at `path`."""
    return f"{path}.{key}" if path else str(key)


def list_of_numbers(tree: Any, path: str = "") -> str | None:
    """The path to a list or tuple of numbers, which was to be an array; None if there is none."""
    if not is_branch(tree):
        return None
    if _are_numbers(tree):
        return path
    found = (list_of_numbers(value, joined(path, key)) for key, value in entries_of(tree))
    return next((place for place in found if place is not None), None)


def _are_numbers(value: Any) -> bool:
    if type(value) in (list, tuple):
        return bool(value) and all(map(_are_numbers, value))
    return is_number(value)


def is_number(value: object) -> bool:
    """Whether the value is a number, of Python or of NumPy."""
    return isinstance(value, (int, float, complex, np.generic))


class Places:
    """The places of named parameters in a tree, to find their gradients."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.leaves = frozenset(names)
        self.twice = next((name for name, n in Counter(names).items() if n > 1), None)
        # For each container the keys under which there are parameters.
        self._below: dict[str, set[str]] = {"": set()}
        for name in names:
            path = ""
            for key in str(name).split("."):
                self._below.setdefault(path, set()).add(key)
                path = joined(path, key)
        # Where a list of trees has containers.
        tops = self._below[""] & self._below.keys()
        self.nested = [int(key) for key in tops if key.isdecimal() and key == str(int(key))]

    def pick(self, tree: Any) -> dict[str, Any]:
        """The gradients in a tree by the names of their parameters.

        Raises
        ------
        ValueError
            If an entry does not belong to a parameter.
        """
        found: dict[str, Any] = {}
        if isinstance(tree, Mapping) and tree.keys() == {"params"} and not self._has("params"):
            tree = tree["params"]  # a group, as the parameters were given
        self._pick(tree, "", found)
        return found

    def _has(self, path: str) -> bool:
        """Whether there is a parameter at the path or below it."""
        return path in self.leaves or path in self._below

    def _pick(self, tree: Any, path: str, found: dict[str, Any]) -> None:
        # A pair in the place of a parameter is a sparse gradient, not a container.
        if path in self.leaves:
            if path in found:
                raise ValueError(f"grads has two entries for {path!r}")
            found[path] = tree
        elif is_branch(tree):
            self._check_length(tree, path)
            for key, value in entries_of(tree):
                self._pick(value, joined(path, key), found)
        elif tree is not None:
            raise self._stray(tree, path)

    def _check_length(self, tree: Any, path: str) -> None:
        """Refuse a list that ends before the parameters do."""
        if not isinstance(tree, (list, tuple)) or is_named_tuple(tree):
            return
        missing = [
            k for k in self._below.get(path, ()) if not (k.isdecimal() and int(k) < len(tree))
        ]
        if missing:
            where = f"grads at {path!r}" if path else "grads"
            raise ValueError(
                f"{where} is a {type(tree).__name__} of {len(tree)} entries, but there is a "
                f"parameter at {joined(path, min(missing))!r}"
            )

    def _stray(self, leaf: Any, path: str) -> ValueError:
        inside = [name for name in self._names if str(name).startswith(f"{path}.")]
        if inside:
            return ValueError(
                f"grads at {path!r} is a {type_name(leaf)}, expected those of {shown(inside)}"
            )
        close = nearest(path, list(map(str, self._names)))
        hint = f"did you mean {close!r}?" if close else "leave it out, or take the names of these"
        return ValueError(
            f"grads has an entry {path!r}, but the parameters are {shown(self._names)}; {hint}"
        )


def shown(names: Sequence[str]) -> str:
    """Names for a message, shortened if there are many."""
    return ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")

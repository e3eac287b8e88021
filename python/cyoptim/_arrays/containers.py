"""Containers: the values that hold parameters or gradients under keys, rather than being them.

Dicts and other mappings, lists, tuples, named tuples, dataclasses, classes of attrs, and what JAX
knows as a pytree, such as modules of Equinox and Flax. JAX is asked only where it has been
imported.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cyoptim._arrays.doors import is_parameter


def is_branch(value: object) -> bool:
    """Whether the value is a container rather than a leaf."""
    if isinstance(value, (dict, list, tuple)):
        return True
    return not isinstance(value, np.ndarray) and (isinstance(value, Mapping) or _is_object(value))


def is_record(value: object) -> bool:
    """Whether the value is a container with names of its own for its entries, and no mapping."""
    return is_named_tuple(value) or (
        not isinstance(value, (list, tuple, Mapping, np.ndarray)) and _is_object(value)
    )


def is_named_tuple(value: object) -> bool:
    """Whether the value is a tuple whose entries have names."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def entries_of(branch: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and values of a container."""
    if isinstance(branch, Mapping):
        return branch.items()
    if is_named_tuple(branch):
        return zip(branch._fields, branch, strict=True)
    return enumerate(branch) if isinstance(branch, (list, tuple)) else _entries_of_object(branch)


def _is_object(value: object) -> bool:
    """Whether the value is an object whose fields are entries."""
    # A torch module may be a dataclass, too: it tells its parameters itself.
    if is_parameter(value) or hasattr(value, "named_parameters"):
        return False
    return _fields_of(value) is not None or _is_pytree(value)


def _entries_of_object(branch: Any) -> list[tuple[Any, Any]]:
    if _is_pytree(branch):  # first, as JAX is told which fields hold no arrays
        return _entries_of_pytree(branch)
    return [
        (field.name, getattr(branch, field.name))
        for field in _fields_of(branch) or ()
        if not _is_static(field) and hasattr(branch, field.name)
    ]


def _fields_of(value: object) -> tuple[Any, ...] | None:
    """The fields of a dataclass or a class of attrs; None for others."""
    kind: Any = type(value)
    if dataclasses.is_dataclass(kind):
        return dataclasses.fields(kind)
    return getattr(kind, "__attrs_attrs__", None)


def _is_static(field: Any) -> bool:
    """Whether a field is marked as no part of the tree, as Equinox, JAX and Flax mark them."""
    return bool(field.metadata.get("static")) or field.metadata.get("pytree_node") is False


def _pytrees() -> Any:
    """JAX's functions over trees; None where JAX has not been imported."""
    return getattr(sys.modules.get("jax"), "tree_util", None)


def _is_pytree(value: object) -> bool:
    pytrees = _pytrees()
    return pytrees is not None and value is not None and not pytrees.all_leaves([value])


def _entries_of_pytree(branch: Any) -> list[tuple[Any, Any]]:
    """One level: whatever is not the branch itself counts as a leaf."""
    pairs, _ = _pytrees().tree_flatten_with_path(branch, is_leaf=lambda node: node is not branch)
    return [(_name_of(path[0]), child) for path, child in pairs]


def _name_of(key: Any) -> Any:
    """The name of an entry in JAX: of an attribute, of a key of a mapping, or a position."""
    return next((getattr(key, a) for a in ("name", "key", "idx") if hasattr(key, a)), str(key))

"""Sparse gradients: converts them to spans of a parameter's memory.

A sparse gradient has entries for a part of its parameter: a ``(rows, values)`` pair, a
sparse array of SciPy, or a sparse tensor of torch. Rules that support sparse gradients do not
change elements without an entry, nor their state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cyoptim._arrays.doors import (
    check_unmasked,
    foreign_array,
    is_taken,
    is_tensor,
    misfit_of_gradient,
    type_name,
)
from cyoptim._engine import widened
from cyoptim._types import Array

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Blocks of consecutive elements in C order: their numbers, ascending, and their values."""

    numbers: Offsets
    values: Array  # one array row per block


def is_sparse(grad: Any) -> bool:
    """Whether a gradient has one of the sparse forms."""
    if isinstance(grad, tuple):
        return True
    if is_tensor(grad):
        from cyoptim._libraries.torch import is_sparse_tensor

        return is_sparse_tensor(grad)
    return hasattr(grad, "tocoo") and hasattr(grad, "nnz")


def spans(grad: Any, view: Array, label: str) -> tuple[Offsets, Offsets, Array]:
    """The spans of a parameter's memory that have a gradient, and the gradient there.

    Parameters
    ----------
    grad : sparse gradient
        Of the parameter's shape and dtype.
    view : ndarray
        An array laid out as the parameter's memory, with no gaps.
    label : str
        How errors name the gradient.

    Returns
    -------
    starts, lengths : ndarray of int64
        In elements: ascending, and not touching each other.
    values : ndarray
        The gradient's elements, span by span.
    """
    blocks = _coalesced(_read(grad, view, label))
    size = blocks.values.shape[1]
    if not view.flags.c_contiguous:
        blocks, size = _in_memory_order(blocks, view), 1
    numbers = blocks.numbers if size else blocks.numbers[:0]  # rows without elements
    first = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    lengths = np.diff(first, append=len(numbers)) * size
    return numbers[first] * size, lengths, blocks.values.reshape(-1)


def densify(grad: Any, view: Array, label: str) -> Array:
    """The gradient as an array, with zeros where it has no entries."""
    blocks = _coalesced(_read(grad, view, label))
    dense = np.zeros(view.shape, view.dtype)
    dense.reshape(-1, blocks.values.shape[1])[blocks.numbers] = blocks.values
    return dense


def values_to_zero(grad: Any, label: str) -> Any:
    """The plain array or torch tensor of all values of a gradient, to be filled with zeros.

    Raises if it cannot be filled, before anything changes.
    """
    if isinstance(grad, tuple):
        grad = grad[1]
    if is_tensor(grad):
        from cyoptim._libraries.torch import check_zeroable

        check_zeroable(grad, label)
        return grad
    array: Any = grad if isinstance(grad, np.ndarray) else getattr(grad, "data", None)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fciub":
        raise TypeError(
            f"{label} is a {type_name(grad)}, which cannot be filled with zeros in place: call "
            "step() without zero_grad=True"
        )
    if not array.flags.writeable:
        raise ValueError(f"{label} is read-only: it cannot be filled with zeros")
    return array.view(np.ndarray)


# --- reading --------------------------------------------------------------------------------------


def _read(grad: Any, view: Array, label: str) -> Blocks:
    if isinstance(grad, tuple):
        return _read_rows(grad, view, label)
    if is_tensor(grad):
        from cyoptim._libraries.torch import read_sparse_tensor

        shape, indices, values = read_sparse_tensor(grad)
    else:
        coo = grad.tocoo()
        shape, values = tuple(coo.shape), np.asarray(coo.data)
        indices = np.stack(coo.coords) if hasattr(coo, "coords") else np.stack((coo.row, coo.col))
    values = _in_type_of(view, values, label)
    if shape != view.shape:
        raise ValueError(f"{label} has shape {shape}, expected {view.shape}")
    depth = _check_indices(indices, values, view, label)
    numbers = np.zeros(indices.shape[1], np.int64)
    for axis, index in zip(view.shape[:depth], indices, strict=True):
        _check_range(index, axis, label)
        numbers = numbers * axis + index.astype(np.int64)
    return Blocks(numbers, values.reshape(len(numbers), _size(view.shape[depth:])))


def _check_indices(indices: Any, values: Array, view: Array, label: str) -> int:
    """The number of axes that the indices cover."""
    if not isinstance(indices, np.ndarray) or indices.ndim != 2 or len(indices) > view.ndim:
        raise ValueError(
            f"{label} has indices of {np.shape(indices)}, expected a row for each axis"
        )
    if indices.size and indices.dtype.kind not in "iu":
        raise TypeError(f"indices of {label} have dtype {indices.dtype}, expected whole numbers")
    expected = (indices.shape[1], *view.shape[len(indices) :])
    if values.shape != expected:
        raise ValueError(f"values of {label} have shape {values.shape}, expected {expected}")
    return len(indices)


def _read_rows(grad: tuple[Any, ...], view: Array, label: str) -> Blocks:
    if len(grad) != 2:
        raise TypeError(f"{label} is a tuple of {len(grad)}, expected a pair (rows, values)")
    if view.ndim == 0:
        raise ValueError(f"{label} is a pair (rows, values), but its parameter has no rows")
    check_unmasked(grad[0], f"rows of {label}")
    rows, values = np.asarray(grad[0]), grad[1]
    if isinstance(values, np.ndarray) or is_tensor(values):
        values = foreign_array(values, f"values of {label}")
    if not isinstance(values, np.ndarray):
        raise TypeError(f"values of {label} are a {type_name(values)}, expected a NumPy array")
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"rows of {label} are an array of shape {rows.shape} and dtype {rows.dtype}, "
            "expected whole numbers along one axis"
        )
    values = _in_type_of(view, values, label)
    expected = (len(rows), *view.shape[1:])
    if values.shape != expected:
        raise ValueError(f"values of {label} have shape {values.shape}, expected {expected}")
    _check_range(rows, view.shape[0], label)
    return Blocks(rows.astype(np.int64), values.reshape(len(rows), _size(view.shape[1:])))


def _in_type_of(view: Array, values: Array, label: str) -> Array:
    """The values in the type of their parameter, if it holds them exactly."""
    if values.dtype == view.dtype:
        return values
    if not is_taken(values.dtype, view.dtype):
        raise misfit_of_gradient(label, values, view, "values")
    return widened(values)


def _check_range(index: Array, size: int, label: str) -> None:
    if index.size and not (index.min() >= 0 and index.max() < size):
        wrong = index[(index < 0) | (index >= size)][0]
        raise ValueError(f"{label} has an entry at {wrong}, outside of an axis of {size}")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


# --- order ----------------------------------------------------------------------------------------


def _coalesced(blocks: Blocks) -> Blocks:
    """Sorted, without repetitions: values of the same block are added in their order."""
    numbers, values = blocks.numbers, blocks.values
    step = np.diff(numbers)
    if (step > 0).all():
        return Blocks(numbers, np.ascontiguousarray(values))
    if not (step >= 0).all():
        order = np.argsort(numbers, kind="stable")
        numbers, values = numbers[order], values[order]
    new = np.diff(numbers, prepend=-1) != 0
    total = values[new]
    if len(total) < len(values):
        np.add.at(total, (np.cumsum(new) - 1)[~new], values[~new])
    return Blocks(numbers[new], total)


def _in_memory_order(blocks: Blocks, view: Array) -> Blocks:
    """One block per element, numbered by its position in memory."""
    size = blocks.values.shape[1]
    numbers = (blocks.numbers[:, None] * size + np.arange(size)).reshape(-1)
    places = np.zeros(len(numbers), np.int64)
    for index, stride in zip(np.unravel_index(numbers, view.shape), view.strides, strict=True):
        places += index * (stride // view.itemsize)
    order = np.argsort(places)
    return Blocks(places[order], blocks.values.reshape(-1)[order][:, None])

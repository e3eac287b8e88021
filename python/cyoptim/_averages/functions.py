"""Functions that update averages, and checks of users' functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from cyoptim._arrays.doors import foreign_array, is_distributed, is_tensor, type_name
from cyoptim._arrays.trees import shown
from cyoptim._engine import (
    DTYPES,
    Arrays,
    Commit,
    arithmetic_dtype,
    in_order,
    is_dense,
    same_layout_as,
)
from cyoptim._groups.numbers import number
from cyoptim._types import Array

AverageFunction: TypeAlias = Callable[[Any, Any, Any], Any]
MultiAverageFunction: TypeAlias = Callable[[Sequence[Any], Sequence[Any], Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverageFunction:
    r"""Make the function that updates averages by :math:`\bar\theta \leftarrow
    \delta\bar\theta + (1 - \delta)\theta`, all in one native call.

    Parameters
    ----------
    decay : float
        :math:`\delta`, in [0, 1].

    Returns
    -------
    callable
        For `multi_avg_fn` of :class:`AveragedModel`.

    Raises
    ------
    ValueError
        If `decay` is not in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> average, value = np.zeros(2), np.ones(2)
    >>> get_ema_multi_avg_fn(0.75)([average], [value], 1)
    >>> average
    array([0.25, 0.25])
    """
    return _Averaging(partial(_ema_weight, _checked_decay(decay)))


def get_swa_multi_avg_fn() -> MultiAverageFunction:
    r"""Make the function that updates averages by :math:`\bar\theta \leftarrow
    \bar\theta + (\theta - \bar\theta) / (n + 1)`, all in one native call.

    Returns
    -------
    callable
        For `multi_avg_fn` of :class:`AveragedModel`.

    Examples
    --------
    >>> import numpy as np
    >>> average, value = np.zeros(2), np.ones(2)
    >>> get_swa_multi_avg_fn()([average], [value], 1)
    >>> average
    array([0.5, 0.5])
    """
    return _Averaging(_swa_weight)


def get_ema_avg_fn(decay: float = 0.999) -> AverageFunction:
    """Make the function of :func:`get_ema_multi_avg_fn` for one parameter.

    Parameters
    ----------
    decay : float
        The decay of the average, in [0, 1].

    Returns
    -------
    callable
        For `avg_fn` of :class:`AveragedModel`: it returns the new average.

    Raises
    ------
    ValueError
        If `decay` is not in [0, 1].

    Examples
    --------
    >>> get_ema_avg_fn(0.75)(0.0, 1.0, 1)
    0.25
    """
    return partial(_ema_update, _checked_decay(decay))


def get_swa_avg_fn() -> AverageFunction:
    """Make the function of :func:`get_swa_multi_avg_fn` for one parameter.

    Returns
    -------
    callable
        For `avg_fn` of :class:`AveragedModel`: it returns the new average.

    Examples
    --------
    >>> get_swa_avg_fn()(0.0, 1.0, 1)
    0.5
    """
    return _swa_update


# Functions of the module, as a function within another cannot be pickled.


def _ema_weight(decay: float, num_averaged: Any) -> float:
    return 1.0 - decay


def _swa_weight(num_averaged: Any) -> float:
    return 1.0 / (float(num_averaged) + 1.0)


def _ema_update(decay: float, averaged: Any, current: Any, num_averaged: Any) -> Any:
    return decay * averaged + (1 - decay) * current


def _swa_update(averaged: Any, current: Any, num_averaged: Any) -> Any:
    return averaged + (current - averaged) / (num_averaged + 1)


class _Averaging:
    """Updates averages with a weight that may depend on the number of models."""

    def __init__(self, weight: Callable[[Any], float]) -> None:
        self._weight = weight

    def __call__(self, averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any) -> None:
        commit = Commit()
        self.prepare(averaged, current, num_averaged, commit)
        commit.run()

    def prepare(
        self, averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any, commit: Commit
    ) -> None:
        """Let `commit` update the averages; averages that are not arrays are updated now."""
        _average(averaged, current, self._weight(num_averaged), commit)


def is_ours(multi_avg_fn: Any) -> TypeGuard[_Averaging]:
    """Whether the function is one of this module's, which are all or nothing."""
    return isinstance(multi_avg_fn, _Averaging)


def _checked_decay(decay: Any) -> float:
    found: float = number("decay", decay)
    if not 0.0 <= found <= 1.0:
        raise ValueError(
            f"Invalid decay value {found} provided. Please provide a value in [0,1] range."
        )
    return found


def memory_of(value: Any) -> Array:
    if is_tensor(value):
        return foreign_array(value.detach(), "a parameter")
    return value.data if hasattr(value, "grad") else value  # type: ignore[no-any-return]


def _average(
    averaged: Sequence[Any], current: Sequence[Any], weight: float, commit: Commit
) -> None:
    """Move each average by `weight` towards its value; one native call for all dense ones."""
    means: list[Array] = []
    values: list[Array] = []
    for a, c in zip(averaged, current, strict=True):
        if is_tensor(a) and not _is_native(a):
            a.copy_(a * (1 - weight) + c * weight)
            continue
        mean, value = memory_of(a), memory_of(c)
        if is_dense(mean) and same_layout_as(mean, value):
            means.append(mean)
            values.append(value)
        else:
            commit.copy(mean, _moved(mean, value, weight))
    commit.apply(Arrays(means, values), "average", (weight,))


def _moved(mean: Array, value: Array, weight: float) -> Array:
    """A copy of an average, moved towards a value of another layout or type."""
    moved = mean.copy(order="C")
    dtype = arithmetic_dtype(mean)
    if arithmetic_dtype(value) != dtype:
        value = value.astype(dtype, casting="same_kind")
    Arrays([moved], [in_order(np.broadcast_to(value, mean.shape))]).apply("average", (weight,))
    return moved


def _is_native(tensor: Any) -> bool:
    """Whether the kernels can move a tensor; torch moves the others."""
    import torch

    dtypes = [getattr(torch, name) for name in DTYPES]
    return tensor.device.type == "cpu" and tensor.dtype in dtypes and not is_distributed(tensor)


# --- checks ---------------------------------------------------------------------------------------


def check_functions(avg_fn: Any, multi_avg_fn: Any) -> None:
    """Refuse two ways of averaging at once."""
    if avg_fn is not None and multi_avg_fn is not None:
        raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")


def check_returned_average(value: Any, i: int) -> None:
    """Refuse an `avg_fn` that works in place."""
    if value is None:
        raise TypeError(
            f"avg_fn returned None for parameter {i}: it has to return the new average (a function "
            "that changes averages in place, all at once, is given as multi_avg_fn)"
        )


def check_returned_nothing(result: Any, averaged: Sequence[Any]) -> None:
    """Refuse a `multi_avg_fn` that does not work in place; it may return the changed list."""
    if result is None:
        return
    own = set(map(id, averaged))
    if not isinstance(result, (list, tuple)) or not all(id(value) in own for value in result):
        raise TypeError(
            f"multi_avg_fn returned a {type_name(result)}: it has to change the averages in place "
            "and return None (a function that returns a new average is given as avg_fn)"
        )


def check_same_names(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Refuse unexpected names, or places in lists."""
    missing = [repr(name) for name in expected if name not in found]
    extra = [repr(name) for name in found if name not in expected]
    parts = [f"has no parameter {shown(missing)}"] if missing else []
    parts += [f"has {shown(extra)}, which the average does not have"] if extra else []
    if parts:
        raise ValueError(f"{what} {' and '.join(parts)}")

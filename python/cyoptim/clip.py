"""Gradient clipping, by norm and by value, for every kind of parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any

import numpy as np

from cyoptim._arrays.containers import is_branch, is_record
from cyoptim._arrays.doors import (
    are_known,
    array_of,
    arrays_of,
    as_written,
    check_array,
    class_of,
    foreign_array,
    is_parameter,
    is_tensor,
    type_name,
)
from cyoptim._arrays.trees import named_leaves
from cyoptim._engine import (
    Arrays,
    Commit,
    are_apart,
    arithmetic_dtype,
    clip_coefficient,
    is_dense,
    ordinary_arrays,
    plainly,
    together,
    widened,
)
from cyoptim._gradients.aligned import align
from cyoptim._groups.names import split_names
from cyoptim._groups.numbers import number
from cyoptim._groups.options import check_switch
from cyoptim._types import Array, Gradients
from cyoptim._warnings import warn

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    grads: Gradients | None = None,
) -> Any:
    r"""Scale gradients in place so that their total norm is at most `max_norm`.

    With :math:`\|g\|_p` the norm of all gradients as one vector, each gradient is multiplied by
    :math:`\min(1, \text{max\_norm} / (\|g\|_p + 10^{-6}))`.

    Parameters
    ----------
    parameters : parameter, iterable of parameters, or tree
        What :class:`cyoptim.Optimizer` takes, without groups. Parameters without a gradient are
        skipped.
    max_norm : float
        The largest norm allowed.
    norm_type : float
        The order :math:`p` of the norm; ``inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Raise if the total norm is NaN or infinite, and name the gradients with such elements.
        Otherwise a NaN norm makes every gradient NaN, and an infinite one every finite element
        zero.
    foreach : bool, optional
        Accepted as in torch, without effect.
    grads : sequence, mapping or tree of ndarray, optional
        The gradients of `parameters`: one each or None, a mapping from names, or a tree of the
        same structure; used instead of ``.grad``. Plain arrays need it.

    Returns
    -------
    NumPy scalar or torch.Tensor
        The total norm before clipping, in the dtype of the gradients, of 16-bit ones in float32; a
        tensor without axes if the parameters are torch tensors.

    Raises
    ------
    RuntimeError
        If `error_if_nonfinite` and the norm is not finite. Then no gradient changes.
    TypeError, ValueError
        If there is an argument that cannot be clipped.

    References
    ----------
    .. [1] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
       networks", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> gradient = np.array([3.0, 4.0])
    >>> float(clip_grad_norm_([np.zeros(2)], max_norm=1.0, grads=[gradient]))
    5.0
    >>> gradient.round(3)
    array([0.6, 0.8])
    """
    limit, order = _limit("max_norm", max_norm), _number("norm_type", norm_type)
    check_switch("error_if_nonfinite", error_if_nonfinite)

    def clip(found: list[Any]) -> Any:
        targets = _Gradients(found)
        total = _total_norm(targets, order, error_if_nonfinite)
        _scale_down(targets, limit, total)
        return targets.scalar(total)

    return _in_turns("clip_grad_norm_()", parameters, grads, clip)


def get_total_norm(
    tensors: Any,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """The norm of all arrays as one vector.

    Parameters
    ----------
    tensors : array, iterable of arrays, or tree of arrays
        Usually gradients: arrays of NumPy or other libraries, or CPU torch tensors, of a dtype that
        parameters can have. None in a tree is skipped.
    norm_type : float
        The order of the norm; ``inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Raise if the norm is NaN or infinite.
    foreach : bool, optional
        Accepted as in torch, without effect.

    Returns
    -------
    NumPy scalar or torch.Tensor
        The norm, in the dtype of the arrays, of 16-bit ones in float32.

    Raises
    ------
    RuntimeError
        If `error_if_nonfinite` and the norm is not finite.
    TypeError
        If an entry is not an array.

    Examples
    --------
    >>> import numpy as np
    >>> float(get_total_norm([np.array([3.0]), np.array([4.0])]))
    5.0
    """
    order = _number("norm_type", norm_type)
    check_switch("error_if_nonfinite", error_if_nonfinite)
    targets = _Gradients(_arrays_in(tensors), writable=False)
    return plainly(lambda: targets.scalar(_total_norm(targets, order, error_if_nonfinite)))


def clip_grads_with_norm_(
    parameters: Any,
    max_norm: float,
    total_norm: Any,
    foreach: bool | None = None,
    *,
    grads: Gradients | None = None,
) -> None:
    """Scale gradients in place by a total norm that was computed before.

    Each is multiplied by ``min(1, max_norm / (total_norm + 1e-6))``.

    Parameters
    ----------
    parameters : parameter, iterable of parameters, or tree
        As in :func:`clip_grad_norm_`.
    max_norm : float
        The largest norm allowed.
    total_norm : float
        The norm of all gradients, as :func:`get_total_norm` returns it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    grads : sequence, mapping or tree of ndarray, optional
        As in :func:`clip_grad_norm_`.

    Raises
    ------
    TypeError, ValueError
        If there is an argument that cannot be clipped.

    Examples
    --------
    >>> import numpy as np
    >>> gradient = np.array([3.0, 4.0])
    >>> clip_grads_with_norm_([np.zeros(2)], 1.0, 5.0, grads=[gradient])
    >>> gradient.round(3)
    array([0.6, 0.8])
    """
    limit, total = _limit("max_norm", max_norm), _limit("total_norm", total_norm)

    def clip(found: list[Any]) -> None:
        _scale_down(_Gradients(found), limit, total)

    _in_turns("clip_grads_with_norm_()", parameters, grads, clip)


def clip_grad_value_(
    parameters: Any,
    clip_value: float,
    foreach: bool | None = None,
    *,
    grads: Gradients | None = None,
) -> None:
    """Clip every element of the gradients, in place, to [-`clip_value`, `clip_value`].

    Parameters
    ----------
    parameters : parameter, iterable of parameters, or tree
        As in :func:`clip_grad_norm_`.
    clip_value : float
        The largest absolute value allowed. NaN elements stay NaN.
    foreach : bool, optional
        Accepted as in torch, without effect.
    grads : sequence, mapping or tree of ndarray, optional
        As in :func:`clip_grad_norm_`.

    Raises
    ------
    TypeError, ValueError
        If there is an argument that cannot be clipped.

    Examples
    --------
    >>> import numpy as np
    >>> gradient = np.array([-3.0, 0.5])
    >>> clip_grad_value_([np.zeros(2)], 1.0, grads=[gradient])
    >>> gradient
    array([-1. ,  0.5])
    """
    limit = _limit("clip_value", clip_value)

    def clip(found: list[Any]) -> None:
        targets = _Gradients(found)
        if any(array.dtype.kind == "c" for array in targets.arrays):
            raise TypeError("complex gradients have no order: they can be clipped by norm only")
        targets.apply("clamp", (-limit, limit))

    _in_turns("clip_grad_value_()", parameters, grads, clip)


def _total_norm(targets: _Gradients, order: float, error_if_nonfinite: bool) -> float:
    total = Arrays(targets.absolute(order)).norm(order)
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"The total norm of order {order} for gradients from "
            "`parameters` is non-finite, so it cannot be clipped. To disable "
            "this error and scale the gradients by the non-finite norm anyway, "
            f"set `error_if_nonfinite=False` ({targets.blame()})"
        )
    return total


def _scale_down(targets: _Gradients, limit: float, total: float) -> None:
    coefficient = clip_coefficient(limit, total)
    if not coefficient >= 1:  # NaN scales, too: it must not go unnoticed
        targets.apply("scale", (coefficient,))


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # "inf", as in torch
        try:
            return float(value)
        except ValueError:
            raise TypeError(f"{name} must be a number, got {value!r}") from None
    return float(number(name, value))


def _limit(name: str, value: Any) -> float:
    """A nonnegative limit; a negative one would reverse gradients."""
    limit = _number(name, value)
    if limit < 0:
        raise ValueError(
            f"{name} is {limit}, expected a number >= 0: a negative one would turn gradients round"
        )
    return limit


class _Gradients:
    """The gradients of parameters, as arrays that the kernels can process."""

    def __init__(self, found: list[Any], writable: bool = True) -> None:
        tensor = class_of("torch", "Tensor")
        self.tensors = any(isinstance(grad, tensor) for grad in found)
        views = [
            (i, _view(grad, f"gradient of parameter {i}") if array is None else array)
            for i, (grad, array) in enumerate(zip(found, ordinary_arrays(found), strict=True))
            if grad is not None
        ]
        self._numbers = [i for i, _ in views]
        for i, view in views:
            if writable and not view.flags.writeable:
                raise ValueError(f"gradient of parameter {i} is read-only")
        self.arrays: list[Array] = [view for _, view in views]  # one per gradient, dense
        self._copies: list[tuple[Array, Array]] = []  # other gradients, and their copies
        # Two parameters may share a gradient. It counts twice, but must not be changed twice.
        self._distinct = self.arrays
        if not are_apart(self.arrays):
            self._set_apart()

    def _set_apart(self) -> None:
        distinct: dict[tuple[Any, ...], Array] = {}
        for k, view in enumerate(self.arrays):
            key = (view.__array_interface__["data"][0], view.shape, view.strides)
            if key not in distinct:
                distinct[key] = self._dense(view)
            self.arrays[k] = distinct[key]
        self._distinct = list(distinct.values())

    def _dense(self, view: Array) -> Array:
        if is_dense(view):
            return view
        copy = view.copy()
        self._copies.append((view, copy))
        return copy

    def apply(self, rule: str, scalars: tuple[float, ...]) -> None:
        """Run a rule over every gradient."""
        commit = Commit()
        commit.apply(Arrays(self._distinct), rule, scalars)
        for view, copy in self._copies:
            commit.copy(view, copy)
        commit.run()

    def blame(self) -> str:
        """The gradients that make the norm NaN or infinite, for a message."""
        finite = [np.isfinite(widened(array)) for array in self.arrays]
        found = [
            f"{i} has {(~each).sum()} of {each.size}"
            for i, each in zip(self._numbers, finite, strict=True)
            if not each.all()
        ]
        if not found:
            return "all elements are finite: their norm is too large"
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        return f"elements that are not finite, by the number of the gradient: {shown}"

    def absolute(self, order: float) -> list[Array]:
        """The gradients; complex ones as magnitudes, unless the norm is the 2-norm."""
        if order == 2:
            return self.arrays
        return [np.abs(a) if a.dtype.kind == "c" else a for a in self.arrays]

    def scalar(self, value: float) -> Any:
        """A real number in the precision of the gradients."""
        dtypes = {arithmetic_dtype(array) for array in self.arrays}
        dtype = np.result_type(*dtypes).type(0).real.dtype if dtypes else np.dtype("f4")
        with np.errstate(over="ignore"):
            number = dtype.type(value)
        if not self.tensors:
            return number
        from cyoptim._libraries.torch import as_tensor

        return as_tensor(np.asarray(number))


def _arrays_in(tensors: Any) -> list[Any]:
    if isinstance(tensors, np.ndarray) or is_tensor(tensors):
        return [tensors]
    if isinstance(tensors, Mapping) or is_record(tensors) or not hasattr(tensors, "__iter__"):
        tensors = [tensors]
    entries = list(tensors)
    if not entries and isinstance(tensors, Iterator):
        warn(f"`tensors` is an empty {_kind_of(tensors)}, of which the norm is 0.")
    if any(map(is_branch, entries)):
        entries = [leaf for _, leaf in named_leaves(entries)]
    return list(map(array_of, entries))


def _in_turns(
    doing: str, parameters: Any, grads: Gradients | None, function: Callable[[list[Any]], Any]
) -> Any:
    """Call the function with the gradients, in turns of the optimizers that may read them."""
    params, names = _as_lists(parameters)

    def call() -> Any:
        if grads is None:
            return function(_own_gradients(params))
        return function(_given_gradients(params, names, grads))

    return together("touch", doing, [], arrays_of(params), call)


def _as_lists(parameters: Any) -> tuple[list[Any], list[str]]:
    known = is_parameter(parameters) or is_record(parameters)
    if not known and not isinstance(parameters, Iterable):
        hint = (
            ": write optimizer.param_groups[0]['params']"
            if hasattr(parameters, "param_groups")
            else ": write model.parameters()"
            if hasattr(parameters, "parameters")
            else ""
        )
        raise TypeError(
            "parameters must be a parameter or an iterable of them, got "
            f"{type_name(parameters)}{hint}"
        )
    if isinstance(parameters, list) and any(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in parameters
    ):
        raise TypeError(
            "parameters are groups, expected what they hold: write "
            "[p for group in optimizer.param_groups for p in group['params']]"
        )
    params, names = split_names(parameters)
    if not params and isinstance(parameters, Iterator):
        warn(f"`parameters` is an empty {_kind_of(parameters)}, no gradient clipping will occur.")
    for i, param in enumerate([] if are_known(params) else params):
        if not is_parameter(param):
            label = f" ({names[i]!r})" if names else ""
            raise TypeError(
                f"parameter {i}{label} is a {type_name(param)}, expected an array: "
                f"{as_written(param)}"
            )
    return params, names


def _kind_of(iterator: Iterator[Any]) -> str:
    return "generator" if isinstance(iterator, GeneratorType) else type_name(iterator)


def _own_gradients(params: list[Any]) -> list[Any]:
    for i, param in enumerate(params):
        if isinstance(param, np.ndarray):
            raise ValueError(
                f"parameter {i} is a plain array and has no gradient of its own: pass grads=..., "
                "or wrap it in cyoptim.Parameter"
            )
    return [param.grad for param in params]


def _given_gradients(params: list[Any], names: list[str], grads: Gradients) -> list[Any]:
    if names:
        aligned = align(grads, [{"params": params, "param_names": names}])
        return list(map(array_of, aligned))
    if isinstance(grads, Mapping):  # by name, as in step(); the order does not matter
        if len(grads) > len(params):
            raise ValueError(f"grads holds {len(grads)} gradients, expected {len(params)} at most")
        return list(map(array_of, grads.values()))
    if isinstance(grads, np.ndarray) or not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads must be a list or dict of gradients, got {type_name(grads)}")
    if len(grads) != len(params):
        raise ValueError(f"grads holds {len(grads)} gradients, expected {len(params)}")
    return list(map(array_of, grads))


def _view(grad: Any, label: str) -> Array:
    array = foreign_array(grad, label)
    check_array(array, label)
    if is_tensor(grad) and (grad.is_conj() or grad.is_neg()):
        from cyoptim._libraries.torch import memory_of, unflagged

        # The array is a copy, but what is stored has to change: it has the same norm and limits.
        return memory_of(unflagged(grad))
    return array

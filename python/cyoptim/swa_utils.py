"""Averages of parameters over training: of equal weight (SWA) and moving (EMA)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from cyoptim._arrays.doors import (
    arrays_of,
    check_array,
    check_unmasked,
    foreign_array,
    is_parameter,
    is_tensor,
    type_name,
)
from cyoptim._arrays.trees import copied, named_leaves, shown
from cyoptim._engine import (
    Commit,
    Spans,
    Undo,
    is_dense,
    next_count,
    same_layout_as,
    together,
    whole_count,
)
from cyoptim._groups.numbers import number
from cyoptim._schedulers.swa import SWALR
from cyoptim._types import Array

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

AverageFunction: TypeAlias = Callable[[Any, Any, Any], Any]
MultiAverageFunction: TypeAlias = Callable[[Sequence[Any], Sequence[Any], Any], None]


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverageFunction:
    r"""Make the function that moves averages by :math:`\bar\theta \leftarrow
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
    r"""Make the function that moves averages by :math:`\bar\theta \leftarrow
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
    """Moves averages by a weight that may depend on how many there have been."""

    def __init__(self, weight: Callable[[Any], float]) -> None:
        self._weight = weight

    def __call__(self, averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any) -> None:
        commit = Commit()
        self.prepare(averaged, current, num_averaged, commit)
        commit.run()

    def prepare(
        self, averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any, commit: Commit
    ) -> None:
        """Let `commit` move the averages; those that lie elsewhere than in arrays move now."""
        _average(averaged, current, self._weight(num_averaged), commit)


def is_ours(multi_avg_fn: Any) -> TypeGuard[_Averaging]:
    """Whether the function is one of this module's, which never fails half way."""
    return isinstance(multi_avg_fn, _Averaging)


def get_ema_avg_fn(decay: float = 0.999) -> AverageFunction:
    """Make the function of :func:`get_ema_multi_avg_fn` for one parameter.

    Parameters
    ----------
    decay : float
        How much of the average is kept, in [0, 1].

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


def _checked_decay(decay: Any) -> float:
    found: float = number("decay", decay)
    if not 0.0 <= found <= 1.0:
        raise ValueError(
            f"Invalid decay value {found} provided. Please provide a value in [0,1] range."
        )
    return found


def _memory(value: Any) -> Array:
    if is_tensor(value):
        return foreign_array(value.detach(), "a parameter")
    return value.data if hasattr(value, "grad") else value  # type: ignore[no-any-return]


def _average(
    averaged: Sequence[Any], current: Sequence[Any], weight: float, commit: Commit
) -> None:
    """Move each average by `weight` of its way; one native run for all that lie densely."""
    means: list[Array] = []
    values: list[Array] = []
    for a, c in zip(averaged, current, strict=True):
        if is_tensor(a) and (a.device.type != "cpu" or a.dtype not in _native_dtypes()):
            a.copy_(a * (1 - weight) + c * weight)
            continue
        mean, value = _memory(a), _memory(c)
        if is_dense(mean) and same_layout_as(mean, value):
            means.append(mean)
            values.append(value)
        else:
            moved = mean.copy()
            moved += weight * (value - mean)
            commit.copy(mean, moved)
    commit.apply(Spans(means, values), "average", (weight,))


def _native_dtypes() -> tuple[Any, ...]:
    import torch

    return torch.float32, torch.float64


class AveragedModel:
    """Keep a running average of a model's float32 and float64 parameters.

    Parameters
    ----------
    model : torch.nn.Module, or list or dict of parameters
        What is averaged; copied at the start. For a torch module the average is a module, too,
        and can be called. Lists and dicts hold parameters, arrays, or further lists and dicts.
    device : optional
        For torch modules: the device of the average.
    avg_fn : callable, optional
        ``avg_fn(averaged, current, num_averaged)`` returns the new average of one parameter.
    multi_avg_fn : callable, optional
        ``multi_avg_fn(averaged, current, num_averaged)`` moves a list of averages in place. By
        default all models so far have the same weight.
    use_buffers : bool
        For torch modules: average the buffers, too, instead of copying them.

    Attributes
    ----------
    module : object
        The average, of the same structure as the model.
    n_averaged : int or torch.Tensor
        How many times :meth:`update_parameters` was called.

    Raises
    ------
    AssertionError
        If both `avg_fn` and `multi_avg_fn` are given, as in torch.
    TypeError
        If `model` is neither a module nor a list or dict of parameters.

    References
    ----------
    .. [1] P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
       Generalization", UAI 2018.

    Examples
    --------
    >>> import numpy as np
    >>> model = {"w": np.array([0.0])}
    >>> average = AveragedModel(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     model["w"][...] = value
    ...     average.update_parameters(model)
    >>> average.module["w"]
    array([3.])
    """

    module: Any
    n_averaged: Any

    if not TYPE_CHECKING:  # the signature is that of __init__

        def __new__(cls, *args, **kwargs):
            if any(map(_is_module, (*args, *kwargs.values()))):
                from cyoptim._libraries.torch_swa import over_module

                return object.__new__(over_module(cls))
            return object.__new__(cls)

    def __init__(
        self,
        model: Any,
        device: Any = None,
        avg_fn: AverageFunction | None = None,
        multi_avg_fn: MultiAverageFunction | None = None,
        use_buffers: bool = False,
    ) -> None:
        check_functions(avg_fn, multi_avg_fn)
        list(_leaves(model))
        self.module = copied(model)
        self.n_averaged = 0
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn

    def update_parameters(self, model: Any) -> None:
        """Take the parameters of a model into the average.

        Parameters
        ----------
        model : object
            Of the same structure as the first one; what has names is matched by name, in whatever
            order it stands.

        Raises
        ------
        TypeError, ValueError
            If its parameters have other names, or other shapes, or are not as many, or a function
            of the user's returns something else than it has to. The average is left as it was.
        """
        averaged, current = _matched(self.module, model, "model")
        undo = Undo()
        arrays = arrays_of(current)
        together(
            "read",
            "update_parameters()",
            [],
            arrays,
            undo.run,
            self._moved,
            averaged,
            current,
            undo,
        )

    def _moved(self, averaged: list[Any], current: list[Any], undo: Undo) -> Commit:
        commit = Commit()
        functions = self.avg_fn, self.multi_avg_fn
        _prepare_move(averaged, current, self.n_averaged, *functions, commit, undo)
        commit.update(vars(self), {"n_averaged": next_count(self.n_averaged)})
        return commit

    def state_dict(self) -> dict[str, Any]:
        """The average and how many models are in it."""
        return {"module": self.module, "n_averaged": self.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` has returned; values are copied.

        Parameters
        ----------
        state_dict : dict
            The state to continue from.

        Raises
        ------
        TypeError, ValueError
            If it is no such state, or its parameters have other names, or other shapes, or are not
            as many.
        """
        commit = Commit()
        self._prepare_load(state_dict, commit)
        commit.run()

    def _prepare_load(self, state_dict: dict[str, Any], commit: Commit) -> None:
        """Check a state and convert what it holds; `commit` will put it in."""
        if not isinstance(state_dict, Mapping) or not {"module", "n_averaged"} <= state_dict.keys():
            raise TypeError(
                "the state of an average must be a dict with 'module' and 'n_averaged', as "
                f"state_dict() returns; found {type_name(state_dict)}"
            )
        own, loaded = _matched(self.module, state_dict["module"], "the loaded average")
        count = whole_count(state_dict["n_averaged"], "n_averaged")
        for i, (mine, theirs) in enumerate(zip(own, loaded, strict=True)):
            _prepare_copy(mine, theirs, f"the loaded average of parameter {i}", commit)
        commit.update(vars(self), {"n_averaged": count})


def check_functions(avg_fn: Any, multi_avg_fn: Any) -> None:
    """Refuse two ways of averaging at once."""
    if avg_fn is not None and multi_avg_fn is not None:
        raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")


def move(
    averaged: Sequence[Any],
    current: Sequence[Any],
    n: Any,
    avg_fn: AverageFunction | None,
    multi_avg_fn: MultiAverageFunction | None,
) -> None:
    """Move averages towards values; the first values are taken as they are."""
    undo = Undo()

    def moved() -> Commit:
        commit = Commit()
        _prepare_move(averaged, current, n, avg_fn, multi_avg_fn, commit, undo)
        return commit

    undo.run(moved)


def _prepare_move(
    averaged: Sequence[Any],
    current: Sequence[Any],
    n: Any,
    avg_fn: AverageFunction | None,
    multi_avg_fn: MultiAverageFunction | None,
    commit: Commit,
    undo: Undo,
) -> None:
    """Let `commit` move the averages, or move them by a user's function and tell `undo` before."""
    if n == 0:
        for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
            _prepare_copy(a, c, f"parameter {i} of the model", commit)
        return
    if avg_fn is not None:
        undo.keep([_memory(a) for a in averaged])  # it may change the average itself
        for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
            value = avg_fn(a, c, n)
            check_returned_average(value, i)
            _prepare_copy(a, value, f"the average of parameter {i} that avg_fn returned", commit)
        return
    multi_avg_fn = multi_avg_fn or get_swa_multi_avg_fn()
    if is_ours(multi_avg_fn):
        multi_avg_fn.prepare(averaged, current, n, commit)
    else:
        undo.keep([_memory(a) for a in averaged])
        check_returned_nothing(multi_avg_fn(averaged, current, n), averaged)


def check_returned_average(value: Any, i: int) -> None:
    """Refuse an `avg_fn` that works in place."""
    if value is None:
        raise TypeError(
            f"avg_fn returned None for parameter {i}: it has to return the new average (a function "
            "that changes averages in place, all at once, is given as multi_avg_fn)"
        )


def check_returned_nothing(result: Any, averaged: Sequence[Any]) -> None:
    """Refuse a `multi_avg_fn` that does not work in place; some return what they have changed."""
    if result is None:
        return
    own = set(map(id, averaged))
    if not isinstance(result, (list, tuple)) or not all(id(value) in own for value in result):
        raise TypeError(
            f"multi_avg_fn returned a {type_name(result)}: it has to change the averages in place "
            "and return None (a function that returns a new average is given as avg_fn)"
        )


def _prepare_copy(average: Any, value: Any, what: str, commit: Commit) -> None:
    check_unmasked(value, what)
    mean, array = _memory(average), np.asarray(_memory(value))
    if array.dtype.kind not in ("biufc" if mean.dtype.kind == "c" else "biuf"):
        raise TypeError(
            f"{what} is a {type_name(value)} of {array.dtype}, expected an array of {mean.dtype}"
        )
    if array.shape != mean.shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {mean.shape}")
    commit.copy(mean, array.astype(mean.dtype, copy=False))


def _matched(own: Any, other: Any, what: str) -> tuple[list[Any], list[Any]]:
    """The parameters of a model, and those of another that have the same places in it."""
    mine, theirs = dict(_leaves(own)), dict(_leaves(other))
    check_same_names(theirs, mine, what)
    found = [theirs[path] for path in mine]
    shapes = [np.shape(a) for a in mine.values()], [np.shape(b) for b in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{what} has parameters of shapes {shapes[1]}, expected {shapes[0]}")
    return list(mine.values()), found


def check_same_names(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Refuse names, or places in lists, other than those that are expected."""
    missing = [repr(name) for name in expected if name not in found]
    extra = [repr(name) for name in found if name not in expected]
    parts = [f"has no parameter {shown(missing)}"] if missing else []
    parts += [f"has {shown(extra)}, which the average does not have"] if extra else []
    if parts:
        raise ValueError(f"{what} {' and '.join(parts)}")


def _leaves(model: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in named_leaves(model):
        if not is_parameter(leaf):
            raise TypeError(
                "a model is a torch module, or a list or dict of parameters; found "
                f"a {type_name(leaf)}"
            )
        check_array(_memory(leaf), "a parameter")
        yield path, leaf


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def update_bn(loader: Iterable[Any], model: Any, device: Any = None) -> None:
    """Compute the running statistics of a torch module's batch normalization layers anew.

    Parameters
    ----------
    loader : iterable
        Batches of inputs, or lists or tuples that begin with them.
    model : torch.nn.Module
        Whose layers are to be brought up to date.
    device : optional
        Where the inputs are to be moved first.

    Raises
    ------
    TypeError
        If `model` is no torch module: lists and dicts of arrays have no such layers.
    """
    if not _is_module(model):
        raise TypeError(f"update_bn needs a torch module, got {type_name(model)}")
    from cyoptim._libraries.torch_swa import update_batch_norms

    update_batch_norms(loader, model, device)

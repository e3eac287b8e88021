"""Averages of parameters over training: with equal weights (SWA), and exponential (EMA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cyoptim._arrays.doors import (
    arrays_of,
    as_written,
    check_array,
    check_unmasked,
    class_of,
    is_parameter,
    type_name,
)
from cyoptim._arrays.rounding import rounded
from cyoptim._arrays.trees import copied, named_leaves
from cyoptim._averages.functions import (
    AverageFunction,
    MultiAverageFunction,
    check_functions,
    check_returned_average,
    check_returned_nothing,
    check_same_names,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    is_ours,
    memory_of,
)
from cyoptim._engine import (
    DTYPES,
    Commit,
    Undo,
    name_of_dtype,
    next_count,
    together,
    whole_count,
)
from cyoptim._schedulers.swa import SWALR
from cyoptim._shown import call, table

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


class AveragedModel:
    """Keep a running average of a model's parameters.

    The average has the dtypes of the model, as in torch. In bfloat16 and float16 an average that
    should move by less than half a unit of its last place stays where it is; an average of floats
    follows, also of a model in 16 bits: ``average.module.float()`` makes it of a torch module, and
    ``optimizer.ema(decay)`` keeps one.

    Parameters
    ----------
    model : torch.nn.Module, or list or dict of parameters
        The model, copied at the start. The average of a torch module is also a module,
        and can be called. Lists and dicts contain parameters, arrays, or further lists and dicts.
    device : optional
        For torch modules: the device of the average.
    avg_fn : callable, optional
        ``avg_fn(averaged, current, num_averaged)`` returns the new average of one parameter.
    multi_avg_fn : callable, optional
        ``multi_avg_fn(averaged, current, num_averaged)`` updates a list of averages in place. By
        default all models have the same weight.
    use_buffers : bool
        For torch modules: average the buffers, too, instead of copying them.

    Attributes
    ----------
    module : object
        The average, of the same structure as the model.
    n_averaged : int or torch.Tensor
        The number of calls of :meth:`update_parameters`.

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

    def _shown(self) -> dict[str, Any]:
        leaves = {path or "array": _in_short(leaf) for path, leaf in _leaves(self.module)}
        return {"n_averaged": self.n_averaged, "parameters": len(leaves), **leaves}

    def __repr__(self) -> str:
        shown = self._shown()
        return call(type(self).__name__, {key: shown[key] for key in ("n_averaged", "parameters")})

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._shown())

    def update_parameters(self, model: Any) -> None:
        """Update the average with the parameters of a model.

        Parameters
        ----------
        model : object
            A model of the same structure as the first; named parameters are matched by name, in any
            order.

        Raises
        ------
        TypeError, ValueError
            If the names, shapes or number of its parameters differ, or a function
            of the user returns a wrong value. Then the average does not change.
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
        """The average, and the number of models in it."""
        return {"module": self.module, "n_averaged": self.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a result of :meth:`state_dict`; values are copied.

        Parameters
        ----------
        state_dict : dict
            The state to continue from.

        Raises
        ------
        TypeError, ValueError
            If it is not such a state, or the names, shapes or number of its parameters differ.
        """
        commit = Commit()
        self._prepare_load(state_dict, commit)
        commit.run()

    def _prepare_load(self, state_dict: dict[str, Any], commit: Commit) -> None:
        """Check and convert a state; `commit` will apply it."""
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


def move(
    averaged: Sequence[Any],
    current: Sequence[Any],
    n: Any,
    avg_fn: AverageFunction | None,
    multi_avg_fn: MultiAverageFunction | None,
) -> None:
    """Update averages with values; the first values are copied."""
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
    """Let `commit` update the averages; or record them in `undo` and call a user's function."""
    if n == 0:
        for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
            _prepare_copy(a, c, f"parameter {i} of the model", commit)
        return
    if avg_fn is not None:
        undo.keep([memory_of(a) for a in averaged])  # it may change the averages in place
        for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
            value = avg_fn(a, c, n)
            check_returned_average(value, i)
            _prepare_copy(a, value, f"the average of parameter {i} that avg_fn returned", commit)
        return
    multi_avg_fn = multi_avg_fn or get_swa_multi_avg_fn()
    if is_ours(multi_avg_fn):
        multi_avg_fn.prepare(averaged, current, n, commit)
    else:
        undo.keep([memory_of(a) for a in averaged])
        check_returned_nothing(multi_avg_fn(averaged, current, n), averaged)


def _prepare_copy(average: Any, value: Any, what: str, commit: Commit) -> None:
    check_unmasked(value, what)
    mean, array = memory_of(average), np.asarray(memory_of(value))
    kind = "f" if name_of_dtype(array.dtype) in DTYPES else array.dtype.kind
    if kind not in ("biufc" if mean.dtype.kind == "c" else "biuf"):
        raise TypeError(
            f"{what} is a {type_name(value)} of {array.dtype}, expected an array of {mean.dtype}"
        )
    if array.shape != mean.shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {mean.shape}")
    commit.copy(mean, rounded(array, mean.dtype))


def _matched(own: Any, other: Any, what: str) -> tuple[list[Any], list[Any]]:
    """The parameters of a model, and those at the same places of another."""
    mine, theirs = dict(_leaves(own)), dict(_leaves(other))
    check_same_names(theirs, mine, what)
    found = [theirs[path] for path in mine]
    shapes = [np.shape(a) for a in mine.values()], [np.shape(b) for b in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{what} has parameters of shapes {shapes[1]}, expected {shapes[0]}")
    return list(mine.values()), found


def _leaves(model: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in named_leaves(model):
        if not is_parameter(leaf):
            raise TypeError(
                "a model is a torch module, or a list or dict of parameters; found "
                f"a {type_name(leaf)}: {as_written(leaf)}"
            )
        check_array(memory_of(leaf), "a parameter")
        yield path, leaf


def _in_short(leaf: Any) -> str:
    array = memory_of(leaf)
    return f"{array.shape} {array.dtype}"


def _is_module(model: Any) -> bool:
    return isinstance(model, class_of("torch", "nn.Module"))


def update_bn(loader: Iterable[Any], model: Any, device: Any = None) -> None:
    """Recompute the running statistics of a torch module's batch normalization layers.

    Parameters
    ----------
    loader : iterable
        Batches of inputs, or lists or tuples that begin with them.
    model : torch.nn.Module
        The module with the layers.
    device : optional
        The device to move the inputs to.

    Raises
    ------
    TypeError
        If `model` is not a torch module: lists and dicts of arrays have no such layers.
    """
    if not _is_module(model):
        raise TypeError(f"update_bn needs a torch module, got {type_name(model)}")
    from cyoptim._libraries.torch_swa import update_batch_norms

    update_batch_norms(loader, model, device)

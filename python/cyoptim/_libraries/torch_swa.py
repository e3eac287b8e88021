"""Averages of torch modules."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from cyoptim._arrays.doors import type_name
from cyoptim._averages.functions import (
    check_functions,
    check_returned_average,
    check_returned_nothing,
    check_same_names,
    get_swa_multi_avg_fn,
    is_ours,
)
from cyoptim.swa_utils import AveragedModel


class AveragedModule(AveragedModel, torch.optim.swa_utils.AveragedModel):  # type: ignore[misc]
    """The average of a torch module, a module itself."""

    n_averaged: torch.Tensor
    __repr__ = torch.nn.Module.__repr__
    _repr_html_ = None  # type: ignore[assignment]

    def __init__(
        self,
        model: torch.nn.Module,
        device: Any = None,
        avg_fn: Any = None,
        multi_avg_fn: Any = None,
        use_buffers: bool = False,
    ) -> None:
        torch.nn.Module.__init__(self)
        check_functions(avg_fn, multi_avg_fn)
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    # The array version's state_dict is not a module's.
    state_dict = torch.nn.Module.state_dict
    load_state_dict = torch.nn.Module.load_state_dict

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the average."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: torch.nn.Module) -> None:
        """Update the average with the parameters of a module."""
        with torch.no_grad():
            self._update(model)

    def _update(self, model: torch.nn.Module) -> None:
        pairs = _pairs(self._averaged(self.module), self._averaged(model))
        averaged = [mine for mine, _ in pairs]
        current = [theirs.to(mine.device) for mine, theirs in pairs]
        for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
            _check_like(c, a, f"parameter {i} of the model")
        buffers = dict(self.module.named_buffers()), dict(model.named_buffers())
        copied = [] if self.use_buffers else _pairs(*buffers, whole=True)
        for i, (mine, theirs) in enumerate(copied):
            _check_like(theirs, mine, f"buffer {i} of the model")
        if self.n_averaged == 0:
            copied += zip(averaged, current, strict=True)
        elif self.avg_fn is None:
            self._move(averaged, current)
        else:
            copied += zip(averaged, self._returned(averaged, current), strict=True)
        for mine, theirs in copied:
            mine.copy_(theirs)
        self.n_averaged += 1

    def _move(self, averaged: list[torch.Tensor], current: list[torch.Tensor]) -> None:
        """Update averages in place, one precision at a time."""
        move = self.multi_avg_fn or get_swa_multi_avg_fn()
        with _undone(() if is_ours(move) else averaged):
            for dtype in dict.fromkeys(a.dtype for a in averaged):
                chosen = [k for k, a in enumerate(averaged) if a.dtype == dtype]
                means = [averaged[k] for k in chosen]
                result = move(means, [current[k] for k in chosen], self.n_averaged)
                check_returned_nothing(result, means)

    def _returned(self, averaged: list[torch.Tensor], current: list[torch.Tensor]) -> list[Any]:
        """The new averages that `avg_fn` returns."""
        avg_fn: Any = self.avg_fn
        values = []
        with _undone(averaged):  # it may change an average itself
            for i, (a, c) in enumerate(zip(averaged, current, strict=True)):
                value = avg_fn(a, c, self.n_averaged.to(a.device))
                check_returned_average(value, i)
                _check_like(value, a, f"the average of parameter {i} that avg_fn returned")
                values.append(value)
        return values

    def _averaged(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        tensors = model.named_parameters()
        both = chain(tensors, model.named_buffers()) if self.use_buffers else tensors
        return {name: tensor.detach() for name, tensor in both}


def _pairs(
    own: dict[str, torch.Tensor], other: dict[str, torch.Tensor], whole: bool = False
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of tensors of an average and of a module, matched by name; a wrapper may have added a
    prefix to all names of one of the two.

    As in torch, a module may lack some of the tensors, unless `whole` is set.
    """
    if not own.keys() & other.keys() and all(map(_is_wrapped, own, other)):
        other = dict(zip(own, other.values(), strict=False))
    expected = own if whole else {name: own[name] for name in own if name in other}
    check_same_names(other, expected, "model")
    return [(own[name], other[name]) for name in expected]


def _is_wrapped(name: str, other: str) -> bool:
    """Whether one of two names is the other with a prefix."""
    return other.endswith(f".{name}") or name.endswith(f".{other}")


def _check_like(value: Any, average: torch.Tensor, what: str) -> None:
    """Refuse a value that cannot be copied into an average without conversion."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} is a {type_name(value)}, expected a tensor")
    if value.is_complex() and not average.is_complex():
        raise TypeError(f"{what} has dtype {value.dtype}, expected {average.dtype}")
    if value.shape != average.shape:
        raise ValueError(f"{what} has shape {tuple(value.shape)}, expected {tuple(average.shape)}")


@contextmanager
def _undone(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Restore the values of tensors if the block raises."""
    kept = [tensor.clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
        raise


def over_module(cls: Any) -> Any:
    """The class of averages of torch modules for this class of averages, possibly a user's."""
    if issubclass(AveragedModule, cls):
        return AveragedModule
    if issubclass(cls, AveragedModule):
        return cls
    if "_over_module" not in vars(cls):
        body = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            # pickle and copy find a class by its name, which is that of the user's class.
            "__reduce_ex__": lambda self, protocol: (_revive, (cls,), self.__getstate__()),
        }
        cls._over_module = type(cls.__name__, (cls, AveragedModule), body)
    return cls._over_module


def _revive(cls: Any) -> Any:
    return object.__new__(over_module(cls))


def update_batch_norms(loader: Iterable[Any], model: torch.nn.Module, device: Any) -> None:
    """Recompute the statistics of batch norms as cumulative averages over the inputs."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        with torch.no_grad():
            for batch in loader:
                inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(inputs if device is None else inputs.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)

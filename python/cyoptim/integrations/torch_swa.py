"""Averages of torch modules."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch

from cyoptim.swa_utils import AveragedModel, check_functions, get_swa_multi_avg_fn


class AveragedModule(AveragedModel, torch.optim.swa_utils.AveragedModel):  # type: ignore[misc]
    """The average of a torch module, a module itself."""

    n_averaged: torch.Tensor

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
        """Take the parameters of a module into the average."""
        with torch.no_grad():
            self._update(model)

    def _update(self, model: torch.nn.Module) -> None:
        averaged, current = self._averaged(self.module), self._averaged(model)
        current = [c.to(a.device) for a, c in zip(averaged, current, strict=False)]
        averaged = averaged[: len(current)]
        if self.n_averaged == 0:
            for a, c in zip(averaged, current, strict=True):
                a.copy_(c)
        elif self.avg_fn is None:
            move = self.multi_avg_fn or get_swa_multi_avg_fn()
            for dtype in dict.fromkeys(a.dtype for a in averaged):
                chosen = [k for k, a in enumerate(averaged) if a.dtype == dtype]
                move([averaged[k] for k in chosen], [current[k] for k in chosen], self.n_averaged)
        else:
            for a, c in zip(averaged, current, strict=True):
                a.copy_(self.avg_fn(a, c, self.n_averaged.to(a.device)))
        if not self.use_buffers:
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                mine.copy_(theirs)
        self.n_averaged += 1

    def _averaged(self, model: torch.nn.Module) -> list[torch.Tensor]:
        tensors = model.parameters()
        both = chain(tensors, model.buffers()) if self.use_buffers else tensors
        return [tensor.detach() for tensor in both]


def over_module(cls: Any) -> Any:
    """The class of averages of torch modules for this class of averages, which may be a user's."""
    if issubclass(AveragedModule, cls):
        return AveragedModule
    if issubclass(cls, AveragedModule):
        return cls
    if "_over_module" not in vars(cls):
        body = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            # pickle and copy find a class by its name, under which there is the user's.
            "__reduce_ex__": lambda self, protocol: (_revive, (cls,), self.__getstate__()),
        }
        cls._over_module = type(cls.__name__, (cls, AveragedModule), body)
    return cls._over_module


def _revive(cls: Any) -> Any:
    return object.__new__(over_module(cls))


def update_batch_norms(loader: Iterable[Any], model: torch.nn.Module, device: Any) -> None:
    """Run the inputs through the module with cumulative averages in its batch norms."""
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

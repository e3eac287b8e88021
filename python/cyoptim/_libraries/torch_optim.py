"""Makes our base classes subclasses of torch's, for code written for torch.optim.

Trainers, wrappers and schedules of torch check ``isinstance(optimizer, torch.optim.Optimizer)``;
they refuse other objects, or silently omit them from accumulation and checkpoints. So our base
classes add torch's to their bases when the first tensor is seen; from then
on every optimizer and schedule is also one of torch's, including those of users' own classes.

Our classes come first, and define every name that torch's define: no code of torch's runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch.autograd import profiler
from torch.optim import lr_scheduler, optimizer

from cyoptim._engine import detour_by_flag
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.plateau import ReduceLROnPlateau
from cyoptim._step.hooks import add_recorder, add_tables
from cyoptim.optimizer import Optimizer

_joining = RLock()  # two threads may see their first tensor at once


def join() -> None:
    """Make our classes subclasses of torch's; torch's hooks and profilers then see our steps."""
    with _joining:
        if issubclass(Optimizer, torch.optim.Optimizer):
            return
        _take_in(Optimizer, torch.optim.Optimizer)
        _take_in(LRScheduler, lr_scheduler.LRScheduler)
        _take_in(ReduceLROnPlateau, lr_scheduler.ReduceLROnPlateau)
        add_tables(optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks)
        add_recorder(_record)
        detour_by_flag(vars(profiler), "_is_profiler_enabled")


def _take_in(ours: Any, theirs: type) -> None:
    try:
        ours.__bases__ = (*ours.__bases__, theirs)
    except TypeError as error:
        raise TypeError(
            f"a class has torch's {theirs.__name__} among its bases before cyoptim's: write "
            f"cyoptim's first, or leave out torch's, whose subclass cyoptim's is ({error})"
        ) from error


@contextmanager
def _record(optimizer: Any, method: str) -> Iterator[None]:
    """Report a call to torch's profilers, as torch's own optimizers do."""
    if not profiler._is_profiler_enabled:
        yield
        return
    with profiler.record_function(f"Optimizer.{method}#{type(optimizer).__name__}.{method}"):
        yield
        if method == "step":
            optimizer._optimizer_step_code()

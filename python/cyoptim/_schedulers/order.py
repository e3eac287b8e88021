"""The order of calls: the optimizer steps before its schedule; a failed step is undone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from cyoptim._engine import step_whole
from cyoptim._schedulers.values import tensor_values
from cyoptim._warnings import warn

_URL = "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
_STEP_OVERRIDDEN = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
    "initialization. Please, make sure to call `optimizer.step()` before "
    f"`lr_scheduler.step()`. See more details at {_URL}"
)
_STEP_NOT_CALLED = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first learning rate of "
    "the schedule is skipped. Call `optimizer.step()` first, then `lr_scheduler.step()`"
)
_GET_LR_CALLED = (
    "To get the last learning rate computed by the scheduler, please use `get_last_lr()`."
)


def whole(step: Callable[..., None]) -> Callable[..., None]:
    """Wrap a ``step`` to undo it if it raises."""

    @functools.wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        call = functools.partial(step, **kwargs) if kwargs else step
        tensors = tensor_values(self.optimizer) if "torch" in sys.modules else ()
        attributes = [vars(part) for part in self._parts()]
        step_whole(self.optimizer, attributes, tensors, call, self, *args)

    return wrapper


@contextmanager
def _raised(scheduler: Any, flag: str) -> Iterator[None]:
    setattr(scheduler, flag, True)
    try:
        yield
    finally:
        setattr(scheduler, flag, False)


def _initial_mode(scheduler: Any) -> AbstractContextManager[None]:
    return _raised(scheduler, "_is_initial")


def _enable_get_lr_call(scheduler: Any) -> AbstractContextManager[None]:
    return _raised(scheduler, "_get_lr_called_within_step")


def warn_outside_step(scheduler: Any) -> None:
    """Warn that get_lr() is not meant for reading the present rate."""
    if not scheduler._get_lr_called_within_step:
        warn(_GET_LR_CALLED)


def _function(step: Any) -> Any:
    return getattr(step, "__func__", step)


def watch_step(optimizer: Any) -> None:
    """Record the present `step`; steps made before the first scheduler do not count."""
    if not hasattr(optimizer, "_watched_step"):
        optimizer._opt_called = False
    optimizer._watched_step = _function(optimizer.step)


def check_order(optimizer: Any) -> None:
    if _is_overridden(optimizer):
        warn(_STEP_OVERRIDDEN)
    elif not optimizer._opt_called:
        warn(_STEP_NOT_CALLED)


def _is_overridden(optimizer: Any) -> bool:
    """Whether `step` was replaced since it was recorded, other than by a wrapper around it."""
    watched = getattr(optimizer, "_watched_step", None)
    step: Any = optimizer.step
    while watched is not None and _function(step) is not watched:
        if not hasattr(step, "__wrapped__"):
            return True
        step = step.__wrapped__
    return False

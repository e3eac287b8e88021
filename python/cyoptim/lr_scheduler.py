"""Learning-rate schedules under torch's names, and a few more.

Call ``scheduler.step()`` after ``optimizer.step()``, once per epoch or once per batch:

>>> import numpy as np
>>> import cyoptim
>>> w = cyoptim.Parameter(np.ones(3))
>>> optimizer = cyoptim.SGD([w], lr=0.1)
>>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
>>> for epoch in range(4):
...     w.grad = 2 * w
...     optimizer.step()
...     scheduler.step()
>>> scheduler.get_last_lr()
[0.025]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyoptim._plots import new_axes
from cyoptim._schedulers.base import EPOCH_DEPRECATION_WARNING, LRScheduler, _LRScheduler
from cyoptim._schedulers.composed import ChainedScheduler, SequentialLR
from cyoptim._schedulers.cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from cyoptim._schedulers.decays import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from cyoptim._schedulers.lambdas import LambdaLR, MultiplicativeLR
from cyoptim._schedulers.order import _enable_get_lr_call, _initial_mode
from cyoptim._schedulers.plateau import ReduceLROnPlateau
from cyoptim._schedulers.warmups import InverseSqrtLR, WarmupCosineLR, WarmupStableDecayLR

__all__ = [
    "EPOCH_DEPRECATION_WARNING",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "InverseSqrtLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
    "WarmupStableDecayLR",
    "_LRScheduler",
    "_enable_get_lr_call",
    "_initial_mode",
    "plot",
]


def plot(scheduler: LRScheduler, n: int, ax: Any = None) -> Any:
    """Plot the present learning rates and those of the next `n` steps.

    Parameters
    ----------
    scheduler : LRScheduler
        Any schedule but :class:`ReduceLROnPlateau`; it does not change.
    n : int
        The number of steps.
    ax : matplotlib.axes.Axes, optional
        Where to draw; new axes by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with one line for each group.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        As :meth:`LRScheduler.preview`.

    Examples
    --------
    >>> import cyoptim, numpy as np
    >>> optimizer = cyoptim.SGD([np.zeros(3)], lr=0.1)
    >>> ax = plot(CosineAnnealingLR(optimizer, T_max=100), 100)  # doctest: +SKIP
    """
    now = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    lrs = [now if len(now) > 1 else now[0], *scheduler.preview(n)]
    if ax is None:
        ax = new_axes()
    lines = ax.plot(range(len(lrs)), lrs)
    ax.set_xlabel("step")
    ax.set_ylabel("learning rate")
    if len(lines) > 1:
        ax.legend(lines, [f"group {i}" for i in range(len(lines))])
    return ax


if not TYPE_CHECKING:  # type checkers know what is missing

    def __getattr__(name):
        from cyoptim._spelling import missing_attribute

        raise missing_attribute(__name__, name, __all__)

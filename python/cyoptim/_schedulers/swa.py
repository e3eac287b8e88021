"""The schedule for averaged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cyoptim._groups.numbers import number, plain
from cyoptim._schedulers.arguments import check_optimizer, check_resumable
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.curves import strategy_of
from cyoptim._schedulers.order import warn_outside_step
from cyoptim._schedulers.states import StateDict
from cyoptim._schedulers.values import Scalar, group_values, per_group
from cyoptim.optimizer import Optimizer


class SWALR(LRScheduler):
    r"""Anneal the learning rate to a constant, at which weights are averaged.

    .. math:: \eta_t = \alpha_t \eta_{swa} + (1 - \alpha_t) \eta_0, \qquad
        \alpha_t = \tfrac12 (1 - \cos(\pi \min(1, t / T)))

    or :math:`\alpha_t = \min(1, t / T)`. It begins from the optimizer's present rate, so another
    schedule may come before it.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    swa_lr : float or list of float
        The final rate :math:`\eta_{swa}`, for all groups or one for each.
    anneal_epochs : int
        The number :math:`T` of epochs to the final rate, >= 0.
    anneal_strategy : {"cos", "linear"}
        The curve :math:`\alpha_t`.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `anneal_strategy` or `anneal_epochs` is invalid, or the length of `swa_lr` is not the
        number of groups.
    TypeError
        If the optimizer is Schedule-Free, as it averages by itself.

    References
    ----------
    .. [1] P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
       Generalization", UAI 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> scheduler = SWALR(SGD([np.zeros(3)], lr=0.5), 0.1, 2, "linear")
    >>> [round(lr, 6) for lr in scheduler.preview(4)]
    [0.3, 0.1, 0.1, 0.1]
    """

    _marks = frozenset({"anneal_epochs"})

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, self)
        optimizer._check_averaged_elsewhere()
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs: int = plain(anneal_epochs)
        if not isinstance(self.anneal_epochs, int) or self.anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        last_epoch = number("last_epoch", last_epoch)
        check_resumable(optimizer, last_epoch)
        values = per_group("swa_lr", optimizer, swa_lr)
        for group, value in zip(optimizer.param_groups, values, strict=True):
            group["swa_lr"] = value
        super().__init__(optimizer, last_epoch)

    def anneal_func(self, progress: float) -> float:
        """The value of :math:`\\alpha` at this share of the epochs."""
        if self._anneal_strategy == "linear":
            return progress
        return (1 - math.cos(math.pi * progress)) / 2

    def _modern(self, state: StateDict) -> StateDict:
        strategy = strategy_of(state.pop("anneal_func", None))
        if strategy is not None:
            state.setdefault("_anneal_strategy", strategy)
        return state

    def get_lr(self) -> list[Scalar]:
        """The learning rates of the epoch that begins."""
        warn_outside_step(self)
        if self._is_initial and self.last_epoch > 0:
            return group_values(self.optimizer, "lr")  # the loaded state has the right rates
        before, now = self._alpha(self.last_epoch - 1), self._alpha(self.last_epoch)
        return [
            _moved(group["lr"], group["swa_lr"], before, now)
            for group in self.optimizer.param_groups
        ]

    def _alpha(self, epoch: int) -> float:
        if self.anneal_epochs == 0:
            # torch sets the last rate at once, and treats it as reached one epoch earlier.
            return 1.0 if epoch >= 0 else 0.0
        return self.anneal_func(max(0.0, min(1.0, epoch / self.anneal_epochs)))


def _moved(lr: Scalar, end: Scalar, before: float, now: float) -> Scalar:
    # The rate has covered the share `before` of the way from an unsaved start: solve for the start.
    start = end if before == 1 else (lr - before * end) / (1 - before)
    return end * now + start * (1 - now)

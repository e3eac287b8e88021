"""The schedule that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, SupportsFloat

from cyoptim._engine import Commit
from cyoptim._groups.numbers import is_masked, number
from cyoptim._schedulers.arguments import check_count, check_optimizer, check_rates
from cyoptim._schedulers.base import EPOCH_DEPRECATION_WARNING, LRScheduler, _collect
from cyoptim._schedulers.states import StateDict
from cyoptim._schedulers.values import group_values, listed, set_value
from cyoptim._warnings import warn
from cyoptim.optimizer import Optimizer

NanPolicy = Literal["bad", "ignore", "raise"]


class ReduceLROnPlateau(LRScheduler):
    r"""Reduce the learning rate when a metric has stopped improving.

    .. math:: \eta \leftarrow \max(f \eta, \eta_{min})

    after more than `patience` epochs in a row without a new best value.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    mode : {"min", "max"}
        Whether a smaller or a larger metric is better.
    factor : float
        The factor :math:`f` of a reduction, < 1.
    patience : int
        The number of bad epochs in a row without a reduction.
    threshold : float
        The least improvement over the best metric.
    threshold_mode : {"rel", "abs"}
        Whether `threshold` is relative to the best metric or absolute.
    cooldown : int
        The number of epochs after a reduction in which bad epochs do not count.
    min_lr : float or list of float
        The bound :math:`\eta_{min}`, for all groups or one for each.
    eps : float
        The least reduction; smaller ones are skipped.
    nan_policy : {"bad", "ignore", "raise"}
        The effect of a metric of NaN: it counts as a bad epoch, changes no counter, or raises
        ValueError.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> scheduler = ReduceLROnPlateau(SGD([np.zeros(3)], lr=1.0), factor=0.5, patience=1)
    >>> scheduler.preview(5, metrics=[0.9, 0.8, 0.8, 0.8, 0.8])
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    _marks = frozenset({"patience", "num_bad_epochs", "best"})

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
        *,
        nan_policy: NanPolicy = "bad",
    ) -> None:
        self.factor: float = number("factor", factor)
        if self.factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        check_optimizer(optimizer, self)
        check_rates(optimizer)
        _check_modes(mode, threshold_mode, nan_policy)
        self.optimizer = optimizer
        self.patience: int = number("patience", patience)
        self.cooldown: int = number("cooldown", cooldown)
        self.eps: float = number("eps", eps)
        self.mode = mode
        self.threshold: float = number("threshold", threshold)
        self.threshold_mode = threshold_mode
        self.nan_policy = nan_policy
        self.mode_worse: float = math.inf if mode == "min" else -math.inf
        self._init_min_lrs(min_lr)
        self.last_epoch: int = 0
        self._last_lr = group_values(optimizer, "lr")
        self._reset()

    def _init_min_lrs(self, min_lr: Any) -> None:
        count = len(self.optimizer.param_groups)
        min_lr = listed(min_lr)
        self.default_min_lr: float | None = None
        if not isinstance(min_lr, (list, tuple)):
            self.default_min_lr = number("min_lr", min_lr)
            min_lr = [self.default_min_lr] * count
        if len(min_lr) != count:
            raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}")
        self.min_lrs: list[float] = [
            number(f"min_lr[{i}]", least) for i, least in enumerate(min_lr)
        ]

    def _reset(self) -> None:
        """Forget the metrics seen so far."""
        self.best: float = self.mode_worse
        self.cooldown_counter: int = 0
        self.num_bad_epochs: int = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether bad epochs do not count at present."""
        return self.cooldown_counter > 0

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:
        """Record the metric of an epoch, and reduce the learning rate if it no longer improves.

        Parameters
        ----------
        metrics : float
            The metric, or an array or tensor of one element.
        epoch : int, optional
            Deprecated: the number of the epoch.

        Raises
        ------
        ValueError
            If the metric is NaN and `nan_policy` is ``"raise"``.
        RuntimeError
            If the number of groups has changed, and `min_lr` has one bound per group.
        """
        current = _as_float(metrics)
        if math.isnan(current) and self.nan_policy == "raise":
            raise ValueError("the metric is NaN, and nan_policy is 'raise'")
        if epoch is None:
            epoch = self.last_epoch + 1
        else:
            epoch = number("epoch", epoch)
            warn(EPOCH_DEPRECATION_WARNING)
        self.last_epoch = epoch
        if not (math.isnan(current) and self.nan_policy == "ignore"):
            self._count(current)
            if self.num_bad_epochs > self.patience:
                self._reduce_lr(epoch)
                self.cooldown_counter = self.cooldown
                self.num_bad_epochs = 0
        self._last_lr = group_values(self.optimizer, "lr")

    def _count(self, current: float) -> None:
        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0

    def _is_better(self, a: float, best: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        relative = self.threshold_mode == "rel"
        bound = best * (1 + sign * self.threshold) if relative else best + sign * self.threshold
        return a > bound if self.mode == "max" else a < bound

    def _reduce_lr(self, epoch: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            self._adopt_groups()
        old_lrs = [float(number("lr", group["lr"])) for group in groups]
        for group, old, least in zip(groups, old_lrs, self.min_lrs, strict=True):
            new = max(old * self.factor, number("min_lrs", least))
            if old - new > self.eps:
                set_value(group, "lr", new)

    def _adopt_groups(self) -> None:
        count = len(self.optimizer.param_groups)
        if self.default_min_lr is None:
            raise RuntimeError(
                f"The number of param groups in the `optimizer` ({count}) differs "
                f"from when `ReduceLROnPlateau` was initialized ({len(self.min_lrs)}), "
                "usually due to a new param group being added to the optimizer. Please "
                "modify the `min_lrs` field to match the length "
                "of the `optimizer` param groups."
            )
        self.min_lrs = [self.default_min_lr] * count

    def _load(self, state: StateDict, commit: Commit) -> None:
        _check_modes(
            state.get("mode", self.mode),
            state.get("threshold_mode", self.threshold_mode),
            state.get("nan_policy", self.nan_policy),
        )
        super()._load(state, commit)

    def preview(
        self, n: int, metrics: float | Sequence[float] | None = None
    ) -> list[float] | list[list[float]]:
        """The learning rates that the next `n` calls of :meth:`step` will set.

        Parameters
        ----------
        n : int
            The number of steps, >= 0.
        metrics : float or sequence of float
            The metric of each step, or one for all.

        Returns
        -------
        list
            As :meth:`LRScheduler.preview`.

        Raises
        ------
        ValueError
            If there are no `metrics`, or not `n` of them.
        """
        count = check_count("n", n)
        if metrics is None:
            raise ValueError(
                "ReduceLROnPlateau follows a metric: give preview(n, metrics=...), one for each "
                "step or one for all"
            )
        metrics = listed(metrics)
        given = list(metrics) if isinstance(metrics, Iterable) else [metrics] * count
        if len(given) != count:
            raise ValueError(f"metrics has {len(given)} values for {count} steps")
        shadow = self._shadow()
        return _collect(shadow.optimizer, [partial(shadow.step, metric) for metric in given])


def _as_float(metric: Any) -> float:
    """A metric as a number; NaN if it is masked."""
    if is_masked(metric) and metric.size == 1:
        return math.nan
    if isinstance(metric, str):
        return float(metric)
    return float(number("the metric", metric))


def _check_modes(mode: str, threshold_mode: str, nan_policy: str) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f"mode {mode} is unknown! (expected 'min' or 'max')")
    if threshold_mode not in ("rel", "abs"):
        raise ValueError(f"threshold mode {threshold_mode} is unknown! (expected 'rel' or 'abs')")
    if nan_policy not in ("bad", "ignore", "raise"):
        raise ValueError(f"nan_policy must be 'bad', 'ignore' or 'raise', got {nan_policy!r}")

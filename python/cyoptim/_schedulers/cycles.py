"""Schedules that cycle the learning rate between bounds, and the momentum against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypedDict

from cyoptim._schedulers.base import (
    LRScheduler,
    StateDict,
    _enable_get_lr_call,
    check_count,
    check_optimizer,
    warn_outside_step,
)
from cyoptim._schedulers.decays import callable_state, cosine, restore_callable
from cyoptim._schedulers.values import Scalar, copied, per_group, shared
from cyoptim.optimizer import Group, Optimizer


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Let the learning rate fall on half a cosine wave, again and again (SGDR).

    .. math::

        \eta_t = \eta_{min} + \frac{\eta_0 - \eta_{min}}{2}
            \left(1 + \cos\frac{\pi T_{cur}}{T_i}\right)

    :math:`T_{cur}` counts the epochs since the last restart, :math:`T_i` is the length of the
    present period.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    T_0 : int
        Epochs of the first period, > 0.
    T_mult : int
        How many times longer each period is than the one before, >= 1.
    eta_min : float
        The least learning rate.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    ValueError
        If `T_0` or `T_mult` is no integer in range, or `eta_min` no number.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> scheduler = CosineAnnealingWarmRestarts(SGD([np.zeros(3)], lr=1.0), T_0=2)
    >>> [round(lr, 4) for lr in scheduler.preview(4)]
    [0.5, 1.0, 0.5, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self._locate(last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``T_cur``."""
        warn_outside_step(self)
        return [cosine(base, self.eta_min, self.T_cur / self.T_i) for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next epoch, or to any other.

        Parameters
        ----------
        epoch : float, optional
            The epoch to go to, >= 0; with a fraction, to change the rate within an epoch:
            ``scheduler.step(epoch + batch / batches)``.

        Raises
        ------
        ValueError
            If `epoch` is negative.
        """
        if epoch is not None and epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        self._update_lr(epoch)

    def _update_lr(self, epoch: float | None = None) -> None:
        self._adopt_groups()
        if epoch is None and self.last_epoch >= 0:
            epoch = self.last_epoch + 1
            self._advance()
        else:
            epoch = epoch or 0
            self._locate(epoch)
        self.last_epoch = math.floor(epoch)
        with _enable_get_lr_call(self):
            values = self.get_lr()
        self._set_lrs(values)

    def _advance(self) -> None:
        # Not from last_epoch: T_cur may have a fraction, and users write to it.
        self.T_cur += 1
        if self.T_cur >= self.T_i:
            self.T_cur %= self.T_i
            self.T_i *= self.T_mult

    def _locate(self, epoch: float) -> None:
        restart, self.T_i = 0, self.T_0
        if self.T_mult == 1:
            restart = math.floor(epoch / self.T_0) * self.T_0 if epoch > 0 else 0
        while self.T_mult > 1 and epoch - restart >= self.T_i:
            restart += self.T_i
            self.T_i *= self.T_mult
        self.T_cur: float = epoch - restart

    def _rewind(self) -> None:
        super()._rewind()
        self._locate(-1)


# --- with momentum --------------------------------------------------------------------------------


class _MomentumLR(LRScheduler):
    """Schedules that can cycle the momentum, or the first of the betas."""

    cycle_momentum: bool
    use_beta1: bool

    def _init_momentum(self, optimizer: Optimizer, cycle_momentum: bool) -> None:
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
                raise ValueError(
                    "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
                )
            self.use_beta1 = "betas" in optimizer.defaults

    def _momentums(self) -> list[Scalar]:
        """The momentum of each group at ``last_epoch``."""
        raise NotImplementedError

    def _update_lr(self, epoch: int | None = None) -> None:
        super()._update_lr(epoch)
        if self.cycle_momentum:
            for group, momentum in zip(
                self.optimizer.param_groups, self._momentums(), strict=True
            ):
                self._set_momentum(group, momentum)

    def _set_momentum(self, group: Group, momentum: Scalar) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum

    def _begin_momentum(self, lows: list[Scalar], highs: list[Scalar]) -> None:
        for group, low, high in zip(self.optimizer.param_groups, lows, highs, strict=True):
            self._set_momentum(group, high)
            group["max_momentum"] = high
            group["base_momentum"] = low


class CyclicLR(_MomentumLR):
    r"""Let the learning rate go up and down between two bounds (CLR).

    .. math::

        \eta_t &= \eta_{base} + (\eta_{max} - \eta_{base}) \, x_t \, s \\
        \mu_t &= \mu_{max} - (\mu_{max} - \mu_{base}) \, x_t \, s

    where :math:`x_t` rises from 0 to 1 in `step_size_up` steps and falls back in `step_size_down`,
    and :math:`s` scales the cycles: 1 (``"triangular"``), :math:`2^{1 - c}` in cycle :math:`c`
    (``"triangular2"``), or :math:`\text{gamma}^t` (``"exp_range"``). Step after every batch.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    base_lr, max_lr : float or list of float
        The bounds, for all groups or one for each.
    step_size_up : int
        Steps of the rise, > 0.
    step_size_down : int, optional
        Steps of the fall; as many as of the rise by default.
    mode : {"triangular", "triangular2", "exp_range"}
        How cycles are scaled, unless `scale_fn` says it.
    gamma : float
        The base of ``"exp_range"``.
    scale_fn : callable, optional
        :math:`s` as a function of the cycle's number, which starts from 1, or of the step.
    scale_mode : {"cycle", "iterations"}
        What `scale_fn` is a function of.
    cycle_momentum : bool
        Whether momentum, or the first of the betas, goes down while the learning rate goes up.
    base_momentum, max_momentum : float or list of float
        The bounds of the momentum.
    last_epoch : int
        The last step that is done; -1 to begin.

    Raises
    ------
    ValueError
        If an argument is out of range, or there is no momentum to cycle.

    Notes
    -----
    A state dict holds no `scale_fn`, only the attributes of a callable object.

    References
    ----------
    .. [1] L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> optimizer = SGD([np.zeros(3)], momentum=0.9)
    >>> CyclicLR(optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2).preview(5)
    [0.5, 1.0, 0.5, 0.0, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self._lower_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        self._init_sizes(step_size_up, step_size_up if step_size_down is None else step_size_down)
        if mode not in _SCALES and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        self._init_scale_fn()
        self._init_momentum(optimizer, cycle_momentum)
        if cycle_momentum:
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            self._begin()
        super().__init__(optimizer, last_epoch)

"""Schedules whose learning rate is a starting rate times a factor of the epoch.

(a) Such a schedule has two forms. The closed form, ``base * factor(epoch)``, is exact at any epoch.
    The chained form multiplies the present rate by ``factor(epoch) / factor(epoch - 1)``; so
    several schedules can drive one optimizer, and the user may change the rate between two steps.
(b) A group whose rate is still the result of the closed form at the last epoch gets the closed form
    again, so that rounding errors do not add up. Other groups get the chained form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from cyoptim._arrays.doors import type_name
from cyoptim._engine import Commit
from cyoptim._groups.numbers import number
from cyoptim._schedulers.arguments import check_positive
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.curves import cosine, ramp
from cyoptim._schedulers.order import warn_outside_step
from cyoptim._schedulers.states import StateDict
from cyoptim._schedulers.values import Scalar, copied
from cyoptim.optimizer import Optimizer


class ChainableLR(LRScheduler):
    """Schedules with a closed and a chained form."""

    # In torch these decay when constructed at an epoch of decay, even with last_epoch >= 0.
    _decays_on_resume: ClassVar[bool] = False

    def _factor(self, epoch: int) -> float:
        """The factor of `base_lrs` at an epoch."""
        raise NotImplementedError

    def _closed(self, base: Scalar, epoch: int) -> Scalar:
        return base * self._factor(epoch)

    def _first(self, lr: Scalar) -> Scalar:
        """The rate at epoch 0, from the group's rate before it."""
        return lr * self._factor(0)

    def _chained(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        """The rate at an epoch, from the rate `lr` at the previous epoch."""
        before, now = self._factor(epoch - 1), self._factor(epoch)
        if before == now:
            return copied(lr)
        return lr * (now / before) if before else base * now

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those at the previous epoch."""
        warn_outside_step(self)
        groups = self.optimizer.param_groups
        return [
            self._next(base, group["lr"]) for base, group in zip(self.base_lrs, groups, strict=True)
        ]

    def _next(self, base: Scalar, lr: Scalar) -> Scalar:
        epoch = self.last_epoch
        if epoch <= 0:
            return self._first(lr)
        if self._is_initial:
            return self._resumed(base, lr, epoch)
        if lr == self._closed(base, epoch - 1):
            return self._closed(base, epoch)
        return self._chained(base, lr, epoch)

    def _resumed(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        """With last_epoch >= 0 the optimizer's state, loaded before, already has the right rate,
        unless it has that of the previous epoch."""
        if self._decays_on_resume and lr == self._closed(base, epoch - 1):
            return self._closed(base, epoch)
        return copied(lr)

    def _get_closed_form_lr(self) -> list[Scalar]:
        return [self._closed(base, self.last_epoch) for base in self.base_lrs]


class _PowerLR(ChainableLR):
    """Schedules that count decays by `gamma`."""

    gamma: float

    def _decays(self, epoch: int) -> int:
        raise NotImplementedError

    def _factor(self, epoch: int) -> float:
        return self.gamma ** self._decays(epoch)

    def _chained(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        return lr * self.gamma ** (self._decays(epoch) - self._decays(epoch - 1))


class StepLR(_PowerLR):
    r"""Multiply the learning rate by `gamma` every `step_size` epochs.

    .. math:: \eta_t = \eta_0 \gamma^{\lfloor t / s \rfloor}

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    step_size : int
        Epochs :math:`s` between decays, > 0.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `step_size` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> StepLR(SGD([np.zeros(3)], lr=0.5), step_size=2, gamma=0.5).preview(5)
    [0.5, 0.25, 0.25, 0.125, 0.125]
    """

    _marks = frozenset({"step_size", "gamma"})
    _decays_on_resume = True

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size: int = check_positive("step_size", step_size)
        self.gamma: float = number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return epoch // self.step_size


class MultiStepLR(_PowerLR):
    r"""Multiply the learning rate by `gamma` at each of the `milestones`.

    .. math:: \eta_t = \eta_0 \gamma^{|\{m : m \le t\}|}

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    milestones : iterable of int
        The epochs :math:`m` of the decays. An epoch that occurs twice decays twice.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> MultiStepLR(SGD([np.zeros(3)], lr=0.5), milestones=[2, 3], gamma=0.5).preview(4)
    [0.5, 0.25, 0.125, 0.125]
    """

    _marks = frozenset({"milestones", "gamma"})
    _decays_on_resume = True

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones: Counter[float] = Counter(_epochs(milestones))
        self.gamma: float = number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return sum(count for milestone, count in self.milestones.items() if milestone <= epoch)

    def _load(self, state: StateDict, commit: Commit) -> None:
        # JSON converts the milestones, which are keys, to strings.
        saved = state["milestones"].items()
        milestones = Counter({_epoch(key): n for key, n in saved})
        super()._load({**state, "milestones": milestones}, commit)


def _epochs(milestones: Any) -> list[float]:
    try:
        given = list(milestones)
    except TypeError:
        raise TypeError(
            f"milestones must be a list of epochs, got {type_name(milestones)}: {milestones!r}"
        ) from None
    return [number(f"milestones[{i}]", epoch) for i, epoch in enumerate(given)]


def _epoch(key: Any) -> float:
    number = float(key)
    return int(number) if number.is_integer() else number


class ExponentialLR(_PowerLR):
    r"""Multiply the learning rate by `gamma` every epoch.

    .. math:: \eta_t = \eta_0 \gamma^t

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> ExponentialLR(SGD([np.zeros(3)], lr=1.0), gamma=0.5).preview(3)
    [0.5, 0.25, 0.125]
    """

    _marks = frozenset({"gamma"})

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma: float = number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return epoch


class ConstantLR(ChainableLR):
    r"""Multiply the learning rate by `factor` for the first `total_iters` epochs.

    .. math:: \eta_t = \begin{cases} f \eta_0 & t < T \\ \eta_0 & t \ge T \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    factor : float
        The factor :math:`f`, in [0, 1].
    total_iters : int
        The number :math:`T` of these epochs.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `factor` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> ConstantLR(SGD([np.zeros(3)], lr=1.0), factor=0.5, total_iters=3).preview(4)
    [0.5, 0.5, 1.0, 1.0]
    """

    _marks = frozenset({"factor", "total_iters"})
    _decays_on_resume = True

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.factor: float = number("factor", factor)
        self.total_iters: int = number("total_iters", total_iters)
        if self.factor > 1.0 or self.factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        return self.factor if epoch < self.total_iters else 1.0


class LinearLR(ChainableLR):
    r"""Multiply the learning rate by a factor that changes linearly over `total_iters` epochs.

    .. math:: \eta_t = \eta_0 \left(a + (b - a) \frac{\min(t, T)}{T}\right)

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    start_factor : float
        The factor :math:`a` at epoch 0, in (0, 1].
    end_factor : float
        The factor :math:`b` from epoch :math:`T` on, in [0, 1].
    total_iters : int
        The number :math:`T` of epochs of the change.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If a factor is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> LinearLR(SGD([np.zeros(3)], lr=1.0), start_factor=0.5, total_iters=4).preview(5)
    [0.625, 0.75, 0.875, 1.0, 1.0]
    """

    _marks = frozenset({"start_factor", "end_factor", "total_iters"})

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor: float = number("start_factor", start_factor)
        self.end_factor: float = number("end_factor", end_factor)
        self.total_iters: int = number("total_iters", total_iters)
        if self.start_factor > 1.0 or self.start_factor <= 0:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or "
                "equal to 1."
            )
        if self.end_factor > 1.0 or self.end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        return ramp(epoch, self.total_iters, self.start_factor, self.end_factor)


class PolynomialLR(ChainableLR):
    r"""Decay the learning rate to zero along a polynomial over `total_iters` epochs.

    .. math:: \eta_t = \eta_0 \left(1 - \frac{\min(t, T)}{T}\right)^p

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    total_iters : int
        The number :math:`T` of epochs of the decay, > 0.
    power : float
        The power :math:`p`.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `total_iters` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> PolynomialLR(SGD([np.zeros(3)], lr=1.0), total_iters=4, power=2).preview(5)
    [0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    _marks = frozenset({"total_iters", "power"})

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        self.total_iters: int = check_positive("total_iters", total_iters)
        self.power: float = number("power", power)
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        remaining: float = (1.0 - min(epoch, self.total_iters) / self.total_iters) ** self.power
        return remaining


class CosineAnnealingLR(ChainableLR):
    r"""Move the learning rate between its start and `eta_min` along a cosine wave.

    .. math::

        \eta_t = \eta_{min} + \frac{\eta_0 - \eta_{min}}{2}
            \left(1 + \cos\frac{\pi t}{T_{max}}\right)

    It reaches `eta_min` at :math:`T_{max}`, and rises again if training continues.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    T_max : int
        Epochs of half a wave, > 0.
    eta_min : float
        The least learning rate.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `T_max` is not positive.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017, without the restarts.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> scheduler = CosineAnnealingLR(SGD([np.zeros(3)], lr=1.0), T_max=4)
    >>> [round(lr, 4) for lr in scheduler.preview(5)]
    [0.8536, 0.5, 0.1464, 0.0, 0.1464]
    """

    _marks = frozenset({"T_max", "eta_min"})

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max: int = check_positive("T_max", T_max)
        self.eta_min: float = number("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _closed(self, base: Scalar, epoch: int) -> Scalar:
        return cosine(base, self.eta_min, epoch / self.T_max)

    def _first(self, lr: Scalar) -> Scalar:
        return copied(lr)

    def _chained(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        if (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # A new wave starts from eta_min; the chained form would multiply zero.
            return lr + (base - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        before = 1 + math.cos(math.pi * (epoch - 1) / self.T_max)
        now = 1 + math.cos(math.pi * epoch / self.T_max)
        return now / before * (lr - self.eta_min) + self.eta_min

"""Schedules in which the learning rate is a starting one times a factor of the epoch.

(a) Such a schedule has two forms. The closed one, ``base * factor(epoch)``, is exact at any epoch.
    The chained one multiplies the present rate by ``factor(epoch) / factor(epoch - 1)``; so several
    schedules can drive one optimizer, and the user may change the rate between two steps.
(b) A group that holds what the closed form gave it at the last epoch gets the closed form again:
    rounding does not add up. Any other group gets the chained form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar, Literal, TypeAlias

from cyoptim._schedulers.base import (
    LRScheduler,
    StateDict,
    check_count,
    check_optimizer,
    check_positive,
    take,
    warn_outside_step,
)
from cyoptim._schedulers.values import Scalar, copied, group_values, shared
from cyoptim.optimizer import Optimizer

EpochFunction: TypeAlias = Callable[[int], float]


# --- factors of the epoch -------------------------------------------------------------------------


def ramp(epoch: float, length: float, start: float, end: float = 1.0) -> float:
    """From `start` to `end` in a straight line over `length` epochs, then `end`."""
    return end if epoch >= length else start + (end - start) * epoch / length


def cosine(start: Scalar, end: Scalar, progress: float) -> Scalar:
    """From `start` to `end` on half a cosine wave while `progress` goes from 0 to 1."""
    weight = (1 + math.cos(math.pi * progress)) / 2
    return start * weight + end * (1 - weight)


def check_fraction(name: str, value: float) -> None:
    """Refuse a factor outside of [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")


class ChainableLR(LRScheduler):
    """Schedules that have a closed and a chained form."""

    # torch lets these decay when constructed at an epoch of decay, even with last_epoch >= 0.
    _decays_on_resume: ClassVar[bool] = False

    def _factor(self, epoch: int) -> float:
        """What `base_lrs` are multiplied by at an epoch."""
        raise NotImplementedError

    def _closed(self, base: Scalar, epoch: int) -> Scalar:
        return base * self._factor(epoch)

    def _first(self, lr: Scalar) -> Scalar:
        """At epoch 0, from the rate that the group had before."""
        return lr * self._factor(0)

    def _chained(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        """At an epoch, from the rate `lr` at the epoch before it."""
        before, now = self._factor(epoch - 1), self._factor(epoch)
        if before == now:
            return copied(lr)
        return lr * (now / before) if before else base * now

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those at the epoch before it."""
        warn_outside_step(self)
        groups = self.optimizer.param_groups
        return [
            self._next(base, group["lr"])
            for base, group in zip(self.base_lrs, groups, strict=True)
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
        """With last_epoch >= 0 the optimizer's state, loaded before, has the right rate already."""
        if self._decays_on_resume and lr != self._closed(base, epoch):
            return self._chained(base, lr, epoch)
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
        Whose groups are driven.
    step_size : int
        Epochs :math:`s` from one decay to the next, > 0.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last epoch that is done; -1 to begin.

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

    _decays_on_resume = True

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        check_positive("step_size", step_size)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return epoch // self.step_size


class MultiStepLR(_PowerLR):
    r"""Multiply the learning rate by `gamma` at each of the `milestones`.

    .. math:: \eta_t = \eta_0 \gamma^{|\{m : m \le t\}|}

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    milestones : iterable of int
        The epochs :math:`m` of the decays. One that is given twice decays twice.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> MultiStepLR(SGD([np.zeros(3)], lr=0.5), milestones=[2, 3], gamma=0.5).preview(4)
    [0.5, 0.25, 0.125, 0.125]
    """

    _decays_on_resume = True

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return sum(count for milestone, count in self.milestones.items() if milestone <= epoch)

    def _load(self, state: StateDict) -> None:
        # JSON turns the milestones, which are keys, into strings.
        saved = take(state, "milestones", self).items()
        super()._load({**state, "milestones": Counter({_epoch(key): n for key, n in saved})})


def _epoch(key: Any) -> float:
    number = float(key)
    return int(number) if number.is_integer() else number


class ExponentialLR(_PowerLR):
    r"""Multiply the learning rate by `gamma` every epoch.

    .. math:: \eta_t = \eta_0 \gamma^t

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    gamma : float
        Factor :math:`\gamma` of a decay.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> ExponentialLR(SGD([np.zeros(3)], lr=1.0), gamma=0.5).preview(3)
    [0.5, 0.25, 0.125]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _decays(self, epoch: int) -> int:
        return epoch


class ConstantLR(ChainableLR):
    r"""Multiply the learning rate by `factor` for the first `total_iters` epochs.

    .. math:: \eta_t = \begin{cases} f \eta_0 & t < T \\ \eta_0 & t \ge T \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    factor : float
        The factor :math:`f`, in [0, 1].
    total_iters : int
        Epochs :math:`T` that it lasts.
    last_epoch : int
        The last epoch that is done; -1 to begin.

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

    _decays_on_resume = True

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        return self.factor if epoch < self.total_iters else 1.0


class LinearLR(ChainableLR):
    r"""Multiply the learning rate by a factor that changes linearly over `total_iters` epochs.

    .. math:: \eta_t = \eta_0 \left(a + (b - a) \frac{\min(t, T)}{T}\right)

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    start_factor : float
        The factor :math:`a` at epoch 0, in (0, 1].
    end_factor : float
        The factor :math:`b` from epoch :math:`T` on, in [0, 1].
    total_iters : int
        Epochs :math:`T` that the change takes.
    last_epoch : int
        The last epoch that is done; -1 to begin.

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

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or "
                "equal to 1."
            )
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        return ramp(epoch, self.total_iters, self.start_factor, self.end_factor)


class PolynomialLR(ChainableLR):
    r"""Let the learning rate go to zero along a polynomial over `total_iters` epochs.

    .. math:: \eta_t = \eta_0 \left(1 - \frac{\min(t, T)}{T}\right)^p

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    total_iters : int
        Epochs :math:`T` that the decay takes, > 0.
    power : float
        The power :math:`p`.
    last_epoch : int
        The last epoch that is done; -1 to begin.

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

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        check_positive("total_iters", total_iters)
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        remaining: float = (1.0 - min(epoch, self.total_iters) / self.total_iters) ** self.power
        return remaining


class CosineAnnealingLR(ChainableLR):
    r"""Let the learning rate swing between its start and `eta_min` on a cosine wave.

    .. math::

        \eta_t = \eta_{min} + \frac{\eta_0 - \eta_{min}}{2}
            \left(1 + \cos\frac{\pi t}{T_{max}}\right)

    It reaches `eta_min` at :math:`T_{max}`, and rises again if the training goes on.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    T_max : int
        Epochs of half a wave, > 0.
    eta_min : float
        The least learning rate.
    last_epoch : int
        The last epoch that is done; -1 to begin.

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

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        check_positive("T_max", T_max)
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _closed(self, base: Scalar, epoch: int) -> Scalar:
        return cosine(base, self.eta_min, epoch / self.T_max)

    def _first(self, lr: Scalar) -> Scalar:
        return copied(lr)

    def _chained(self, base: Scalar, lr: Scalar, epoch: int) -> Scalar:
        if (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # The wave starts anew from eta_min, where there is nothing left to multiply.
            return lr + (base - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        before = 1 + math.cos(math.pi * (epoch - 1) / self.T_max)
        now = 1 + math.cos(math.pi * epoch / self.T_max)
        return now / before * (lr - self.eta_min) + self.eta_min


# --- with a warm-up -------------------------------------------------------------------------------


class WarmupCosineLR(ChainableLR):
    r"""Let the learning rate rise linearly, then fall on half a cosine wave.

    .. math::

        \eta_t = \eta_0 \begin{cases}
            a + (1 - a) t / W & t < W \\
            b + \frac{1 - b}{2} \left(1 + \cos\frac{\pi (t - W)}{T - W}\right) & W \le t < T \\
            b & t \ge T \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    warmup_steps : int
        Epochs :math:`W` of the rise, >= 0.
    total_steps : int
        Epochs :math:`T` of rise and fall together, > `warmup_steps`.
    start_factor : float
        The factor :math:`a` at epoch 0, in [0, 1].
    end_factor : float
        The factor :math:`b` at the end, in [0, 1].
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] P. Goyal et al., "Accurate, large minibatch SGD: Training ImageNet in 1 hour", 2017,
       for the warm-up.
    .. [2] I. Loshchilov, F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017, for the cosine.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> scheduler = WarmupCosineLR(SGD([np.zeros(3)], lr=1.0), warmup_steps=2, total_steps=6)
    >>> [round(lr, 4) for lr in scheduler.preview(7)]
    [0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = check_count("warmup_steps", warmup_steps)
        self.total_steps = check_count("total_steps", total_steps, self.warmup_steps + 1)
        check_fraction("start_factor", start_factor)
        check_fraction("end_factor", end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        after = epoch - self.warmup_steps
        if after < 0:
            return ramp(epoch, self.warmup_steps, self.start_factor)
        progress = min(1.0, after / (self.total_steps - self.warmup_steps))
        factor: float = cosine(1.0, self.end_factor, progress)
        return factor


DecayShape = Literal["cosine", "linear", "1-sqrt"]

_DECAY_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}


class WarmupStableDecayLR(ChainableLR):
    r"""Let the learning rate rise linearly, stay, and fall at the end (WSD).

    .. math::

        \eta_t = \eta_0 \begin{cases}
            a + (1 - a) t / W & t < W \\
            1 & W \le t < W + S \\
            b + (1 - b) d\!\left(\frac{t - W - S}{D}\right) & W + S \le t < W + S + D \\
            b & t \ge W + S + D \end{cases}

    with :math:`d(x)` one of :math:`(1 + \cos \pi x) / 2`, :math:`1 - x`, :math:`1 - \sqrt x`.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    warmup_steps : int
        Epochs :math:`W` of the rise, >= 0.
    stable_steps : int
        Epochs :math:`S` at the full learning rate, >= 0.
    decay_steps : int
        Epochs :math:`D` of the fall, >= 1.
    start_factor : float
        The factor :math:`a` at epoch 0, in [0, 1].
    end_factor : float
        The factor :math:`b` at the end, in [0, 1].
    decay : {"cosine", "linear", "1-sqrt"}
        The shape :math:`d` of the fall.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] S. Hu et al., "MiniCPM: Unveiling the potential of small language models with scalable
       training strategies", COLM 2024.
    .. [2] A. Hägele et al., "Scaling laws and compute-optimal training beyond fixed training
       durations", NeurIPS 2024, for ``"1-sqrt"``.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> optimizer = SGD([np.zeros(3)], lr=1.0)
    >>> WarmupStableDecayLR(optimizer, 2, 2, 4, decay="linear").preview(8)
    [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        decay: DecayShape = "cosine",
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = check_count("warmup_steps", warmup_steps)
        self.stable_steps = check_count("stable_steps", stable_steps)
        self.decay_steps = check_count("decay_steps", decay_steps, 1)
        check_fraction("start_factor", start_factor)
        check_fraction("end_factor", end_factor)
        if decay not in _DECAY_SHAPES:
            raise ValueError(f"decay must be one of {', '.join(_DECAY_SHAPES)}, got {decay!r}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.decay = decay
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        after = epoch - self.warmup_steps - self.stable_steps
        if after < 0:
            return ramp(epoch, self.warmup_steps, self.start_factor)
        remaining = _DECAY_SHAPES[self.decay](min(1.0, after / self.decay_steps))
        return self.end_factor + (1 - self.end_factor) * remaining


class InverseSqrtLR(ChainableLR):
    r"""Let the learning rate rise linearly, then fall with the square root of the epoch.

    .. math::

        \eta_t = \eta_0 \begin{cases}
            a + (1 - a) t / W & t < W \\
            \sqrt{\tau / (\tau + t - W)} & t \ge W \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    warmup_steps : int
        Epochs :math:`W` of the rise, >= 0.
    timescale : int, optional
        :math:`\tau`, > 0: that many epochs after the warm-up, the rate has fallen by
        :math:`\sqrt 2`. The default is `warmup_steps`, as in the paper, or 10,000 if that is 0.
    start_factor : float
        The factor :math:`a` at epoch 0, in [0, 1].
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention is all you need", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> InverseSqrtLR(SGD([np.zeros(3)], lr=1.0), warmup_steps=1).preview(4)[3]
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        timescale: int | None = None,
        start_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = check_count("warmup_steps", warmup_steps)
        self.timescale = self.warmup_steps or 10_000 if timescale is None else timescale
        check_positive("timescale", self.timescale)
        check_fraction("start_factor", start_factor)
        self.start_factor = start_factor
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        after = epoch - self.warmup_steps
        if after < 0:
            return ramp(epoch, self.warmup_steps, self.start_factor)
        return math.sqrt(self.timescale / (self.timescale + after))


# --- factors that the user gives ------------------------------------------------------------------


def callable_state(function: Any) -> dict[str, Any] | None:
    """What a state dict keeps of a user's callable: an object's attributes, of functions nothing."""
    functions = (FunctionType, MethodType, BuiltinFunctionType)
    if isinstance(function, functions) or not hasattr(function, "__dict__"):
        return None
    return dict(vars(function))


def restore_callable(function: Any, state: dict[str, Any] | None) -> None:
    """Give a user's callable the attributes that were saved of it."""
    if state is not None:
        vars(function).update(state)


class _LambdasLR(LRScheduler):
    """Schedules with a function of the user for each group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: EpochFunction | Sequence[EpochFunction],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.lr_lambdas = _one_per_group(optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def _adopt_groups(self) -> None:
        super()._adopt_groups()
        self._extend_lambdas(len(self.optimizer.param_groups))

    def _extend_lambdas(self, count: int) -> None:
        while len(self.lr_lambdas) < count:
            self.lr_lambdas.append(shared(self.lr_lambdas, "lr_lambdas"))

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and functions; see :meth:`LRScheduler.state_dict`."""
        states = [callable_state(function) for function in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": states}

    def _load(self, state: StateDict) -> None:
        saved = take(state, "lr_lambdas", self)
        self._extend_lambdas(len(saved))
        super()._load(state)
        for function, attributes in zip(self.lr_lambdas, saved, strict=False):
            restore_callable(function, attributes)


def _one_per_group(
    optimizer: Optimizer, lr_lambda: EpochFunction | Sequence[EpochFunction]
) -> list[EpochFunction]:
    count = len(optimizer.param_groups)
    if isinstance(lr_lambda, (list, tuple)):
        if len(lr_lambda) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(lr_lambda)}")
        functions = list(lr_lambda)
    else:
        functions = [lr_lambda] * count
    for function in functions:
        if not callable(function):
            raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
    return functions


class LambdaLR(_LambdasLR):
    r"""Multiply the starting learning rate by a function of the epoch.

    .. math:: \eta_t = \eta_0 f(t)

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    TypeError
        If `lr_lambda` cannot be called.
    ValueError
        If there are not as many functions as groups.

    Notes
    -----
    A state dict holds no functions, only the attributes of callable objects.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> LambdaLR(SGD([np.zeros(3)], lr=1.0), lambda epoch: 1 / (1 + epoch)).preview(3)
    [0.5, 0.3333333333333333, 0.25]
    """

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``."""
        warn_outside_step(self)
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class MultiplicativeLR(_LambdasLR):
    r"""Multiply the learning rate by a function of the epoch, at every epoch.

    .. math:: \eta_t = \eta_{t-1} f(t)

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    TypeError
        If `lr_lambda` cannot be called.
    ValueError
        If there are not as many functions as groups.

    Notes
    -----
    A state dict holds no functions, only the attributes of callable objects.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> MultiplicativeLR(SGD([np.zeros(3)], lr=1.0), lambda epoch: 0.5).preview(3)
    [0.5, 0.25, 0.125]
    """

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those at the epoch before it."""
        warn_outside_step(self)
        if self._is_initial:
            return group_values(self.optimizer, "lr")
        pairs = zip(self.optimizer.param_groups, self.lr_lambdas, strict=True)
        return [group["lr"] * function(self.last_epoch) for group, function in pairs]

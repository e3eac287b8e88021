"""Schedules that begin with a rise from a small learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from cyoptim._schedulers.arguments import check_count, check_fraction, check_positive
from cyoptim._schedulers.curves import cosine, ramp
from cyoptim._schedulers.decays import ChainableLR
from cyoptim.optimizer import Optimizer


class WarmupCosineLR(ChainableLR):
    r"""Increase the learning rate linearly, then decay it along half a cosine wave.

    .. math::

        \eta_t = \eta_0 \begin{cases}
            a + (1 - a) t / W & t < W \\
            b + \frac{1 - b}{2} \left(1 + \cos\frac{\pi (t - W)}{T - W}\right) & W \le t < T \\
            b & t \ge T \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    warmup_steps : int
        Epochs :math:`W` of the rise, >= 0.
    total_steps : int
        Epochs :math:`T` of rise and fall together, > `warmup_steps`.
    start_factor : float
        The factor :math:`a` at epoch 0, in [0, 1].
    end_factor : float
        The factor :math:`b` at the end, in [0, 1].
    last_epoch : int
        The last completed epoch; -1 to begin.

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

    _marks = frozenset({"warmup_steps", "total_steps", "start_factor", "end_factor"})

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps: int = check_count("warmup_steps", warmup_steps)
        self.total_steps: int = check_count("total_steps", total_steps, self.warmup_steps + 1)
        self.start_factor: float = check_fraction("start_factor", start_factor)
        self.end_factor: float = check_fraction("end_factor", end_factor)
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
    r"""Increase the learning rate linearly, keep it, and decay it at the end (WSD).

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
        The optimizer whose learning rates it sets.
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
        The last completed epoch; -1 to begin.

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

    _marks = frozenset({"warmup_steps", "stable_steps", "decay_steps", "decay"})

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
        self.warmup_steps: int = check_count("warmup_steps", warmup_steps)
        self.stable_steps: int = check_count("stable_steps", stable_steps)
        self.decay_steps: int = check_count("decay_steps", decay_steps, 1)
        self.start_factor: float = check_fraction("start_factor", start_factor)
        self.end_factor: float = check_fraction("end_factor", end_factor)
        if decay not in _DECAY_SHAPES:
            raise ValueError(f"decay must be one of {', '.join(_DECAY_SHAPES)}, got {decay!r}")
        self.decay = decay
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        after = epoch - self.warmup_steps - self.stable_steps
        if after < 0:
            return ramp(epoch, self.warmup_steps, self.start_factor)
        remaining = _DECAY_SHAPES[self.decay](min(1.0, after / self.decay_steps))
        return self.end_factor + (1 - self.end_factor) * remaining


class InverseSqrtLR(ChainableLR):
    r"""Increase the learning rate linearly, then decay it with the square root of the epoch.

    .. math::

        \eta_t = \eta_0 \begin{cases}
            a + (1 - a) t / W & t < W \\
            \sqrt{\tau / (\tau + t - W)} & t \ge W \end{cases}

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    warmup_steps : int
        Epochs :math:`W` of the rise, >= 0.
    timescale : int, optional
        :math:`\tau`, > 0: the number of epochs after the warm-up in which the rate falls by a
        factor of :math:`\sqrt 2`. The default is `warmup_steps`, as in the paper, or 10,000 if
        that is 0.
    start_factor : float
        The factor :math:`a` at epoch 0, in [0, 1].
    last_epoch : int
        The last completed epoch; -1 to begin.

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

    _marks = frozenset({"warmup_steps", "timescale", "start_factor"})

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        timescale: int | None = None,
        start_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps: int = check_count("warmup_steps", warmup_steps)
        default = self.warmup_steps or 10_000
        self.timescale: float = check_positive(
            "timescale", default if timescale is None else timescale
        )
        self.start_factor: float = check_fraction("start_factor", start_factor)
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch: int) -> float:
        after = epoch - self.warmup_steps
        if after < 0:
            return ramp(epoch, self.warmup_steps, self.start_factor)
        return math.sqrt(self.timescale / (self.timescale + after))

"""Schedules that cycle the learning rate between bounds, and the momentum against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypedDict

from cyoptim._engine import Commit
from cyoptim._groups.numbers import number, plain
from cyoptim._schedulers.arguments import check_optimizer
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.curves import cosine, strategy_of
from cyoptim._schedulers.lambdas import callable_state, restore_callable, returned, saved_callable
from cyoptim._schedulers.order import _enable_get_lr_call, warn_outside_step
from cyoptim._schedulers.states import StateDict
from cyoptim._schedulers.values import Scalar, copied, per_group, set_value, shared
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Decay the learning rate along half a cosine wave, repeatedly (SGDR).

    .. math::

        \eta_t = \eta_{min} + \frac{\eta_0 - \eta_{min}}{2}
            \left(1 + \cos\frac{\pi T_{cur}}{T_i}\right)

    :math:`T_{cur}` counts the epochs since the last restart, :math:`T_i` is the length of the
    present period.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    T_0 : int
        Epochs of the first period, > 0.
    T_mult : int
        The ratio of each period to the previous one, >= 1.
    eta_min : float
        The least learning rate.
    last_epoch : int
        The last completed epoch; -1 to begin.

    Raises
    ------
    ValueError
        If `T_0` or `T_mult` is not an integer in range, or `eta_min` not a number.

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

    _marks = frozenset({"T_0", "T_i", "T_mult", "T_cur", "eta_min"})

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_0: int = plain(T_0)
        self.T_mult: int = plain(T_mult)
        self.eta_min: float = plain(eta_min)
        if not isinstance(self.T_0, int) or self.T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(self.T_mult, int) or self.T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(self.eta_min, (float, int)):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        last_epoch = number("last_epoch", last_epoch)
        self._locate(last_epoch)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``T_cur``."""
        warn_outside_step(self)
        return [cosine(base, self.eta_min, self.T_cur / self.T_i) for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Advance to the next epoch, or to any other.

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
        if epoch is not None:
            epoch = number("epoch", epoch)
            if epoch < 0:
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
        self.last_epoch: int = math.floor(epoch)
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
        self.T_cur: float = epoch
        self.T_i: int = self.T_0
        if self.T_mult == 1:
            self.T_cur %= self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult


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
            for group, momentum in zip(self.optimizer.param_groups, self._momentums(), strict=True):
                self._set_momentum(group, momentum)

    def _set_momentum(self, group: Group, momentum: Scalar) -> None:
        momentum = number("momentum", momentum)
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
    r"""Move the learning rate up and down between two bounds (CLR).

    .. math::

        \eta_t &= \eta_{base} + (\eta_{max} - \eta_{base}) \, x_t \, s \\
        \mu_t &= \mu_{max} - (\mu_{max} - \mu_{base}) \, x_t \, s

    where :math:`x_t` rises from 0 to 1 in `step_size_up` steps and falls back in `step_size_down`,
    and :math:`s` scales the cycles: 1 (``"triangular"``), :math:`2^{1 - c}` in cycle :math:`c`
    (``"triangular2"``), or :math:`\text{gamma}^t` (``"exp_range"``). Step after every batch.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    base_lr, max_lr : float or list of float
        The bounds, for all groups or one for each.
    step_size_up : int
        Steps of the rise, > 0.
    step_size_down : int, optional
        Steps of the fall; by default those of the rise.
    mode : {"triangular", "triangular2", "exp_range"}
        The scale of cycles, unless `scale_fn` is given.
    gamma : float
        The base of ``"exp_range"``.
    scale_fn : callable, optional
        :math:`s` as a function of the number of the cycle, from 1, or of the step.
    scale_mode : {"cycle", "iterations"}
        The argument of `scale_fn`.
    cycle_momentum : bool
        Whether momentum, or the first of the betas, goes down while the learning rate goes up.
    base_momentum, max_momentum : float or list of float
        The bounds of the momentum.
    last_epoch : int
        The last completed step; -1 to begin.

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

    _marks = frozenset({"total_size", "step_ratio", "mode"})

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
        check_optimizer(optimizer, self)
        self.optimizer = optimizer
        last_epoch = number("last_epoch", last_epoch)
        base_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs: list[float] = per_group("max_lr", optimizer, max_lr)
        self._init_sizes(step_size_up, step_size_up if step_size_down is None else step_size_down)
        if mode not in _SCALES and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma: float = number("gamma", gamma)
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        self._init_scale_fn()
        self._init_momentum(optimizer, cycle_momentum)
        if cycle_momentum:
            self.base_momentums: list[float] = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums: list[float] = per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                set_value(group, "lr", lr)
            if cycle_momentum:
                self._begin_momentum(self.base_momentums, self.max_momentums)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def _init_sizes(self, up: float, down: float) -> None:
        up, down = number("step_size_up", up), number("step_size_down", down)
        if not up > 0 or not down >= 0:
            raise ValueError(
                "step_size_up must be positive and step_size_down not negative, "
                f"got {up} and {down}"
            )
        self.total_size: float = float(up) + float(down)
        self.step_ratio: float = float(up) / self.total_size

    _scale_fn_ref: Callable[[float], float]

    def _init_scale_fn(self) -> None:
        if self._scale_fn_custom is None:
            vars(self).update(_scale_attributes(self.mode, self.gamma))

    def scale_fn(self, x: float) -> float:
        """The scale of a cycle.

        Parameters
        ----------
        x : float
            The number of the cycle, from 1, or of the step, depending on `scale_mode`.

        Returns
        -------
        float
            A factor of the distance between the bounds.
        """
        if self._scale_fn_custom is not None:
            factor: float = returned(self._scale_fn_custom(x), "scale_fn", x)
            return factor
        return self._scale_fn_ref(x)

    def _height(self) -> float:
        """The position of the present step between the bounds, from 0 to 1."""
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        rising = x <= self.step_ratio
        height = x / self.step_ratio if rising else (x - 1) / (self.step_ratio - 1)
        return height * self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``."""
        warn_outside_step(self)
        height = self._height()
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        return [low + (high - low) * height for low, high in pairs]

    def _momentums(self) -> list[Scalar]:
        height = self._height()
        pairs = zip(self.base_momentums, self.max_momentums, strict=True)
        return [high - (high - low) * height for low, high in pairs]

    def _adopt_groups(self) -> None:
        groups = self.optimizer.param_groups
        if len(self.max_lrs) == len(groups):  # the last list to grow
            return
        momenta = ["base_momentums", "max_momentums"] if self.cycle_momentum else []
        for name in (*momenta, "base_lrs", "max_lrs"):
            values = getattr(self, name)
            values += [shared(values, name) for _ in groups[len(values) :]]
        for group, lr in zip(groups, self.base_lrs, strict=False):
            group.setdefault("initial_lr", copied(lr))

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and `scale_fn`; see :meth:`LRScheduler.state_dict`."""
        return {**super().state_dict(), "_scale_fn_custom": callable_state(self._scale_fn_custom)}

    def _modern(self, state: StateDict) -> StateDict:
        # In old states the function itself, the user's or that of the mode.
        saved = state.pop("scale_fn", None)
        state.pop("_scale_fn_ref", None)
        state["_scale_fn_custom"] = saved_callable(state.get("_scale_fn_custom", saved))
        return state

    def _load(self, state: StateDict, commit: Commit) -> None:
        saved = state.pop("_scale_fn_custom")
        if saved is not None and self._scale_fn_custom is None:
            raise ValueError("the state was saved with a scale_fn; construct with one to load it")
        super()._load(state, commit)
        restore_callable(self._scale_fn_custom, saved, commit)
        if self._scale_fn_custom is None:
            mode, gamma = state.get("mode", self.mode), state.get("gamma", self.gamma)
            commit.update(vars(self), _scale_attributes(mode, gamma))


def _scale_attributes(mode: str, gamma: float) -> dict[str, Any]:
    """The scale of cycles without a function of the user."""
    if mode not in _SCALES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(_SCALES)}")
    by_step = mode == "exp_range"
    return {
        "scale_mode": "iterations" if by_step else "cycle",
        "_scale_fn_ref": partial(_SCALES[mode], gamma) if by_step else _SCALES[mode],
    }


def _triangular(cycle: float) -> float:
    return 1.0


def _triangular2(cycle: float) -> float:
    factor: float = 2.0 ** (1 - cycle)
    return factor


def _exp_range(gamma: float, step: float) -> float:
    factor: float = gamma**step
    return factor


_SCALES: dict[str, Callable[..., float]] = {
    "triangular": _triangular,
    "triangular2": _triangular2,
    "exp_range": _exp_range,
}


class _Phase(TypedDict):
    """A phase of the cycle, between two options of the group."""

    end_step: float
    start_lr: str
    end_lr: str
    start_momentum: str
    end_momentum: str


class OneCycleLR(_MomentumLR):
    r"""Increase the learning rate once to `max_lr`, then decay it far below its start (1cycle).

    It goes from `max_lr` / `div_factor` up to `max_lr`, and down to `max_lr` / (`div_factor` ·
    `final_div_factor`). Step after every batch, `total_steps` times at most.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    max_lr : float or list of float
        The upper bound, for all groups or one for each.
    total_steps : int, optional
        Steps of the cycle; or give both `epochs` and `steps_per_epoch`.
    epochs, steps_per_epoch : int, optional
        Their product is the number of steps.
    pct_start : float
        The share of the steps in which the learning rate rises, in [0, 1].
    anneal_strategy : {"cos", "linear"}
        The curve between two bounds.
    cycle_momentum : bool
        Whether momentum, or the first of the betas, goes down while the learning rate goes up.
    base_momentum, max_momentum : float or list of float
        The bounds of the momentum.
    div_factor : float
        The ratio of the upper bound to the start.
    final_div_factor : float
        The ratio of the start to the end.
    three_phase : bool
        Return to the start in as many steps as the rise, then decay to the end, as in the paper.
    last_epoch : int
        The last completed step; -1 to begin.

    Raises
    ------
    ValueError
        If an argument is out of range, or there is no momentum to cycle; by
        :meth:`LRScheduler.step`, after the last step.

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-convergence: Very fast training of neural networks using
       large learning rates", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import Adam
    >>> optimizer = Adam([np.zeros(3)])
    >>> scheduler = OneCycleLR(optimizer, 1.0, 5, pct_start=0.4, anneal_strategy="linear")
    >>> [round(lr, 3) for lr in scheduler.preview(4)]
    [1.0, 0.667, 0.333, 0.0]
    """

    _marks = frozenset({"total_steps", "_schedule_phases"})

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, self)
        self.optimizer = optimizer
        last_epoch = number("last_epoch", last_epoch)
        self.total_steps: int = _total_steps(total_steps, epochs, steps_per_epoch)
        pct_start = plain(pct_start)
        if not isinstance(pct_start, float) or pct_start < 0 or pct_start > 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        div_factor = number("div_factor", div_factor)
        final_div_factor = number("final_div_factor", final_div_factor)
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_func_type = anneal_strategy
        highs = per_group("max_lr", optimizer, max_lr)
        self._init_momentum(optimizer, cycle_momentum)
        base_momentums = per_group("base_momentum", optimizer, base_momentum)
        max_momentums = per_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, high in zip(optimizer.param_groups, highs, strict=True):
                group["initial_lr"] = high / div_factor
                group["max_lr"] = high
                group["min_lr"] = group["initial_lr"] / final_div_factor
            if cycle_momentum:
                self._begin_momentum(base_momentums, max_momentums)
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def _annealing_cos(start: Scalar, end: Scalar, pct: float) -> Scalar:
        return cosine(start, end, pct)

    @staticmethod
    def _annealing_linear(start: Scalar, end: Scalar, pct: float) -> Scalar:
        return (end - start) * pct + start

    def _modern(self, state: StateDict) -> StateDict:
        strategy = strategy_of(state.pop("anneal_func", None))
        if strategy is not None:
            state.setdefault("_anneal_func_type", strategy)
        return state

    def _anneal_func(self, start: Scalar, end: Scalar, pct: float) -> Scalar:
        if self._anneal_func_type == "cos":
            return self._annealing_cos(start, end, pct)
        return self._annealing_linear(start, end, pct)

    def _place(self) -> tuple[_Phase, float]:
        """The phase of the present step, and the completed share of it."""
        start = 0.0
        for phase in self._schedule_phases:
            if self.last_epoch <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        length = phase["end_step"] - start
        return phase, (self.last_epoch - start) / length if length else 1.0

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``."""
        warn_outside_step(self)
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"Tried to step {self.last_epoch} times. "
                f"The specified number of total steps is {self.total_steps}"
            )
        phase, done = self._place()
        return self._between(phase["start_lr"], phase["end_lr"], done)

    def _momentums(self) -> list[Scalar]:
        phase, done = self._place()
        return self._between(phase["start_momentum"], phase["end_momentum"], done)

    def _between(self, start: str, end: str, done: float) -> list[Scalar]:
        groups = self.optimizer.param_groups
        return [self._anneal_func(group[start], group[end], done) for group in groups]

    def _adopt_groups(self) -> None:
        count = len(self.base_lrs)
        if count == len(self.optimizer.param_groups):
            return
        names = ["initial_lr", "max_lr", "min_lr"]
        if self.cycle_momentum:
            names += ["base_momentum", "max_momentum"]
        before, later = self.optimizer.param_groups[:count], self.optimizer.param_groups[count:]
        for name in names:
            for group in later:
                if name not in group:
                    group[name] = shared([old[name] for old in before], name)
        super()._adopt_groups()


def _total_steps(total: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total is not None:
        return _positive("total_steps", total)
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    return _positive("epochs", epochs) * _positive("steps_per_epoch", steps_per_epoch)


def _positive(name: str, value: Any) -> int:
    found = plain(value)
    if not isinstance(found, int) or found <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {value}")
    return found


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[_Phase]:
    rise = float(pct_start * total_steps) - 1
    last = float(total_steps - 1)
    up = _phase(rise, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three_phase:
        return [up, _phase(last, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    fall = float(2 * pct_start * total_steps) - 2
    return [
        up,
        _phase(fall, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
        _phase(last, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
    ]


def _phase(end_step: float, *bounds: str) -> _Phase:
    start_lr, end_lr, start_momentum, end_momentum = bounds
    return {
        "end_step": end_step,
        "start_lr": start_lr,
        "end_lr": end_lr,
        "start_momentum": start_momentum,
        "end_momentum": end_momentum,
    }

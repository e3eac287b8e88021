"""SGDScheduleFree."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import as_float, check_lr, check_nonnegative, check_number
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._schedule_free import NUMBERS, ScheduleFree


class SGDScheduleFree(ScheduleFree):
    r"""Schedule-Free SGD: an average of the iterates takes the place of a learning-rate schedule.

    .. math::

        y_t &= (1 - \beta) z_t + \beta x_t \\
        z_{t+1} &= z_t - \gamma_t (\pm g_t(y_t) + \lambda y_t) \\
        x_{t+1} &= (1 - c_t) x_t + c_t z_{t+1}, \qquad
            c_t = \frac{w_t}{\sum_{i \le t} w_i}, \quad
            w_t = t^r \max_{i \le t} \gamma_i^{p}

    with :math:`\gamma_t = \gamma \min(1, t / T)` in a warmup of :math:`T` steps. In training the
    parameters hold :math:`y`; the result is :math:`x`, which :meth:`eval` and :meth:`averaged` give
    them. The optimizer begins in evaluation mode: call :meth:`train` before the first step.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0: larger than that of SGD with a schedule.
    momentum : float
        :math:`\beta`, in (0, 1).
    weight_decay : float
        :math:`\lambda`, >= 0: an L2 penalty, at :math:`y`.
    warmup_steps : int
        :math:`T`, >= 0.
    r : float
        :math:`r`: later iterates weigh more in the average if it is > 0.
    weight_lr_power : float
        :math:`p`: how much less an iterate weighs that was made with a small rate.
    foreach : bool, optional
        As in schedulefree; without effect.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``z``, which begins as a copy of the parameter at its own first step. Each group has,
    beside its options, ``train_mode`` and the numbers ``k`` (steps), ``weight_sum``, ``lr_max`` and
    ``scheduled_lr`` (:math:`\gamma_t`), from which :math:`c_t` is computed: a parameter that
    joins its group late gets the group's :math:`c_t`. As in schedulefree, a step counts for each
    group, with or without gradients.

    Arguments, defaults and state are those of schedulefree, whose state dicts load here, and ours
    there; `maximize` is ours. The page "Schedule-Free" of the documentation tells of schedules,
    evaluation and saving.

    References
    ----------
    .. [1] A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = SGDScheduleFree([w], lr=0.1)
    >>> optimizer.train()
    >>> for _ in range(20):
    ...     optimizer.step(grads=[2 * w])
    >>> optimizer.eval()
    >>> bool(abs(w).max() < 0.01)
    True
    """

    _rule: ClassVar[str | None] = "schedule_free_sgd"
    _counts_steps: ClassVar[bool] = False

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2,
        foreach: bool | None = True,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "r": r,
            "warmup_steps": warmup_steps,
            "train_mode": False,
            **NUMBERS,
            "weight_lr_power": weight_lr_power,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_number("momentum", group["momentum"])
        if not 0 < group["momentum"] < 1:
            raise ValueError(f"Momentum must be between 0 and 1 exclusive: {group['momentum']}")
        check_nonnegative("warmup_steps", group["warmup_steps"])
        self._check_numbers(group)

    def _interpolation(self, group: Group) -> float:
        return as_float(group["momentum"])

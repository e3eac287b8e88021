"""AdamWScheduleFree."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import as_float, check_moments, check_nonnegative
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._schedule_free import NUMBERS, ScheduleFree


class AdamWScheduleFree(ScheduleFree):
    r"""Schedule-Free AdamW: an average of the iterates takes the place of a learning-rate schedule.

    .. math::

        y_t &= (1 - \beta_1) z_t + \beta_1 x_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t(y_t)^2 \\
        z_{t+1} &= z_t - \gamma_t \left(\frac{\pm g_t(y_t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
            + \lambda y_t \right) \\
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
        Learning rate :math:`\gamma`, >= 0: once to ten times AdamW's with a schedule.
    betas : tuple of float
        :math:`\beta_1`, in (0, 1), and :math:`\beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0, at :math:`y`.
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
    State: ``step``, ``z``, which begins as a copy of the parameter at its own first step, and
    ``exp_avg_sq`` (:math:`v`). Each group has, beside its options, ``train_mode`` and the numbers
    ``k`` (steps), ``weight_sum``, ``lr_max`` and ``scheduled_lr`` (:math:`\gamma_t`), from which
    :math:`c_t` is computed. A step counts for each group, with or without gradients.

    Arguments, defaults and state are those of schedulefree, whose state dicts load here, and ours
    there; `maximize` is ours, and so is ``step``. There :math:`v` of a parameter that joins late is
    corrected as if it were as old as its group, which makes its first steps up to
    :math:`1 / \sqrt{1 - \beta_2}` times as long. Here its own age counts; :math:`c_t` is the
    group's. The page "Schedule-Free" of the documentation tells of schedules, evaluation and
    saving.

    References
    ----------
    .. [1] A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = AdamWScheduleFree([w], lr=0.1)
    >>> optimizer.train()
    >>> for _ in range(200):
    ...     optimizer.step(grads=[2 * w])
    >>> optimizer.eval()
    >>> bool(abs(w).max() < 0.1)
    True
    """

    _rule: ClassVar[str | None] = "schedule_free_adam"

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = True,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
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
        check_moments(group)
        self._check_betas(group)
        check_nonnegative("warmup_steps", group["warmup_steps"])
        self._check_numbers(group)

    def _interpolation(self, group: Group) -> float:
        return as_float(group["betas"][0])

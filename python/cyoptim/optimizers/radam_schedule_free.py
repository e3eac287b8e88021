"""RAdamScheduleFree."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import as_float, check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._schedule_free import NUMBERS, ScheduleFree


class RAdamScheduleFree(ScheduleFree):
    r"""Schedule-Free RAdam: AdamWScheduleFree with RAdam's rectification as its warmup.

    .. math::

        \rho_t &= \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
            \rho_\infty = \frac{2}{1 - \beta_2} - 1 \\
        \gamma_t &= \gamma \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
            {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \quad \text{if } \rho_t > 4

    Before, :math:`\gamma_t` is 0, or, without `silent_sgd_phase`, :math:`\gamma` for steps along
    the gradient itself. With :math:`\gamma_t` all is as in :class:`cyoptim.AdamWScheduleFree`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1`, in (0, 1), and :math:`\beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0, at :math:`y`.
    r : float
        :math:`r`: later iterates weigh more in the average if it is > 0.
    weight_lr_power : float
        :math:`p`: how much less an iterate weighs that was made with a small rate.
    foreach : bool, optional
        As in schedulefree; without effect.
    silent_sgd_phase : bool
        Move nothing in the first steps, while the variance is not tractable: four with the default
        `betas`.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State, groups and what differs from schedulefree are those of
    :class:`cyoptim.AdamWScheduleFree`: a parameter that joins late is rectified by its own age, the
    weights of its group by the group's.
    torch's RAdam rectifies where :math:`\rho_t > 5`.

    References
    ----------
    .. [1] A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024.
    .. [2] L. Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = RAdamScheduleFree([w], lr=0.5)
    >>> optimizer.train()
    >>> for _ in range(200):
    ...     optimizer.step(grads=[2 * w])
    >>> optimizer.eval()
    >>> bool(abs(w).max() < 0.1)
    True
    """

    _rule: ClassVar[str | None] = "schedule_free_radam"

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        foreach: bool | None = True,
        silent_sgd_phase: bool = True,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "r": r,
            "train_mode": False,
            **NUMBERS,
            "weight_lr_power": weight_lr_power,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "silent_sgd_phase": silent_sgd_phase,
            "maximize": maximize,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        self._check_betas(group)
        self._check_numbers(group)

    def _interpolation(self, group: Group) -> float:
        return as_float(group["betas"][0])

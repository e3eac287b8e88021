"""D-Adaptation of Lion."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._distance import EstimatesDistance, numbers_before_the_first_step


class DAdaptLion(EstimatesDistance):
    r"""Lion with D-Adaptation: its rate is an estimate of the distance to the solution.

    .. math::

        \delta_t &= \gamma d_t \\
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t) \\
        \theta_t &= (1 - \lambda \delta_t) \theta_{t-1} - \delta_t u_t \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) \delta_t g_t \\
        r_t &= \sqrt{\beta_2} \, r_{t-1}
            + (1 - \sqrt{\beta_2}) \, \delta_t \langle u_t, s_{t-1} \rangle \\
        s_t &= \sqrt{\beta_2} \, s_{t-1} + (1 - \sqrt{\beta_2}) \delta_t u_t \\
        d_{t+1} &= \max\left(d_t, \frac{r_t}{(1 - \sqrt{\beta_2}) \lVert s_t \rVert_1}\right)

    The sums are over all parameters that have a gradient, and :math:`d` is one number for all:
    see ``optimizer.param_groups[0]["d"]``. It begins with :math:`d_0`, grows in the first steps
    by orders of magnitude, and then stays. The sign, in :math:`u`, is of a momentum that is
    scaled by :math:`\delta` and a gradient that is not, as in the authors' code: while
    :math:`\delta` is small, the gradient alone decides.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        :math:`\gamma`, >= 0, the factor of the estimate: equal in all groups, or 0 in those that
        are to stand still.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    weight_decay : float
        :math:`\lambda`, >= 0.
    log_every : int
        0: nothing is logged.
    d0 : float
        :math:`d_0`, > 0, the first estimate, equal in all groups; it should be too small. To change
        the estimate later, write ``d`` of the first group.
    fsdp_in_use : bool
        False: parameters are not sharded.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    ValueError
        At a step, too, before anything changes, if groups differ in `lr` (other than 0) or in
        `betas` or `d0`.

    Notes
    -----
    State: ``exp_avg`` (:math:`m`) and ``s``. Groups hold, with the same values in all of them,
    ``d``, ``numerator_weighted`` (:math:`r`) and ``k``, the count of steps. Those of the first
    group count. A parameter that joins late starts with the estimate of the others.

    In contrast to ``dadaptation``, a group whose `lr` is 0 stands still, and its sums do not count:
    there it moves on, and a step with `lr` = 0 in all groups changes averages.

    References
    ----------
    .. [1] A. Defazio and K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023.
    .. [2] X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import cyoptim
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> optimizer = DAdaptLion([w])
    >>> schedule = cyoptim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    >>> for _ in range(1000):
    ...     optimizer.step(grads=[2 * w])
    ...     schedule.step()
    >>> bool(np.abs(w).max() < 1e-3)
    True
    >>> bool(0.1 < optimizer.param_groups[0]["d"] < 10)
    True
    """

    _rule: ClassVar[str | None] = "dadapt_lion"
    _takes_complex: ClassVar[bool] = False
    _counts_steps: ClassVar[bool] = False
    _joint_options: ClassVar[tuple[str, ...]] = ("betas",)
    # Those of the authors' groups.
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "betas",
        "weight_decay",
        "d",
        "numerator_weighted",
    )

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        log_every: int = 0,
        d0: float = 1e-6,
        fsdp_in_use: bool = False,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "log_every": log_every,
            "d0": d0,
            "fsdp_in_use": fsdp_in_use,
            "maximize": maximize,
            **numbers_before_the_first_step(d0, numerator_weighted=0.0),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        self._check_distance(group)

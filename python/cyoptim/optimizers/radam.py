"""RAdam."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class RAdam(Optimizer):
    r"""RAdam: Adam with plain momentum in the first steps, while the variance cannot be estimated.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
                          {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        \theta_t &= \theta_{t-1} - \frac{\gamma m_t}{1 - \beta_1^t} \cdot
            \begin{cases}
                r_t \sqrt{1 - \beta_2^t} / (\sqrt{v_t} + \epsilon) & \rho_t > 5 \\
                1 & \text{otherwise}
            \end{cases}

    where :math:`d_t = \pm g_t + \lambda \theta_{t-1}`; with `decoupled_weight_decay`,
    :math:`d_t = \pm g_t` and :math:`\theta_{t-1}` is first multiplied by
    :math:`1 - \gamma\lambda`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, added to the denominator, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as AdamW does.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [3]_. Requires
        decoupled weight decay.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`).

    References
    ----------
    .. [1] L. Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = RAdam([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.8, -1.6])
    """

    _rule: ClassVar[str | None] = "radam"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, capturable=capturable, differentiable=differentiable
            ),
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)

"""Adamax."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Adamax(Optimizer):
    r"""Adamax: Adam with the infinity norm of past gradients instead of their mean square.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        u_t &= \max(\beta_2 u_{t-1}, |d_t| + \epsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} \frac{m_t}{u_t}

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_inf`` (:math:`u`).

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = Adamax([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _rule: ClassVar[str | None] = "adamax"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, differentiable=differentiable, capturable=capturable
            ),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)

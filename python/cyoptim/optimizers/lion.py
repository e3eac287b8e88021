"""Lion."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import (
    Switches,
    all_switches,
    check_betas,
    check_lr,
    check_nonnegative,
)
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Lion(Optimizer):
    r"""Lion: each element moves by the learning rate, along the sign of its momentum.

    .. math::

        u_t &= \operatorname{sign}(\beta_1 m_{t-1} \pm (1 - \beta_1) g_t) \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma u_t \\
        m_t &= \beta_2 m_{t-1} \pm (1 - \beta_2) g_t

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`. Not
        complex.
    lr : float
        Learning rate :math:`\gamma`, >= 0: a third to a tenth of AdamW's.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    weight_decay : float
        :math:`\lambda`, >= 0, apart from the gradient: three to ten times AdamW's.
    maximize : bool
        Follow the gradient upwards.
    **switches
        ``foreach``, ``fused``, ``capturable``, ``differentiable``, as in :class:`cyoptim.AdamW`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`). The sign of zero is zero, and that of NaN is NaN.

    References
    ----------
    .. [1] X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> Lion([w], lr=0.1).step(grads=[2 * w])
    >>> w
    array([ 0.9, -1.9])
    """

    _rule: ClassVar[str | None] = "lion"
    _takes_complex: ClassVar[bool] = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **switches: Unpack[Switches],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        self._check_options(defaults)
        super().__init__(params, defaults | all_switches(**switches))

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_betas(group["betas"])
        check_nonnegative("weight_decay", group["weight_decay"])

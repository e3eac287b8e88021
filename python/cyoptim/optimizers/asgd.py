"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_finite, check_lr, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent.

    .. math::

        \theta_t &= (1 - \lambda_d \eta_t) \theta_{t-1} - \eta_t d_t, \qquad
            d_t = \pm g_t + \lambda \theta_{t-1} \\
        \bar\theta_t &= \bar\theta_{t-1} + \mu_t (\theta_t - \bar\theta_{t-1}) \\
        \eta_{t+1} &= \gamma / (1 + \lambda_d \gamma t)^\alpha, \qquad
        \mu_{t+1} = 1 / \max(1, t - t_0)

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    lambd : float
        Decay :math:`\lambda_d`.
    alpha : float
        Power :math:`\alpha` of the decay of the learning rate.
    t0 : float
        Step :math:`t_0` at which averaging begins.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``eta`` and ``mu`` (of the next step, in float32), ``ax``
    (:math:`\bar\theta`, the result).

    References
    ----------
    .. [1] B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging",
       1992.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = ASGD([w], lr=0.125, lambd=0.0)
    >>> optimizer.step(grads=[2 * w])
    >>> w
    array([ 0.75, -1.5 ])
    """

    _rule: ClassVar[str | None] = "asgd"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "lambd", "alpha", "t0", "weight_decay")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, differentiable=differentiable, capturable=capturable
            ),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("weight_decay", group["weight_decay"])
        for name in ("lambd", "alpha", "t0"):
            check_finite(name, group[name])

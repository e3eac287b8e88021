"""Adadelta."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_interval, check_lr, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Adadelta(Optimizer):
    r"""Adadelta: steps in the units of the parameters, by averages of squared gradients and steps.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        v_t &= \rho v_{t-1} + (1 - \rho) d_t^2 \\
        \Delta_t &= \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} d_t \\
        u_t &= \rho u_{t-1} + (1 - \rho) \Delta_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma \Delta_t

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Factor :math:`\gamma` of each step, >= 0.
    rho : float
        :math:`\rho`: the decay rate of the averages, in [0, 1].
    eps : float
        :math:`\epsilon`, added under the roots, >= 0.
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
    State: ``step``, ``square_avg`` (:math:`v`), ``acc_delta`` (:math:`u`).

    References
    ----------
    .. [1] M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = Adadelta([w], rho=0.0, eps=1.0)
    >>> optimizer.step(grads=[np.array([0.75, 0.0])])
    >>> w
    array([ 0.4, -2. ])
    """

    _rule: ClassVar[str | None] = "adadelta"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "rho", "eps", "weight_decay")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(
                capturable=capturable, foreach=foreach, differentiable=differentiable
            ),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_interval("rho", group["rho"], 0.0, 1.0)
        check_nonnegative("epsilon", group["eps"])
        check_nonnegative("weight_decay", group["weight_decay"])

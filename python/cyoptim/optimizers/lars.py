"""LARS."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import (
    check_finite,
    check_lr,
    check_nonnegative,
    check_switch,
    execution_switches,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Lars(Optimizer):
    r"""LARS: gradient descent, each gradient scaled to the length of its parameter.

    .. math::

        r_t &= \frac{\eta \lVert\theta_{t-1}\rVert}
            {\lVert g_t \rVert + \lambda \lVert\theta_{t-1}\rVert + \epsilon} \\
        d_t &= r_t (\pm g_t + \lambda \theta_{t-1}) \\
        b_t &= \mu b_{t-1} + (1 - \tau) d_t, \qquad b_1 = d_1 \\
        \theta_t &= \theta_{t-1} - \gamma b_t
            \quad\text{or, with Nesterov's form,}\quad
            \theta_{t-1} - \gamma (d_t + \mu b_t)

    The norms are those of each parameter and its gradient; the ratio :math:`r_t` is 1 where either
    is zero. Without momentum, :math:`\theta_t = \theta_{t-1} - \gamma d_t`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    momentum : float
        Factor :math:`\mu` of the buffer, >= 0.
    dampening : float
        :math:`\tau`: the share of the scaled gradient that is not added to the buffer.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0. Where it is 0, the ratio is 1 (unless `always_adapt`), as
        is usual for biases and norms.
    nesterov : bool
        Use Nesterov's form. Requires momentum, and no dampening.
    trust_coeff : float
        Trust coefficient :math:`\eta`, >= 0.
    eps : float
        :math:`\epsilon`, >= 0.
    trust_clip : bool
        Let :math:`\gamma r_t` be at most :math:`\gamma`, and not a factor of it: the ratio is
        :math:`\min(r_t / \gamma, 1)` (LARC).
    always_adapt : bool
        Take the ratio also where `weight_decay` is 0, instead of 1.
    foreach : bool, optional
        Accepted as in timm, without effect.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``momentum_buffer`` (:math:`b`), if momentum is not zero.

    Defaults and options are those of timm's ``Lars``. In the paper the ratio is always taken
    (``always_adapt=True``), and weight decay is not 0.

    References
    ----------
    .. [1] Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> Lars([w], lr=1.0, trust_coeff=0.1, always_adapt=True).step(grads=[2 * w])
    >>> w.round(4)
    array([ 2.7, -3.6])
    """

    _counts_steps: ClassVar[bool] = False
    _rules: ClassVar[tuple[str, ...]] = ("lars", "lars_momentum", "lars_nesterov")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        trust_coeff: float = 0.001,
        eps: float = 1e-8,
        trust_clip: bool = False,
        always_adapt: bool = False,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coeff": trust_coeff,
            "eps": eps,
            "trust_clip": trust_clip,
            "always_adapt": always_adapt,
            "maximize": maximize,
            **execution_switches(foreach=foreach),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("momentum", group["momentum"])
        check_finite("dampening", group["dampening"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_nonnegative("trust_coeff", group["trust_coeff"])
        check_nonnegative("epsilon", group["eps"])
        check_switch("nesterov", group["nesterov"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _rule_of(self, group: Group) -> str:
        if group["momentum"] == 0:
            return "lars"
        return "lars_nesterov" if group["nesterov"] else "lars_momentum"

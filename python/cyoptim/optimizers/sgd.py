"""Stochastic gradient descent."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import (
    check_finite,
    check_lr,
    check_nonnegative,
    check_switch,
    check_undecayed,
    execution_switches,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class SGD(Optimizer):
    r"""Stochastic gradient descent, optionally with momentum.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        b_t &= \mu b_{t-1} + (1 - \tau) d_t, \qquad b_1 = d_1 \\
        \theta_t &= \theta_{t-1} - \gamma b_t
            \quad\text{or, with Nesterov's form,}\quad
            \theta_{t-1} - \gamma (d_t + \mu b_t)

    Without momentum, :math:`\theta_t = \theta_{t-1} - \gamma d_t`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    momentum : float
        Factor :math:`\mu` of the buffer, >= 0.
    dampening : float
        :math:`\tau`: the share of the gradient that is not added to the buffer.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    nesterov : bool
        Use Nesterov's form. Requires momentum, and no dampening.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach, fused : bool, optional
        Accepted as in torch, without effect.
    differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [3]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    Gradients may be sparse if `weight_decay` is 0: ``(rows, values)`` pairs, SciPy's sparse
    arrays, torch's sparse tensors. Without momentum only the elements with entries are updated.

    State: ``momentum_buffer``, if momentum is not zero.

    References
    ----------
    .. [1] B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    .. [2] I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and
       momentum in deep learning", ICML 2013.
    .. [3] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> optimizer.step(grads=[2 * w])
    >>> w
    array([ 0.8, -1.6])
    """

    _counts_steps: ClassVar[bool] = False
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "momentum", "dampening", "weight_decay")
    _rules: ClassVar[tuple[str, ...]] = ("sgd", "sgd_momentum", "sgd_nesterov")
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            **execution_switches(foreach=foreach, differentiable=differentiable, fused=fused),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("momentum", group["momentum"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_finite("dampening", group["dampening"])
        check_switch("nesterov", group["nesterov"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _takes_spans(self, group: Group, label: str) -> bool:
        check_undecayed(group, label)
        return bool(group["momentum"] == 0)  # a buffer moves every element

    def _rule_of(self, group: Group) -> str:
        if group["momentum"] == 0:
            return "sgd"
        return "sgd_nesterov" if group["nesterov"] else "sgd_momentum"

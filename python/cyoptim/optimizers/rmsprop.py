"""RMSprop."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_lr, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class RMSprop(Optimizer):
    r"""RMSprop: steps scaled by a running root mean square of the gradient.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        v_t &= \alpha v_{t-1} + (1 - \alpha) d_t^2 \\
        b_t &= \mu b_{t-1} + d_t / (\sqrt{v_t} + \epsilon) \\
        \theta_t &= \theta_{t-1} - \gamma b_t

    With `centered`, :math:`v_t - \bar d_t^2` replaces :math:`v_t` under the root, where
    :math:`\bar d_t = \alpha \bar d_{t-1} + (1 - \alpha) d_t`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    alpha : float
        :math:`\alpha`: the decay rate of the averages, >= 0.
    eps : float
        :math:`\epsilon`, added to the denominator, >= 0.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    momentum : float
        Factor :math:`\mu` of the buffer, >= 0.
    centered : bool
        Divide by an estimate of the standard deviation.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [3]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``square_avg`` (:math:`v`), ``momentum_buffer`` with momentum, ``grad_avg``
    with `centered`.

    References
    ----------
    .. [1] G. Hinton, "Neural Networks for Machine Learning", lecture 6e, 2012.
    .. [2] A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013.
    .. [3] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = RMSprop([w], lr=0.1, alpha=0.0)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "alpha", "eps", "weight_decay")
    _rules: ClassVar[tuple[str, ...]] = (
        "rmsprop",
        "rmsprop_momentum",
        "rmsprop_centered",
        "rmsprop_centered_momentum",
    )
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(
                capturable=capturable, foreach=foreach, differentiable=differentiable
            ),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("epsilon", group["eps"])
        check_nonnegative("momentum", group["momentum"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_nonnegative("alpha", group["alpha"])

    def _rule_of(self, group: Group) -> str:
        centered = "_centered" if group["centered"] else ""
        return f"rmsprop{centered}{'_momentum' if group['momentum'] > 0 else ''}"

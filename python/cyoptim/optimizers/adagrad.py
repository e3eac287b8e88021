"""Adagrad."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._engine import Commit, Plan
from cyoptim._groups.options import check_lr, check_nonnegative, check_undecayed, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Adagrad(Optimizer):
    r"""Adagrad: steps scaled by the root of the sum of all squared gradients.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        s_t &= s_{t-1} + d_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta}
            \frac{d_t}{\sqrt{s_t} + \epsilon}

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    lr_decay : float
        :math:`\eta`, >= 0.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    initial_accumulator_value : float
        :math:`s_0`, >= 0.
    eps : float
        :math:`\epsilon`, added to the denominator, >= 0.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach, fused : bool, optional
        Accepted as in torch, without effect.
    differentiable : bool
        Must be False.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    Gradients may be sparse if `weight_decay` is 0: ``(rows, values)`` pairs, SciPy's sparse
    arrays, torch's sparse tensors. Only the elements with entries are updated.

    State: ``step`` and ``sum`` (:math:`s`), which exist from the start.

    References
    ----------
    .. [1] J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and
       Stochastic Optimization", JMLR 2011.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = Adagrad([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _rule: ClassVar[str | None] = "adagrad"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "lr_decay", "eps", "weight_decay")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
            **execution_switches(foreach=foreach, differentiable=differentiable, fused=fused),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _prepare_groups(self, plan: Plan, commit: Commit) -> None:
        plan.initialize(self, commit)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("lr_decay", group["lr_decay"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_nonnegative("initial_accumulator_value", group["initial_accumulator_value"])
        check_nonnegative("epsilon", group["eps"])

    def _takes_spans(self, group: Group, label: str) -> bool:
        check_undecayed(group, label)
        return True

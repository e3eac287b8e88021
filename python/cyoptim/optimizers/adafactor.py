"""Adafactor."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cyoptim._groups.options import (
    as_float,
    check_at_least,
    check_lr,
    check_number,
    check_pair,
    execution_switches,
)
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._factored import FactoredOptimizer, Lines, Numbers


class Adafactor(FactoredOptimizer):
    r"""Adafactor: second moments of a matrix, factored into one number per row and one per column.

    For a gradient :math:`G_t` of :math:`n` rows and :math:`m` columns,

    .. math::

        \beta_t &= 1 - t^\tau, \qquad \rho_t = \min(\gamma, 1 / \sqrt{t}), \qquad
            \alpha_t = \max(\epsilon_2, \text{RMS}(\theta_{t-1})) \rho_t \\
        R_t &= \beta_t R_{t-1} + (1 - \beta_t) \, G_t^2 \, 1_m / m, \qquad
        C_t = \beta_t C_{t-1} + (1 - \beta_t) \, 1_n^\top G_t^2 / n \\
        V_t &= R_t C_t / \max(1_n^\top R_t / n, \epsilon_1) \\
        U_t &= \pm G_t / \sqrt{\max(V_t, \epsilon_1^2)} \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1}
            - \alpha_t U_t / \max(1, \text{RMS}(U_t) / d)

    The state of a matrix is a row and a column. The last two axes of an array with more than two
    form matrices; the state of a vector is :math:`V_t = \beta_t V_{t-1} + (1 - \beta_t) G_t^2`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float
        :math:`\gamma`: the largest relative step, and the rate of decay, >= 0.
    beta2_decay : float
        :math:`\tau`, <= 0.
    eps : tuple of (float or None, float)
        :math:`\epsilon_1`, >= 0, or None for the dtype's machine epsilon; and
        :math:`\epsilon_2`, the least scale of a parameter, >= 0.
    d : float
        The largest root mean square of an update, >= 1.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    foreach : bool, optional
        Accepted as in torch, without effect.
    maximize : bool
        Maximize the objective instead of minimizing it.

    Notes
    -----
    State: ``step``; ``row_var`` and ``col_var`` (:math:`R` and :math:`C`), or ``variance``
    (:math:`V`).

    The two uses of :math:`\epsilon_1` and of the learning rate are torch's, not the paper's.

    References
    ----------
    .. [1] N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
       ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> optimizer = Adafactor([W], lr=0.1)
    >>> optimizer.step(grads=[2 * W])
    >>> W.round(3)
    array([[ 0.788, -1.7  ],
           [ 2.715,  3.732]])
    >>> optimizer.state[W]["row_var"].shape, optimizer.state[W]["col_var"].shape
    ((2, 1), (1, 2))
    """

    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr",
        "beta2_decay",
        "eps",
        "d",
        "weight_decay",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(foreach=foreach),
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"], "Learning rate should be >= 0 but is: {}")
        check_number("beta2_decay", group["beta2_decay"])
        if not group["beta2_decay"] <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {group['beta2_decay']}")
        eps = group["eps"]
        check_pair("eps", eps)
        if eps[0] is not None:
            check_at_least("epsilon1", eps[0], 0)
        check_at_least("epsilon2", eps[1], 0)
        check_at_least("Clipping threshold d", group["d"], 1)
        check_at_least("weight_decay", group["weight_decay"], 0)

    def _state_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return {
            "row_var": (*shape[:-1], 1),
            "col_var": (*shape[:-2], 1, *shape[-1:]),
            "variance": shape,
        }.get(name)

    def _shapes(self, shape: tuple[int, ...], group: Group) -> dict[str, tuple[int, ...]]:
        names = ("row_var", "col_var") if len(shape) > 1 else ("variance",)
        return {name: self._state_shape(name, shape) or () for name in names}

    def _lines(self, shape: tuple[int, ...], group: Group) -> Lines:
        return (("row_var", "col_var") if len(shape) > 1 else ("variance",)), ()

    def _numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        lr, (eps1, eps2) = as_float(group["lr"]), group["eps"]
        eps1 = float(np.finfo(dtype).eps) if eps1 is None else as_float(eps1)
        return {
            "weight": t ** as_float(group["beta2_decay"]),
            "product": False,
            "most": 1 / eps1 if eps1 > 0 else math.inf,
            "least_mean": eps1,
            "scaled": True,
            "least_scale": as_float(eps2),
            "threshold": as_float(group["d"]),
            "sign": -1.0 if group["maximize"] else 1.0,
            "rate": min(lr, 1 / math.sqrt(t)),
            "decay": lr * as_float(group["weight_decay"]),
        }

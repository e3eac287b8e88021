"""CAME."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from cyoptim._groups.options import (
    as_float,
    as_sequence,
    check_interval,
    check_lr,
    check_nonnegative,
    check_pair,
    check_positive,
)
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._factored import FactoredOptimizer, Lines, Numbers, Shape

SQUARES = ("exp_avg_sq_row", "exp_avg_sq_col")
RESIDUALS = ("exp_avg_res_row", "exp_avg_res_col")


class CAME(FactoredOptimizer):
    r"""CAME: Adafactor with momentum, whose steps are smaller where it is not confident.

    For a gradient :math:`G_t` of :math:`n` rows and :math:`m` columns,

    .. math::

        R_t &= \beta_2 R_{t-1} + (1 - \beta_2) (G_t^2 \, 1_m / m + \epsilon_1), \qquad
            C_t = \beta_2 C_{t-1} + (1 - \beta_2) (1_n^\top G_t^2 / n + \epsilon_1) \\
        U_t &= \pm G_t / \sqrt{R_t C_t / (1_n^\top R_t / n)}, \qquad
            \hat U_t = U_t / \max(1, \text{RMS}(U_t) / d) \\
        M_t &= \beta_1 M_{t-1} + (1 - \beta_1) \hat U_t \\
        S_t &= \text{factors of } (\hat U_t - M_t)^2 + \epsilon_2
            \text{ with } \beta_3, \text{ as } R_t \text{ and } C_t \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma M_t / \sqrt{S_t}

    A vector is not factored, and its step is :math:`\gamma M_t`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float
        Learning rate :math:`\gamma`, >= 0. In the authors' code it has no default.
    eps : tuple of float
        :math:`\epsilon_1, \epsilon_2`, >= 0.
    clip_threshold : float
        :math:`d`, > 0: the largest root mean square of :math:`\hat U_t`.
    betas : tuple of float
        :math:`\beta_1, \beta_2, \beta_3`, in [0, 1].
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    maximize : bool
        Follow the gradient upwards.

    Notes
    -----
    State: ``step``; ``exp_avg`` (:math:`M`); ``exp_avg_sq_row``, ``exp_avg_sq_col`` (:math:`R` and
    :math:`C`) and ``exp_avg_res_row``, ``exp_avg_res_col`` (those of :math:`S`), or ``exp_avg_sq``
    of a vector. The last two axes of an array with more than two form matrices.

    References
    ----------
    .. [1] Y. Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization", ACL
       2023.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> CAME([W], lr=0.1).step(grads=[2 * W])
    >>> W.round(3)
    array([[ 0.03 , -0.79 ],
           [ 1.778,  2.984]])
    """

    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr", "eps", "clip_threshold", "betas", "weight_decay",
    )  # fmt: skip
    _step_type: ClassVar[type | None] = int
    _foreign_state: ClassVar[tuple[str, ...]] = ("RMS",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-4,
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_pair("eps", group["eps"])
        for index, value in enumerate(group["eps"]):
            check_nonnegative(f"eps[{index}]", value)
        check_positive("clip_threshold", group["clip_threshold"])
        betas = as_sequence(group["betas"])
        if not isinstance(betas, (tuple, list)) or len(betas) != 3:
            raise TypeError(f"betas must be three numbers, got {betas!r}")
        for index, value in enumerate(betas):
            check_interval(f"betas[{index}]", value, 0, 1)
        check_nonnegative("weight_decay", group["weight_decay"])

    def _state_shape(self, name: str, shape: Shape) -> Shape | None:
        if name in ("exp_avg_sq_row", "exp_avg_res_row"):
            return shape[:-1]
        if name in ("exp_avg_sq_col", "exp_avg_res_col"):
            return (*shape[:-2], *shape[-1:])
        return shape if name in ("exp_avg", "exp_avg_sq") else None

    def _shapes(self, shape: Shape, group: Group) -> dict[str, Shape]:
        names = (*SQUARES, *RESIDUALS) if len(shape) > 1 else ("exp_avg_sq",)
        return {name: self._state_shape(name, shape) or () for name in (*names, "exp_avg")}

    def _lines(self, shape: Shape, group: Group) -> Lines:
        return (SQUARES, RESIDUALS) if len(shape) > 1 else (("exp_avg_sq",), ())

    def _numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        beta1, beta2, beta3 = (as_float(value) for value in group["betas"])
        eps1, eps2 = (as_float(value) for value in group["eps"])
        lr = as_float(group["lr"])
        return {
            "weight": 1 - beta2,
            "eps": eps1,
            "residual_weight": 1 - beta3,
            "residual_eps": eps2,
            "threshold": as_float(group["clip_threshold"]),
            "sign": -1.0 if group["maximize"] else 1.0,
            "keep": beta1,
            "rest": lr,
            "decay": lr * as_float(group["weight_decay"]),
        }

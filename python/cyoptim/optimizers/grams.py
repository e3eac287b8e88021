"""Grams."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Grams(Optimizer):
    r"""Grams: steps as long as Adam's, along the sign of the gradient.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1}
            - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
            \frac{\operatorname{sign}(\pm g_t) |m_t|}{\sqrt{v_t} + \epsilon}

    Parameters
    ----------
    params : iterable
        Real parameters, ``(name, parameter)`` pairs, or groups; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    correct_bias : bool
        Correct the averages' bias; otherwise both roots and powers above are left out.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`). An element whose gradient
    is zero only decays.

    Names, defaults and steps are those of grams-pytorch, which overwrites the gradients; here they
    do not change.

    References
    ----------
    .. [1] Y. Cao, X. Li, Z. Song, "Grams: Gradient Descent with Adaptive Momentum Scaling", 2024.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> Grams([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(4)
    array([ 0.9, -1.9])
    """

    _rule: ClassVar[str | None] = "grams"
    _takes_complex: ClassVar[bool] = False
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
            "maximize": maximize,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)

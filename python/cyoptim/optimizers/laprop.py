"""LaProp."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class LaProp(Optimizer):
    r"""LaProp: momentum of gradients that were first divided by the root of their average square.

    .. math::

        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) \gamma_t
            \frac{g_t}{\sqrt{v_t / c_{2,t}} + \epsilon} \\
        \theta_t &= (1 - \gamma_t \lambda)
            \left( \theta_{t-1} - \frac{\gamma_t}{c_{1,t}} m_t \right) \\
        c_{1,t} &= \beta_1 c_{1,t-1} + (1 - \beta_1) \gamma_t, \qquad
        c_{2,t} = \beta_2 c_{2,t-1} + (1 - \beta_2)

    With a constant rate, :math:`\gamma / c_{1,t} = 1 / (1 - \beta_1^t)`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    foreach : bool, optional
        Accepted as in torch, without effect.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), and the numbers
    ``exp_avg_lr_1`` (:math:`c_1`) and ``exp_avg_lr_2`` (:math:`c_2`) in float64.

    Defaults and options are those of timm's ``LaProp``, which keeps :math:`c_2` in float32 and also
    has ``corrected_weight_decay``: it is refused, as it takes the largest rate of a schedule.

    References
    ----------
    .. [1] L. Ziyin, Z. T. Wang, M. Ueda, "LaProp: Separating Momentum and Adaptivity in Adam",
       2020.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> LaProp([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "laprop"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **execution_switches(foreach=foreach),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_loaded_options(self, group: Group) -> None:
        super()._check_loaded_options(group)
        if group.get("corrected_weight_decay"):  # timm's, which is not here
            raise ValueError("corrected_weight_decay=True is not supported")

    def _check_options(self, group: Group) -> None:
        check_moments(group)

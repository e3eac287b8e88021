"""NovoGrad."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class NovoGrad(Optimizer):
    r"""NovoGrad: momentum of gradients that are normalized by one running average per parameter.

    .. math::

        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \lVert g_t \rVert^2,
            \qquad v_1 = \lVert g_1 \rVert^2 \\
        m_t &= \beta_1 m_{t-1} \pm \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda \theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \gamma m_t

    The norm is that of each parameter's gradient. The first norm that is not zero is taken as it
    is.

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
    grad_averaging : bool
        Multiply what :math:`m` gains by :math:`1 - \beta_1`.
    amsgrad : bool
        Divide by the root of the largest :math:`v` so far.
    decoupled_decay : bool
        Multiply the parameter by :math:`1 - \gamma \lambda` first, rather than add
        :math:`\lambda\theta` to what :math:`m` gains.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`) and, with AMSGrad,
    ``max_exp_avg_sq``: one float64 number each, whatever the parameter's type, where timm keeps
    float32.

    Defaults and options are those of timm's ``NvNovoGrad``, which also has
    ``corrected_weight_decay``: with `decoupled_decay`, a schedule of `weight_decay` in proportion
    to the rate does the same.

    References
    ----------
    .. [1] B. Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for
       Training of Deep Networks", 2019.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> NovoGrad([w], lr=0.1).step(grads=[2 * w])
    >>> w
    array([ 2.94, -3.92])
    """

    _rules: ClassVar[tuple[str, ...]] = ("novograd", "novograd_amsgrad")
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        decoupled_decay: bool = False,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "amsgrad": amsgrad,
            "decoupled_decay": decoupled_decay,
            "maximize": maximize,
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

    def _rule_of(self, group: Group) -> str:
        return "novograd_amsgrad" if group["amsgrad"] else "novograd"

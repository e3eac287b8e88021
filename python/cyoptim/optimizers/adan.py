"""Adan."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Adan(Optimizer):
    r"""Adan: Adam with Nesterov's momentum, estimated from differences of gradients.

    .. math::

        d_t &= \pm g_t \min(1, c / (\lVert g_t \rVert + \epsilon)), \qquad
            \Delta_t = d_t - d_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        s_t &= \beta_2 s_{t-1} + (1 - \beta_2) \Delta_t \\
        v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (d_t + \beta_2 \Delta_t)^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t) + \beta_2 s_t / (1 - \beta_2^t)}
            {\sqrt{v_t / (1 - \beta_3^t)} + \epsilon} \\
        \theta_t &= (\theta_{t-1} - \gamma u_t) / (1 + \gamma \lambda)

    :math:`\Delta_1 = 0`. The norm of :math:`g_t` is that of all gradients. With `no_prox`,
    :math:`\theta_t = (1 - \gamma\lambda) \theta_{t-1} - \gamma u_t`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2, \beta_3`, in [0, 1). The paper writes :math:`1 - \beta` for each.
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    max_grad_norm : float, optional
        :math:`c`, >= 0; 0 or None does not clip.
    no_prox : bool
        Decay as :class:`cyoptim.AdamW` does.
    foreach, fused : bool
        Accepted, without effect.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_diff`` (:math:`s`), ``exp_avg_sq``
    (:math:`v`), ``neg_pre_grad`` (:math:`-d_{t-1}`). Where a parameter has no gradient in a step,
    the one before stays for the next difference.

    Names, defaults and results are those of the authors' code for PyTorch, with these differences.
    That code scales the parameters' own gradients where it clips; here they stay as they are. It
    counts the steps of a group, also for parameters that join it later; here a parameter's age is
    its own. Its `max_grad_norm` is one for all groups, with the `eps` of the last. A state dict has
    the step count in the groups, too, where that code keeps it. There is no ``restart_opt``: to
    restart, make a new optimizer.

    References
    ----------
    .. [1] X. Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep
       Models", IEEE TPAMI 2024.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> Adan([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "adan"
    _exchanges_group_steps: ClassVar[bool] = True
    _fuses_foreach: ClassVar[bool] = True

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 0.0,
        no_prox: bool = False,
        foreach: bool | None = True,
        fused: bool | None = False,
        *,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "no_prox": no_prox,
            "maximize": maximize,
            "foreach": foreach,
            **execution_switches(fused=fused),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group, betas=3)
        if group["max_grad_norm"] is not None:
            check_nonnegative("max_grad_norm", group["max_grad_norm"])

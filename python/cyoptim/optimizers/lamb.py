"""LAMB."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, check_positive
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Lamb(Optimizer):
    r"""LAMB: Adam's step, scaled to the length of each parameter, for large batches.

    .. math::

        d_t &= \pm g_t / \max(1, \lVert g_t \rVert / c) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
            + \lambda \theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \gamma \frac{\lVert\theta_{t-1}\rVert}{\lVert u_t \rVert} u_t

    The norm of :math:`g_t` is that of all gradients, those of :math:`\theta` and :math:`u_t` are of
    each parameter; their ratio is 1 where either is zero.

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
    bias_correction : bool
        Divide the averages by :math:`1 - \beta^t`.
    grad_averaging : bool
        Weigh the gradient by :math:`1 - \beta_1` in :math:`m`, rather than by 1.
    max_grad_norm : float, optional
        :math:`c`, > 0; None does not clip.
    trust_clip : bool
        Let the ratio of the norms be at most 1.
    always_adapt : bool
        Take the ratio also where `weight_decay` is 0, instead of 1.
    decoupled_decay : bool
        Multiply the parameter by :math:`1 - \gamma \lambda` first, rather than add
        :math:`\lambda\theta` to the step.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make Adam's step, before :math:`\lambda\theta` is added and its length is taken, only in the
        elements in which it follows the gradient, and there by the inverse of their share of the
        parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`). A state dict has the step
    count in the groups, too, where timm keeps it; here a parameter's age is its own.

    Defaults and options are those of timm's ``Lamb``, which also has ``corrected_weight_decay``.
    The paper does not clip (``max_grad_norm=None``); optax always takes the ratio, too
    (``always_adapt=True``).

    References
    ----------
    .. [1] Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
       ICLR 2020.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> Lamb([w], lr=0.1, weight_decay=0.0, always_adapt=True).step(grads=[2 * w])
    >>> w.round(4)
    array([ 2.6464, -3.6464])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "lamb"
    _exchanges_group_steps: ClassVar[bool] = True

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        grad_averaging: bool = True,
        max_grad_norm: float | None = 1.0,
        trust_clip: bool = False,
        always_adapt: bool = False,
        *,
        decoupled_decay: bool = False,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "bias_correction": bias_correction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "max_grad_norm": max_grad_norm,
            "trust_clip": trust_clip,
            "always_adapt": always_adapt,
            "decoupled_decay": decoupled_decay,
            "maximize": maximize,
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
        if group["max_grad_norm"] is not None:
            check_positive("max_grad_norm", group["max_grad_norm"])

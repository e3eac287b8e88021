"""Yogi."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, check_nonnegative
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Yogi(Optimizer):
    r"""Yogi: Adam whose average of squares changes slowly, so that steps do not grow suddenly.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        v_t &= v_{t-1} - (1 - \beta_2) \operatorname{sign}(v_{t-1} - d_t^2) d_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Both averages begin with `initial_accumulator`.

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
    initial_accumulator : float
        :math:`m_0` and :math:`v_0`, >= 0.
    weight_decay : float
        L2 penalty :math:`\lambda`, >= 0.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`).

    Names, defaults and steps are those of torch_optimizer's ``Yogi``, which refuses an `lr` of 0.
    As :math:`m` does not begin with 0, a parameter moves a little even if its gradients are 0. The
    paper has no bias correction, and the first gradient's square in the place of :math:`v_0`.

    References
    ----------
    .. [1] M. Zaheer et al., "Adaptive Methods for Nonconvex Optimization", NeurIPS 2018.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> Yogi([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(4)
    array([ 0.9001, -1.9   ])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "yogi"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        initial_accumulator: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "initial_accumulator": initial_accumulator,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("initial_accumulator", group["initial_accumulator"])

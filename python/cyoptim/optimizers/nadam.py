"""NAdam."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class NAdam(Optimizer):
    r"""NAdam: Adam with Nesterov's momentum.

    .. math::

        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        \hat m_t &= \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
            + \frac{(1 - \mu_t) d_t}{1 - \prod_{i=1}^{t} \mu_i} \\
        \theta_t &= \theta_{t-1} - \gamma \frac{\hat m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    where :math:`d_t = \pm g_t + \lambda \theta_{t-1}`; with `decoupled_weight_decay`,
    :math:`d_t = \pm g_t` and :math:`\theta_{t-1}` is first multiplied by
    :math:`1 - \gamma\lambda`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, added to the denominator, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    momentum_decay : float
        :math:`\psi`, >= 0.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as AdamW does.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [3]_. Requires
        decoupled weight decay.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``mu_product`` (:math:`\prod \mu_i`, in float32), ``exp_avg`` (:math:`m`),
    ``exp_avg_sq`` (:math:`v`).

    References
    ----------
    .. [1] T. Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = NAdam([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(3)
    array([ 0.894, -1.894])
    """

    _rule: ClassVar[str | None] = "nadam"
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "momentum_decay",
    )
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, capturable=capturable, differentiable=differentiable
            ),
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("momentum_decay", group["momentum_decay"])

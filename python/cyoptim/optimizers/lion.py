"""Lion."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Lion(Optimizer):
    r"""Lion: each element moves by the learning rate, along the sign of its momentum.

    .. math::

        \theta_t &= (1 - \gamma \lambda) \theta_{t-1}
            - \gamma \operatorname{sign}(\beta_1 m_{t-1} \pm (1 - \beta_1) g_t) \\
        m_t &= \beta_2 m_{t-1} \pm (1 - \beta_2) g_t

    Parameters
    ----------
    params : iterable
        Real parameters, ``(name, parameter)`` pairs, or groups; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0: a third to a tenth of AdamW's.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    weight_decay : float
        :math:`\lambda`, >= 0: three to ten times AdamW's.
    maximize : bool
        Follow the gradient upwards.
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
    State: ``exp_avg`` (:math:`m`). The sign of zero is zero, and that of NaN is NaN.

    References
    ----------
    .. [1] X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> Lion([w], lr=0.1).step(grads=[2 * w])
    >>> w
    array([ 0.9, -1.9])
    """

    _rule: ClassVar[str | None] = "lion"
    _counts_steps: ClassVar[bool] = False
    _takes_complex: ClassVar[bool] = False
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)

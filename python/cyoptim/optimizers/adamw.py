"""AdamW."""

from __future__ import annotations

from typing import Any, Unpack

from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import ParamsT
from cyoptim.optimizers.adam import Adam


class AdamW(Adam):
    r"""Adam with weight decay applied to the parameters, not to the gradient.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma\lambda) \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr, betas, eps, amsgrad, maximize, foreach, fused, capturable, differentiable
        As in :class:`cyoptim.Adam`.
    weight_decay : float
        :math:`\lambda`, >= 0; relative to the learning rate.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [3]_. Requires
        decoupled weight decay.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.85, -1.8 ])
    """

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            caution=caution,
            cautious_wd=cautious_wd,
            **storage,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A state saved by Adam, or by a torch from before the option, continues as AdamW.
        for group in state["param_groups"]:
            group["decoupled_weight_decay"] = True
        super().__setstate__(state)

"""ADOPT."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_finite, check_moments, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class ADOPT(Optimizer):
    r"""ADOPT: Adam that scales each gradient before it averages, and converges for any beta.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        u_t &= \operatorname{clip}\left(\frac{d_t}{\max(\sqrt{v_{t-1}}, \epsilon)},
            -(t - 1)^c, (t - 1)^c\right) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) u_t \\
        \theta_t &= \theta_{t-1} - \gamma m_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2

    The first step only begins the average of squares, :math:`v_1 = d_1^2`. With `decouple`,
    :math:`d_t = \pm g_t`, and from the second step on :math:`\theta_{t-1}` is first multiplied by
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
        :math:`\epsilon`, the least divisor, >= 0.
    clip_lambda : float, optional
        :math:`c`, the power of the step count that bounds the scaled gradient. None: no bound, as
        in the first version of the paper.
    weight_decay : float
        :math:`\lambda`, >= 0.
    decouple : bool
        Decay the parameter itself, as :class:`cyoptim.AdamW` does.
    foreach, fused : bool, optional
        Accepted, without effect.
    maximize : bool
        Follow the gradient upwards.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`).

    Names, defaults and results are those of the authors' package, torch-adopt, except that
    `clip_lambda` is there a function of the number of steps before, by default
    ``lambda step: step**0.25``. Here it is the power, 0.25, which can be saved, and each group has
    its own. With ``foreach`` the bound is there a float32 number, the first parameter's for all.

    References
    ----------
    .. [1] S. Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any :math:`\beta_2` with the
       Optimal Rate", NeurIPS 2024.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = ADOPT([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> optimizer.step(grads=[2 * w])
    >>> w
    array([ 0.99, -1.99])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "adopt"
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "decouple",
    )

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        clip_lambda: float | None = 0.25,
        weight_decay: float = 0.0,
        decouple: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip_lambda": clip_lambda,
            "weight_decay": weight_decay,
            "decouple": decouple,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused
            ),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        power = group["clip_lambda"]
        if callable(power):
            raise TypeError(
                "clip_lambda must be a number c, for the bound step**c, or None, got a function: "
                "write clip_lambda=0.25 for lambda step: step**0.25"
            )
        if power is not None:
            check_finite("clip_lambda", power)

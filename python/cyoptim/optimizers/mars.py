"""MARS."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from cyoptim._groups.options import (
    as_float,
    check_betas,
    check_finite,
    check_moments,
    check_nonnegative,
    check_switch,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class MARS(Optimizer):
    r"""MARS: AdamW or Lion along a gradient whose variance is reduced by the one before.

    .. math::

        c_t &= \pm g_t + \frac{\gamma_v \beta_1}{1 - \beta_1}(\pm g_t \mp g_{t-1}), \quad g_0 = 0 \\
        c_t &\leftarrow c_t / \max(1, \lVert c_t \rVert) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) c_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) c_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1}
            - \gamma \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
            \quad\text{or, with Lion's step,}\quad
            (1 - \gamma \lambda) \theta_{t-1} - \gamma \operatorname{sign}(m_t)

    The norm is that of each parameter. Parameters that are no matrices (of two axes) are stepped
    by AdamW with options of their own, unless `optimize_1d`.

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
    amsgrad : bool
        Divide by the root of the largest :math:`v` so far, as AMSGrad does.
    gamma : float
        :math:`\gamma_v`: how much of the difference of two gradients is added. 0 adds nothing.
    is_approx : bool
        Must be True; see below.
    mars_type : {"mars-adamw", "mars-lion"}
        The step of matrices.
    optimize_1d : bool
        Step all parameters by `mars_type`.
    lr_1d : float
        Learning rate of parameters that are no matrices, >= 0, while `lr` is what the group was
        made with, its ``base_lr``. Schedules move both: the rate is ``lr_1d * lr / base_lr``, or
        ``lr`` if ``base_lr`` is 0. (In the authors' class ``base_lr`` is that of the constructor
        in all groups.)
    betas_1d : tuple of float
        Their :math:`\beta_1, \beta_2`.
    weight_decay_1d : float
        Their :math:`\lambda`.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make the step only in the elements in which it follows the gradient :math:`\pm g_t`, and
        there by the inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), ``last_grad``
    (:math:`g_{t-1}`, a copy), with AMSGrad ``max_exp_avg_sq``; as in the authors' class also
    where a step does not use them.

    Defaults and options are those of the authors' class. Its ``"mars-shampoo"``, steps by
    orthogonal matrices in bfloat16, is refused; :class:`cyoptim.Muon` has such steps. So is
    ``is_approx=False``, where :math:`g_{t-1}` is the gradient of the coming batch at the former
    parameters, for which a program computes two gradients a step: here, write that gradient into
    ``optimizer.state[p]["last_grad"]`` before the step. The authors' class keeps a reference to
    the gradient itself: in a program that writes all gradients into one buffer, the difference
    of two gradients vanishes there.

    References
    ----------
    .. [1] H. Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large
       Models", ICML 2025.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[3.0, -4.0]])
    >>> MARS([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(4)
    array([[ 2.9, -3.9]])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rules: ClassVar[tuple[str, ...]] = (
        "mars_adamw",
        "mars_adamw_amsgrad",
        "mars_lion",
        "mars_vector",
        "mars_vector_amsgrad",
    )
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "gamma",
        "mars_type",
    )
    _takes_complex: ClassVar[bool] = False
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        gamma: float = 0.025,
        is_approx: bool = True,
        mars_type: str = "mars-adamw",
        optimize_1d: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        weight_decay_1d: float = 0.1,
        *,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "gamma": gamma,
            "is_approx": is_approx,
            "mars_type": mars_type,
            "optimize_1d": optimize_1d,
            "lr_1d": lr_1d,
            "base_lr": lr,
            "betas_1d": betas_1d,
            "weight_decay_1d": weight_decay_1d,
            "maximize": maximize,
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        defaults["base_lr"] = as_float(lr)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_betas(group["betas_1d"], name="betas_1d")
        check_nonnegative("weight_decay_1d", group["weight_decay_1d"])
        check_nonnegative("lr_1d", group["lr_1d"])
        check_nonnegative("base_lr", group["base_lr"])
        check_finite("gamma", group["gamma"])
        self._check_kind(group)

    def _check_kind(self, group: Group) -> None:
        """Check the options that choose the rule; no scalar of it is read from them."""
        check_switch("is_approx", group["is_approx"])
        if not group["is_approx"]:
            raise ValueError(
                "is_approx=False is not supported: write the coming batch's gradient at the former "
                'parameters into state[p]["last_grad"] before the step'
            )
        kind = group["mars_type"]
        if not isinstance(kind, str) or kind not in ("mars-adamw", "mars-lion"):
            known = isinstance(kind, str) and kind == "mars-shampoo"
            reason = ": Muon has steps by orthogonal matrices" if known else ""
            raise ValueError(
                f"Invalid mars_type value: {kind!r} (expected 'mars-adamw' or 'mars-lion'){reason}"
            )

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        if "base_lr" not in param_group:
            group["base_lr"] = as_float(group["lr"])
        return group

    def _rule_of(self, group: Group) -> str:
        self._check_kind(group)
        if group["mars_type"] == "mars-lion":
            return "mars_lion"
        return "mars_adamw_amsgrad" if group["amsgrad"] else "mars_adamw"

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        return len(shape) != 2

    def _rule_apart(self, group: Group) -> str:
        if group["optimize_1d"]:
            return self._rule_of(group)
        return "mars_vector_amsgrad" if group["amsgrad"] else "mars_vector"

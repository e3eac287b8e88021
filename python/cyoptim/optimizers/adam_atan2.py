"""Adam-atan2."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import (
    as_float,
    check_finite,
    check_interval,
    check_moments,
    check_nonnegative,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class AdamAtan2(Optimizer):
    r"""Adam-atan2: Adam with an angle in place of its quotient, which needs no `eps`.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        u_t &= \operatorname{atan2} \left( \frac{m_t}{1 - \beta_1^t},
            b \sqrt{\frac{v_t}{1 - \beta_2^t}} \right) \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma a u_t

    A step is at most :math:`\frac{\pi}{2} a \gamma`; the scale of the gradients does not matter.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    weight_decay : float
        :math:`\lambda`, >= 0.
    regen_reg_rate : float
        :math:`\rho`, >= 0: before a step, :math:`\theta_{t-1}` is moved by the share
        :math:`\gamma\rho` of the way to where it was before the first step. Excludes
        `weight_decay`.
    decoupled_wd : bool
        Divide `weight_decay` and `regen_reg_rate` of every group by the optimizer's `lr` when the
        group is added, so that a decay is by :math:`1 - \lambda` until the rate changes.
    cautious_wd : bool
        Decay only elements that the step moves towards zero, :math:`u_t \theta_{t-1} > 0`.
    cautious_factor : float
        In [0, 1]. If it is below 1, elements of :math:`u_t` against the gradient,
        :math:`\pm u_t g_t \le 0`, are multiplied by it, and then all by the same number, so that
        the mean of the factors of each parameter is 1 (but at least :math:`10^{-5}` is divided by).
    a, b : float
        :math:`a` and :math:`b`. As :math:`\operatorname{atan2}(1, 1) = \pi / 4`, steps of a
        constant gradient are as long as Adam's for the default `a`.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), and ``param_init`` with
    `regen_reg_rate`. A state dict has the step count under the package's name, ``steps``.

    Names, defaults and steps are those of adam-atan2-pytorch, whose rates must be > 0 and which
    does not divide the decay of groups that are added later. If `regen_reg_rate` is set later,
    ``param_init`` is the parameter of then.

    The angle is a polynomial that is computed as other arithmetic is, many elements at once and
    with the same bits on every instruction set. Its error is below 1.8 units in the last place in
    float32 and below 2 in float64, at every ratio of both arguments. To the root is added what Adam
    has as the least `eps`, 1.1e-18 in float32 with these `betas`: tiny gradients, whose squares are
    flushed to zero, make no longer steps than others.

    References
    ----------
    .. [1] K. Everett et al., "Scaling Exponents Across Parameterizations and Optimizers",
       ICML 2024.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025.
    .. [4] S. Kumar, H. Marklund, B. Van Roy, "Maintaining Plasticity in Continual Learning via
       Regenerative Regularization", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> AdamAtan2([w], lr=0.1).step(grads=[2 * w])
    >>> w.round(4)
    array([ 0.9003, -1.9003])
    """

    _rules: ClassVar[tuple[str, ...]] = (
        "adam_atan2",
        "adam_atan2_pulled",
        "adam_atan2_cautious",
        "adam_atan2_cautious_pulled",
    )
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "weight_decay", "a", "b")
    _foreign_count: ClassVar[str] = "steps"
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        regen_reg_rate: float = 0.0,
        decoupled_wd: bool = False,
        cautious_wd: bool = False,
        cautious_factor: float = 1.0,
        a: float = 1.27,
        b: float = 1.0,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "regen_reg_rate": regen_reg_rate,
            "decoupled_wd": decoupled_wd,
            "cautious_wd": cautious_wd,
            "cautious_factor": cautious_factor,
            "a": a,
            "b": b,
            "maximize": maximize,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        lr = as_float(self.defaults["lr"])
        if group["decoupled_wd"]:
            if not lr > 0:
                raise ValueError(f"decoupled_wd=True requires a learning rate > 0, got {lr}")
            for name in ("weight_decay", "regen_reg_rate"):
                group[name] = as_float(group[name]) / lr
        return group

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("regen_reg_rate", group["regen_reg_rate"])
        check_interval("cautious_factor", group["cautious_factor"], 0.0, 1.0)
        check_finite("a", group["a"])
        check_finite("b", group["b"])
        self._check_one_decay(group)

    def _check_one_decay(self, group: Group) -> None:
        if group["weight_decay"] > 0 and group["regen_reg_rate"] > 0:
            raise ValueError(
                f"weight_decay {group['weight_decay']} and regen_reg_rate "
                f"{group['regen_reg_rate']} exclude each other: set one of them to 0"
            )

    def _rule_of(self, group: Group) -> str:
        self._check_one_decay(group)
        cautious = "_cautious" if group["cautious_factor"] < 1 else ""
        return f"adam_atan2{cautious}{'_pulled' if group['regen_reg_rate'] > 0 else ''}"

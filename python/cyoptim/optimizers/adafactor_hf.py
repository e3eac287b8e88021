"""Adafactor as in transformers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cyoptim._groups.options import (
    as_float,
    check_finite,
    check_interval,
    check_lr,
    check_nonnegative,
    check_pair,
    check_positive,
    check_switch,
)
from cyoptim._types import Group, ParamsT, StateDict
from cyoptim.optimizers._factored import FactoredOptimizer, Lines, Numbers, Shape

NAMES = ("exp_avg_sq_row", "exp_avg_sq_col")


class AdafactorHF(FactoredOptimizer):
    r"""Adafactor in the form of fairseq and transformers, with relative steps and momentum.

    For a gradient :math:`G_t` of :math:`n` rows and :math:`m` columns,

    .. math::

        \beta_t &= 1 - t^\tau \\
        R_t &= \beta_t R_{t-1} + (1 - \beta_t) (G_t^2 \, 1_m / m + \epsilon_1), \qquad
            C_t = \beta_t C_{t-1} + (1 - \beta_t) (1_n^\top G_t^2 / n + \epsilon_1) \\
        U_t &= \pm G_t / \sqrt{R_t C_t / (1_n^\top R_t / n)} \\
        \alpha_t &= \rho_t \max(\epsilon_2, \text{RMS}(\theta_{t-1})) \\
        M_t &= \beta_1 M_{t-1} + (1 - \beta_1) \, \alpha_t U_t / \max(1, \text{RMS}(U_t) / d) \\
        \theta_t &= (1 - \alpha_t \lambda) \theta_{t-1} - M_t

    The rate :math:`\rho_t` is `lr`, or :math:`\min(10^{-2}, 1 / \sqrt{t})` with `relative_step`,
    where `warmup_init` puts :math:`10^{-6} t` in the place of :math:`10^{-2}`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float, optional
        :math:`\rho`, >= 0; None with relative steps.
    eps : tuple of float
        :math:`\epsilon_1`, which is added to squares of gradients, and :math:`\epsilon_2`, the
        least scale of a parameter; both >= 0.
    clip_threshold : float
        :math:`d`, > 0: the largest root mean square of a step, before the rate.
    decay_rate : float
        :math:`\tau`, <= 0.
    beta1 : float, optional
        :math:`\beta_1`, in [0, 1); None: :math:`M_t` is the step itself, and there is no state
        for it.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    scale_parameter : bool
        Multiply by :math:`\max(\epsilon_2, \text{RMS}(\theta))` in :math:`\alpha_t`.
    relative_step : bool, optional
        Take the rate from the step count; not with `lr`. None: if there is no `lr`.
    warmup_init : bool
        Begin with a warm-up; needs relative steps.
    maximize : bool
        Follow the gradient upwards.

    Notes
    -----
    State: ``step``; ``exp_avg_sq_row`` and ``exp_avg_sq_col`` (:math:`R` and :math:`C`), or
    ``exp_avg_sq`` of a vector; ``exp_avg`` (:math:`M`) with `beta1`. The last two axes of an array
    with more than two form matrices.

    Arguments and results are those of ``transformers.Adafactor``, in which `relative_step` is True
    by default, so that an `lr` alone raises. :class:`Adafactor` is torch's form: it has a floor in
    the place of :math:`\epsilon_1`, a rate bounded by :math:`1 / \sqrt{t}`, and no momentum.

    References
    ----------
    .. [1] N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
       ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> AdafactorHF([W], lr=0.1, scale_parameter=False).step(grads=[2 * W])
    >>> W.round(3)
    array([[ 0.923, -1.89 ],
           [ 2.896,  3.902]])
    """

    _optional_state: ClassVar[tuple[str, ...]] = ("exp_avg",)
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr", "eps", "clip_threshold", "decay_rate", "beta1", "weight_decay", "scale_parameter",
        "relative_step", "warmup_init",
    )  # fmt: skip
    _step_type: ClassVar[type | None] = int
    _foreign_state: ClassVar[tuple[str, ...]] = ("RMS",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool | None = None,
        warmup_init: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
            "maximize": maximize,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        if group["relative_step"] is not None:
            check_switch("relative_step", group["relative_step"])
        check_switch("warmup_init", group["warmup_init"])
        if group["lr"] is not None:
            check_lr(group["lr"])
            if group["relative_step"]:
                raise ValueError("Cannot combine manual `lr` and `relative_step=True` options")
        elif not _is_relative(group):
            raise ValueError("relative_step=False needs an lr")
        if group["warmup_init"] and not _is_relative(group):
            raise ValueError("`warmup_init=True` requires `relative_step=True`")
        check_pair("eps", group["eps"])
        for index, value in enumerate(group["eps"]):
            check_nonnegative(f"eps[{index}]", value)
        check_positive("clip_threshold", group["clip_threshold"])
        check_finite("decay_rate", group["decay_rate"])
        if not group["decay_rate"] <= 0:
            raise ValueError(f"Invalid decay_rate value: {group['decay_rate']} (expected <= 0)")
        if group["beta1"] is not None:
            check_interval("beta1", group["beta1"], 0, 1)
        check_nonnegative("weight_decay", group["weight_decay"])

    def _state_shape(self, name: str, shape: Shape) -> Shape | None:
        return {
            "exp_avg_sq_row": shape[:-1],
            "exp_avg_sq_col": (*shape[:-2], *shape[-1:]),
            "exp_avg_sq": shape,
            "exp_avg": shape,
        }.get(name)

    def _shapes(self, shape: Shape, group: Group) -> dict[str, Shape]:
        names = NAMES if len(shape) > 1 else ("exp_avg_sq",)
        names = names if group["beta1"] is None else (*names, "exp_avg")
        return {name: self._state_shape(name, shape) or () for name in names}

    def _state_form(self, group: Group) -> Any:
        return group["beta1"] is None

    def _lines(self, shape: Shape, group: Group) -> Lines:
        return (NAMES if len(shape) > 1 else ("exp_avg_sq",)), ()

    def _numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        eps1, eps2 = (as_float(value) for value in group["eps"])
        rate = self._rate(group, t)
        return {
            "weight": t ** as_float(group["decay_rate"]),
            "eps": eps1,
            "scaled": bool(group["scale_parameter"]),
            "least_scale": eps2,
            "threshold": as_float(group["clip_threshold"]),
            "sign": -1.0 if group["maximize"] else 1.0,
            "rate": rate,
            "keep": 0.0 if group["beta1"] is None else as_float(group["beta1"]),
            "decay": rate * as_float(group["weight_decay"]),
            "decays_by_scale": True,
        }

    def _rate(self, group: Group, t: int) -> float:
        if not _is_relative(group):
            return as_float(group["lr"])
        return min(1e-6 * t if group["warmup_init"] else 1e-2, 1 / math.sqrt(t))

    def _export(self) -> StateDict:
        state_dict = super()._export()
        for group in state_dict["param_groups"]:  # transformers has no None there
            group["relative_step"] = _is_relative(group)
        return state_dict


def _is_relative(group: Group) -> bool:
    relative = group["relative_step"]
    return group["lr"] is None if relative is None else bool(relative)

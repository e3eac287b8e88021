"""StableAdamW."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np

from cyoptim._arrays.doors import is_tensor
from cyoptim._groups.groups import parameters_of
from cyoptim._groups.options import (
    as_float,
    check_moments,
    check_positive,
    check_switch,
    execution_switches,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT, StateDict
from cyoptim.optimizer import Optimizer


class StableAdamW(Optimizer):
    r"""StableAdamW: AdamW, whose rate falls where gradients outgrow their running average.

    .. math::

        \hat\beta_i &= \beta_i \frac{1 - \beta_i^{t - 1}}{1 - \beta_i^t} \\
        m_t &= \hat\beta_1 m_{t-1} \pm (1 - \hat\beta_1) g_t \\
        v_t &= \hat\beta_2 v_{t-1} + (1 - \hat\beta_2) g_t^2 \\
        \gamma_t &= \gamma \Big/ \max\Big(1,
            \sqrt{\operatorname{mean}(g_t^2 / \max(v_t, \epsilon^2))}\Big) \\
        \theta_t &= (1 - \gamma_t \lambda) \theta_{t-1}
            - \gamma_t \frac{m_t}{\sqrt{v_t} + \epsilon}

    The mean is over the elements of each parameter.

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
    eps : float
        :math:`\epsilon`, >= 0.
    decouple_lr : bool
        Decay by :math:`1 - \lambda \gamma_t / \gamma_{\max}` instead, so that `weight_decay` is the
        share that a step at the largest rate takes away: a hundredth of the usual or less.
    max_lr : float, optional
        :math:`\gamma_{\max}`, > 0: the largest rate of a schedule. With `decouple_lr` it is by
        default the optimizer's `lr`.
    foreach : bool, optional
        Accepted as in torch-optimi, without effect.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`). The state dict of an
    optimizer of torch tensors also has what torch-optimi's class reads, which counts steps in the
    groups; here a parameter's age is its own.

    Defaults and options are those of torch-optimi's ``StableAdamW``, where `lr` has no default. It
    also has ``kahan_sum``, for parameters in 16 bits, ``triton``, for other devices, and
    ``gradient_release``, for steps during the backward pass. Its gradients are overwritten by a
    step with ``foreach``; here they are not.

    References
    ----------
    .. [1] M. Wortsman et al., "Stable and low-precision training for large-scale vision-language
       models", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> StableAdamW([w], lr=0.1, weight_decay=0.0).step(grads=[2 * w])
    >>> w.round(4)
    array([ 2.9, -3.9])
    """

    _rule: ClassVar[str | None] = "stable_adamw"
    _exchanges_group_steps: ClassVar[bool] = True
    _foreign_state: ClassVar[tuple[str, ...]] = ("eps_sq", "kahan_comp")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-2,
        eps: float = 1e-6,
        decouple_lr: bool = False,
        max_lr: float | None = None,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "eps": eps,
            "decouple_lr": decouple_lr,
            "max_lr": max_lr,
            "maximize": maximize,
            **execution_switches(foreach=foreach),
            **storage,
        }
        check_moments(defaults)
        check_switch("decouple_lr", decouple_lr)
        if decouple_lr and max_lr is None:
            defaults["max_lr"] = as_float(lr)
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        if group["max_lr"] is not None:
            check_positive("max_lr", group["max_lr"])
        self._check_largest_rate(group)

    def _check_largest_rate(self, group: Group) -> None:
        if group["decouple_lr"] and group["max_lr"] is None:
            raise ValueError("decouple_lr=True needs max_lr, the largest rate of the schedule")

    def _rule_of(self, group: Group) -> str | None:
        self._check_largest_rate(group)
        return self._rule

    # --- state dicts of torch-optimi --------------------------------------------------------------

    def _own_form(self, state_dict: StateDict) -> StateDict:
        groups = [_own_options(group) for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    def _export(self) -> StateDict:
        state_dict = super()._export()
        params = list(parameters_of(self.param_groups))
        if all(map(is_tensor, params)):
            _add_what_optimi_reads(state_dict, params)
        return state_dict


def _own_options(group: Any) -> Any:
    """A group of torch-optimi's with the names of ours."""
    if not isinstance(group, dict):
        return group  # refused later
    for name in ("kahan_sum", "gradient_release"):
        if group.get(name):
            raise ValueError(f"{name}={group[name]} is not supported")
    own = {name: value for name, value in group.items() if name not in _OPTIONS}
    if "beta1" in group and "beta2" in group:
        own.setdefault("betas", (group["beta1"], group["beta2"]))
    return own


# What its groups have beside ours.
_OPTIONS = frozenset({"beta1", "beta2", "kahan_sum", "triton", "gradient_release", "setup"})


def _add_what_optimi_reads(state_dict: StateDict, params: list[Any]) -> None:
    from cyoptim._libraries.torch import export_count

    for group in state_dict["param_groups"]:
        beta1, beta2 = group["betas"]
        stepped = "step" in group
        group.update(beta1=beta1, beta2=beta2, triton=False, kahan_sum=False, setup=stepped)
        group["gradient_release"] = False
        if stepped:
            group["step"] = export_count(np.int64(group["step"]))
        for key in group["params"]:
            if key in state_dict["state"]:
                square = params[key].new_tensor(as_float(group["eps"]) ** 2)
                state_dict["state"][key].update(eps_sq=square, kahan_comp=None)

"""Simplified AdEMAMix."""

from __future__ import annotations

import math
from typing import ClassVar, Unpack

import numpy as np

from cyoptim._groups.options import (
    as_float,
    check_finite,
    check_interval,
    check_moments,
    check_nonnegative,
    check_positive,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT, StateDict
from cyoptim.optimizer import Optimizer

MOST = 1_000_000  # steps that are added up one by one


class SimAdEMAMix(Optimizer):
    r"""Simplified AdEMAMix: one sum of past gradients, and the gradient itself beside it.

    .. math::

        m_t &= \beta_{1,t} m_{t-1} \pm g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma
            \frac{\pm \alpha g_t + m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    During its warm-up, :math:`\beta_{1,t}` grows from `min_beta1` to :math:`\beta_1` such that the
    half-life of the weights grows linearly.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0: about :math:`1 - \beta_1` times AdamW's, as :math:`m` is
        a sum.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    alpha : float
        :math:`\alpha`, the weight of the gradient itself, >= 0.
    beta1_warmup : int, optional
        Steps of the warm-up of :math:`\beta_1`, > 0; None: no warm-up.
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    min_beta1 : float
        Where the warm-up begins, in [0, 1].
    bias_correction1 : bool
        Divide the step by the sum of the weights in :math:`m`, :math:`(1 - \beta_1^t) /
        (1 - \beta_1)`. It does not go together with `beta1_warmup`, where that sum has no formula.
    bias_correction2 : bool
        If False, the step is divided by :math:`\sqrt{1 - \beta_2^t}`.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`). A state dict has
    ``num_sum`` and ``den_sum``, too, the sums of the weights in :math:`m` and :math:`v`, which the
    authors' code keeps; they are computed from the step count and the options of the moment.

    Names, defaults and results are those of the authors' code. States of that code load here,
    and ours there.

    References
    ----------
    .. [1] D. Morwani, N. Vyas, H. Zhang, S. Kakade, "Connections between Schedule-Free Optimizers,
       AdEMAMix, and Accelerated SGD Variants", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> SimAdEMAMix([w], lr=0.1, alpha=1.0).step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.8, -1.8])
    """

    _rule: ClassVar[str | None] = "sim_ademamix"
    _step_type: ClassVar[type | None] = int
    # Computed from the step count here.
    _foreign_state: ClassVar[tuple[str, ...]] = ("num_sum", "den_sum")
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "betas",
        "alpha",
        "beta1_warmup",
        "eps",
        "weight_decay",
        "min_beta1",
    )

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.99, 0.95),
        alpha: float = 0.0,
        beta1_warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        min_beta1: float = 0.9,
        bias_correction1: bool = False,
        bias_correction2: bool = True,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "beta1_warmup": beta1_warmup,
            "eps": eps,
            "weight_decay": weight_decay,
            "min_beta1": min_beta1,
            "bias_correction1": bias_correction1,
            "bias_correction2": bias_correction2,
            "maximize": maximize,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("alpha", group["alpha"])
        check_interval("min_beta1", group["min_beta1"], 0, 1)
        if group["beta1_warmup"] is not None:
            check_positive("beta1_warmup", group["beta1_warmup"])
            check_finite("beta1_warmup", group["beta1_warmup"])
        self._check_correction(group)

    def _check_correction(self, group: Group) -> None:
        if group["beta1_warmup"] is not None and group["bias_correction1"]:
            raise ValueError(
                "bias_correction1=True does not go together with beta1_warmup, as the sum of the "
                "weights is then no formula of the step count: set one of them alone"
            )

    def _rule_of(self, group: Group) -> str | None:
        self._check_correction(group)
        return self._rule

    # --- the sums of weights, in the authors' state -----------------------------------------------

    def _export(self) -> StateDict:
        state_dict = super()._export()
        state = dict(state_dict["state"])
        for group in state_dict["param_groups"]:
            for key in group["params"]:
                if isinstance(state.get(key), dict) and "step" in state[key]:
                    state[key] = {**state[key], **_sums(int(state[key]["step"]), group)}
        return {**state_dict, "state": state}


def _sums(step: int, group: Group) -> dict[str, float]:
    """The sums of the weights of all gradients so far."""
    beta1, beta2 = map(as_float, group["betas"])
    step, gain = max(step, 0), max(1 - beta1, 1e-12)
    until = 0.0 if group["beta1_warmup"] is None else as_float(group["beta1_warmup"])
    warmup = math.ceil(min(until, 2.0**53)) if until > 0 else 0
    warm = max(0, min(step, warmup - 1))
    # Weights from before these steps are nothing beside the others.
    window = min(warm, math.ceil(40 / gain), MOST)
    a = np.arange(warm - window + 1, warm + 1) / max(warmup, 1)
    first, last = _half_life(as_float(group["min_beta1"])), _half_life(beta1)
    betas = 0.5 ** (1 / ((1 - a) * first + a * last + 1))
    total = float(np.cumprod([1.0, *betas[:0:-1]]).sum()) if window else 0.0
    kept = beta1 ** (step - warm)
    return {"num_sum": kept * total + (1 - kept) / gain, "den_sum": 1 - beta2**step}


def _half_life(beta: float) -> float:
    """In steps, less one, as in the rule."""
    return math.log(0.5) / math.log(min(beta + 1e-8, 1 - float(np.finfo(float).eps))) - 1

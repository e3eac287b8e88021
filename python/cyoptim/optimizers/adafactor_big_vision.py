"""Adafactor as in Big Vision."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cyoptim._arrays.doors import is_tensor
from cyoptim._groups.options import (
    as_float,
    check_finite,
    check_interval,
    check_lr,
    check_nonnegative,
    check_positive,
    check_whole,
)
from cyoptim._types import Group, ParamsT, StateDict
from cyoptim.optimizers._factored import Axes, FactoredOptimizer, Lines, Numbers, Shape


class AdafactorBigVision(FactoredOptimizer):
    r"""Adafactor in the form of Big Vision, for the training of vision transformers.

    For a gradient :math:`G_t` of :math:`n` rows and :math:`m` columns,

    .. math::

        \beta_t &= \min(\bar\beta, 1 - \max(t - t_0, 1)^{-\tau}) \\
        R_t &= \beta_t R_{t-1} + (1 - \beta_t) (G_t^2 \, 1_m / m + \epsilon), \qquad
            C_t = \beta_t C_{t-1} + (1 - \beta_t) (1_n^\top G_t^2 / n + \epsilon) \\
        U_t &= \pm G_t / \sqrt{R_t C_t / (1_n^\top R_t / n)}, \qquad
            M_t = \mu M_{t-1} + (1 - \mu) \, U_t / \max(1, \text{RMS}(U_t) / d) \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma M_t

    The rows and columns are the two longest axes, if both have `min_dim_size_to_factor` elements;
    other arrays have a mean square for each element.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    min_dim_size_to_factor : int
        The least length of both axes of a matrix, >= 0.
    decay_rate : float
        :math:`\tau`, >= 0.
    decay_offset : int
        :math:`t_0`, >= 0: the steps before the second moment's average begins to lengthen.
    beta2_cap : float
        :math:`\bar\beta`, in [0, 1]: the largest :math:`\beta_t`.
    momentum : float, optional
        :math:`\mu`, in [0, 1]; None: the step itself is made, and there is no state for it.
    eps : float, optional
        :math:`\epsilon`, >= 0; None is 1e-30.
    weight_decay : float
        :math:`\lambda`, >= 0.
    clipping_threshold : float, optional
        :math:`d`, > 0; None does not clip.
    unscaled_wd : bool
        Multiply the parameter by :math:`1 - \lambda`, without the learning rate.
    caution : bool
        Step only in elements in which :math:`M_t` has the sign of the gradient, and as much further
        as there are fewer of them, up to a thousand times; requires a momentum.
    maximize : bool
        Follow the gradient upwards.

    Notes
    -----
    State: ``step``; ``exp_avg_sq_r`` and ``exp_avg_sq_c`` (means over the longest axis, and over
    the second longest), or ``exp_avg_sq``; ``exp_avg`` (:math:`M`) with momentum.

    Arguments and results are those of timm's ``AdafactorBigVision``, but for the type of the
    momentum: there it is stored in bfloat16 (``momentum_dtype``), here in the parameter's type.
    ``corrected_weight_decay`` is not here.

    References
    ----------
    .. [1] X. Zhai et al., "Scaling Vision Transformers", CVPR 2022.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> AdafactorBigVision([W], lr=0.1, min_dim_size_to_factor=2).step(grads=[2 * W])
    >>> W.round(3)
    array([[ 0.992, -1.989],
           [ 2.99 ,  3.99 ]])
    """

    _optional_state: ClassVar[tuple[str, ...]] = ("exp_avg",)
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr", "min_dim_size_to_factor", "decay_rate", "decay_offset", "beta2_cap", "momentum",
        "eps", "weight_decay", "clipping_threshold", "unscaled_wd",
    )  # fmt: skip
    _foreign_options: ClassVar[dict[str, Any]] = {"momentum_dtype": None, "max_lr_snapshot": 1.0}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        min_dim_size_to_factor: int = 16,
        decay_rate: float = 0.8,
        decay_offset: int = 0,
        beta2_cap: float = 0.999,
        momentum: float | None = 0.9,
        eps: float | None = None,
        weight_decay: float = 0.0,
        clipping_threshold: float | None = None,
        unscaled_wd: bool = False,
        caution: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "min_dim_size_to_factor": min_dim_size_to_factor,
            "decay_rate": decay_rate,
            "decay_offset": decay_offset,
            "beta2_cap": beta2_cap,
            "momentum": momentum,
            "eps": eps,
            "weight_decay": weight_decay,
            "clipping_threshold": clipping_threshold,
            "unscaled_wd": unscaled_wd,
            "caution": caution,
            "maximize": maximize,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        for name in ("min_dim_size_to_factor", "decay_offset"):
            check_whole(name, group[name])
        check_nonnegative("decay_rate", group["decay_rate"])
        check_finite("decay_rate", group["decay_rate"])
        check_interval("beta2_cap", group["beta2_cap"], 0, 1)
        if group["momentum"] is not None:
            check_interval("momentum", group["momentum"], 0, 1)
        elif group["caution"]:
            raise ValueError("caution=True requires a momentum, but momentum is None")
        if group["eps"] is not None:
            check_nonnegative("epsilon", group["eps"])
        check_nonnegative("weight_decay", group["weight_decay"])
        if group["clipping_threshold"] is not None:
            check_positive("clipping_threshold", group["clipping_threshold"])

    def _check_loaded_options(self, group: Group) -> None:
        super()._check_loaded_options(group)
        if group.get("corrected_weight_decay"):  # timm's, which is not here
            raise ValueError("corrected_weight_decay=True is not supported")

    def _axes(self, shape: Shape, group: Group) -> Axes:
        if len(shape) < 2 or sorted(shape)[-2] < group["min_dim_size_to_factor"]:
            return None
        first, second = sorted(_longest(shape))
        return first, second

    def _state_shape(self, name: str, shape: Shape) -> Shape | None:
        if name in ("exp_avg_sq_r", "exp_avg_sq_c"):
            if len(shape) < 2:
                return shape
            without = _longest(shape)[1 if name == "exp_avg_sq_r" else 0]
            return tuple(1 if axis == without else n for axis, n in enumerate(shape))
        return shape if name in ("exp_avg_sq", "exp_avg") else None

    def _shapes(self, shape: Shape, group: Group) -> dict[str, Shape]:
        factored = self._axes(shape, group) is not None
        names = ("exp_avg_sq_r", "exp_avg_sq_c") if factored else ("exp_avg_sq",)
        names = names if group["momentum"] is None else (*names, "exp_avg")
        return {name: self._state_shape(name, shape) or () for name in names}

    def _state_form(self, group: Group) -> Any:
        return group["momentum"] is None, group["min_dim_size_to_factor"]

    def _lines(self, shape: Shape, group: Group) -> Lines:
        axes, names = self._axes(shape, group), ("exp_avg_sq_r", "exp_avg_sq_c")
        if axes is None:
            return ("exp_avg_sq",), ()
        return (names if _longest(shape)[1] == axes[1] else names[::-1]), ()

    def _numbers(self, group: Group, t: int, dtype: np.dtype[Any]) -> Numbers:
        count = max(t - int(as_float(group["decay_offset"])), 1)
        beta2 = min(as_float(group["beta2_cap"]), 1 - count ** -as_float(group["decay_rate"]))
        threshold, momentum = group["clipping_threshold"], group["momentum"]
        lr, decay = as_float(group["lr"]), as_float(group["weight_decay"])
        return {
            "weight": 1 - beta2,
            "eps": 1e-30 if group["eps"] is None else as_float(group["eps"]),
            "threshold": math.inf if threshold is None else as_float(threshold),
            "sign": -1.0 if group["maximize"] else 1.0,
            "keep": 0.0 if momentum is None else as_float(momentum),
            "cautious": momentum is not None and bool(group["caution"]),
            "rest": lr,
            "decay": decay if group["unscaled_wd"] else lr * decay,
        }

    def _export(self) -> StateDict:
        state_dict = super()._export()
        for group, own in zip(state_dict["param_groups"], self.param_groups, strict=True):
            tensors = [param for param in own["params"] if is_tensor(param)]
            if tensors:  # timm looks for the type in which it shall store the momentum
                group["momentum_dtype"] = tensors[0].dtype
        return state_dict


def _longest(shape: Shape) -> tuple[int, int]:
    """The second longest axis and the longest; of equally long ones the last is the longest."""
    *_, (_, second), (_, first) = sorted((n, axis) for axis, n in enumerate(shape))
    return second, first

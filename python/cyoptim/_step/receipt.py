"""The arguments of a step besides its gradients, and its receipt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cyoptim._engine import Extras
from cyoptim._groups.options import as_float, check_finite, check_nonnegative, check_switch
from cyoptim._shown import table
from cyoptim._types import Group, Kwargs


@dataclass(frozen=True)
class StepReceipt:
    """The norm, clipping and checks of a step; see :meth:`cyoptim.Optimizer.step`.

    Attributes
    ----------
    total_norm : float or None
        The norm of all gradients as one vector, after division by ``grad_scale``; None if it was
        not computed.
    clip_coefficient : float
        The factor by which clipping multiplied the gradients: 1 if they were not clipped.
    skipped : bool
        Whether the step was skipped, because gradients were not finite.
    nonfinite : tuple
        The parameters whose gradients contain NaN or infinity: names, or numbers in the order of
        the groups. Empty if the norm was not computed.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> w = np.zeros(2)
    >>> optimizer = SGD([("w", w)], lr=1.0)
    >>> optimizer.step(grads={"w": np.array([np.nan, 1.0])}, nonfinite="skip")
    >>> optimizer.last_step
    StepReceipt(total_norm=nan, clip_coefficient=1.0, skipped=True, nonfinite=('w',))
    """

    total_norm: float | None
    clip_coefficient: float
    skipped: bool
    nonfinite: tuple[str | int, ...]

    def _repr_html_(self) -> str:
        return table("StepReceipt", vars(self))


def receipt_of(extras: Extras, groups: list[Group]) -> StepReceipt:
    """What a step over these groups has found and done."""
    names: list[str | int] = []
    for group in groups:
        count = len(group["params"])
        names += group.get("param_names") or range(len(names), len(names) + count)
    return StepReceipt(
        total_norm=extras.total_norm,
        clip_coefficient=extras.coefficient,
        skipped=extras.skipped,
        nonfinite=tuple(names[i] for i in extras.nonfinite),
    )


_POLICIES = ("propagate", "raise", "skip")


class Asked(NamedTuple):
    """What a step is asked for beside its update."""

    max_norm: Any = None
    grad_scale: Any = None
    zero_grad: Any = False
    nonfinite: Any = "propagate"

    def given(self) -> Kwargs:
        """What is not as by default, by name."""
        given: Kwargs = {}
        if self.max_norm is not None:
            given["max_norm"] = self.max_norm
        if self.grad_scale is not None:
            given["grad_scale"] = self.grad_scale
        if self.zero_grad:
            given["zero_grad"] = self.zero_grad
        if self.nonfinite != "propagate":
            given["nonfinite"] = self.nonfinite
        return given


def extras_of(asked: Asked, scale: float, averaged: int) -> Extras | None:
    """What was asked for, checked; None if it is nothing. Gradients are divided by `scale`, that of
    a scaler, too, and by how many of them were `averaged`."""
    max_norm, grad_scale, nonfinite = asked.max_norm, asked.grad_scale, asked.nonfinite
    if scale != 1:
        grad_scale = scale if grad_scale is None else scale * grad_scale
    plain = max_norm is None and grad_scale is None and nonfinite == "propagate"
    if plain and not asked.zero_grad and not averaged:
        return None
    if max_norm is not None:
        check_nonnegative("max_norm", max_norm)
    if grad_scale is not None:
        check_finite("grad_scale", grad_scale)
        if grad_scale == 0:
            raise ValueError("grad_scale is 0: gradients cannot be divided by it")
    check_switch("zero_grad", asked.zero_grad)
    if nonfinite not in _POLICIES:
        raise ValueError(f"nonfinite must be one of {', '.join(_POLICIES)}, got {nonfinite!r}")
    return Extras(
        float("inf") if max_norm is None else as_float(max_norm),
        (1.0 if grad_scale is None else as_float(grad_scale)) * max(averaged, 1),
        bool(asked.zero_grad),
        _POLICIES.index(nonfinite),
    )

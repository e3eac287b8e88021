"""The attributes that torch.amp.GradScaler sets on optimizers that unscale by themselves."""

from __future__ import annotations

from typing import Any

NAMES = ("grad_scale", "found_inf")


class ScalerInput:
    """An attribute that a scaler sets for one step, and deletes.

    Only steps on the slow path read it; while it is set, all steps take that path. Before it is
    set, the attribute does not exist, as on torch's optimizers.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._kept = name, f"_scaler_{name}"

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        try:
            return getattr(optimizer, self._kept)
        except AttributeError:
            raise AttributeError(
                f"{type(optimizer).__name__!r} object has no attribute {self._name!r}"
            ) from None

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer._quick = None
        setattr(optimizer, self._kept, value)
        optimizer._has_scaler_inputs = True

    def __delete__(self, optimizer: Any) -> None:
        self.__get__(optimizer, type(optimizer))
        delattr(optimizer, self._kept)
        optimizer._has_scaler_inputs = any(hasattr(optimizer, name) for name in NAMES)


class ScalesItself:
    """Whether a scaler leaves gradients scaled, as for torch's fused steps.

    A user's class may set the attribute to any value.
    """

    def __get__(self, optimizer: Any, owner: type) -> bool:
        return optimizer is not None and all(g.get("fused") for g in optimizer.param_groups)


def scaler_inputs(optimizer: Any) -> tuple[float, bool]:
    """The divisor of the gradients, and whether any of them is not finite."""
    if not optimizer._step_supports_amp_scaling:
        return 1.0, False
    scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    return 1.0 if scale is None else float(scale), found is not None and bool(found)

"""What torch.amp.GradScaler leaves with an optimizer that says it scales gradients itself."""

from __future__ import annotations

from typing import Any

NAMES = ("grad_scale", "found_inf")


class ScalerInput:
    """An attribute that a scaler sets for one step, and deletes.

    Only steps that go the long way look at it, and they do while it is there. Until it is set there
    is no such attribute, as on torch's optimizers.
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
    """Whether a scaler is to leave gradients scaled, as it is for torch's fused steps.

    A class of a user's own may set the attribute to what it likes.
    """

    def __get__(self, optimizer: Any, owner: type) -> bool:
        return optimizer is not None and all(g.get("fused") for g in optimizer.param_groups)


def scaler_inputs(optimizer: Any) -> tuple[float, bool]:
    """What gradients are to be divided by, and whether one of them is not finite."""
    if not optimizer._step_supports_amp_scaling:
        return 1.0, False
    scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    return 1.0 if scale is None else float(scale), found is not None and bool(found)

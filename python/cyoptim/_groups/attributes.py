"""Errors for options that are read or set as attributes of an optimizer."""

from __future__ import annotations

from typing import Any


class OptionOfGroups:
    """Raises for an attribute that optimizers of this package do not have. Users' subclasses may
    define it."""

    def __init__(self, option: str = "") -> None:
        self._option = option  # its name, if it is not that of the attribute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Any, owner: Any = None) -> Any:
        if optimizer is None or self._name not in vars(optimizer):
            raise self._refusal(owner)
        return vars(optimizer)[self._name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        if type(optimizer).__module__.partition(".")[0] == "cyoptim":
            raise self._refusal(type(optimizer))
        vars(optimizer)[self._name] = value

    def __delete__(self, optimizer: Any) -> None:
        del vars(optimizer)[self._name]

    def _refusal(self, owner: type) -> AttributeError:
        return AttributeError(
            f"{owner.__name__} has no attribute {self._name!r}: options are those of the groups, "
            f"optimizer.param_groups[0][{(self._option or self._name)!r}]"
        )

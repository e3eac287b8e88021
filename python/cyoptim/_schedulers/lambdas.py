"""Schedules made of functions that the user gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

from cyoptim._engine import Commit
from cyoptim._schedulers.base import (
    LRScheduler,
    StateDict,
    check_optimizer,
    take,
    warn_outside_step,
)
from cyoptim._schedulers.values import Scalar, group_values, shared
from cyoptim.optimizer import Optimizer

EpochFunction: TypeAlias = Callable[[int], float]


def callable_state(function: Any) -> dict[str, Any] | None:
    """What a state dict keeps of a callable: of an object its attributes, of a function nothing."""
    functions = (FunctionType, MethodType, BuiltinFunctionType)
    if isinstance(function, functions) or not hasattr(function, "__dict__"):
        return None
    return dict(vars(function))


def restore_callable(function: Any, state: dict[str, Any] | None, commit: Commit) -> None:
    """Let `commit` give a user's callable the attributes that were saved of it."""
    if state is not None:
        commit.update(vars(function), state)


class _LambdasLR(LRScheduler):
    """Schedules with a function of the user for each group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: EpochFunction | Sequence[EpochFunction],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.lr_lambdas = _one_per_group(optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def _adopt_groups(self) -> None:
        super()._adopt_groups()
        while len(self.lr_lambdas) < len(self.optimizer.param_groups):
            self.lr_lambdas.append(shared(self.lr_lambdas, "lr_lambdas"))

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and functions; see :meth:`LRScheduler.state_dict`."""
        states = [callable_state(function) for function in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": states}

    def _load(self, state: StateDict, commit: Commit) -> None:
        saved = take(state, "lr_lambdas", self)
        super()._load(state, commit)
        for function, attributes in zip(self.lr_lambdas, saved, strict=False):
            restore_callable(function, attributes, commit)


def _one_per_group(
    optimizer: Optimizer, lr_lambda: EpochFunction | Sequence[EpochFunction]
) -> list[EpochFunction]:
    count = len(optimizer.param_groups)
    if isinstance(lr_lambda, (list, tuple)):
        if len(lr_lambda) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(lr_lambda)}")
        functions = list(lr_lambda)
    else:
        functions = [lr_lambda] * count
    for function in functions:
        if not callable(function):
            raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
    return functions


class LambdaLR(_LambdasLR):
    r"""Multiply the starting learning rate by a function of the epoch.

    .. math:: \eta_t = \eta_0 f(t)

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    TypeError
        If `lr_lambda` cannot be called.
    ValueError
        If there are not as many functions as groups.

    Notes
    -----
    A state dict holds no functions, only the attributes of callable objects.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> LambdaLR(SGD([np.zeros(3)], lr=1.0), lambda epoch: 1 / (1 + epoch)).preview(3)
    [0.5, 0.3333333333333333, 0.25]
    """

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``."""
        warn_outside_step(self)
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class MultiplicativeLR(_LambdasLR):
    r"""Multiply the learning rate by a function of the epoch, at every epoch.

    .. math:: \eta_t = \eta_{t-1} f(t)

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last epoch that is done; -1 to begin.

    Raises
    ------
    TypeError
        If `lr_lambda` cannot be called.
    ValueError
        If there are not as many functions as groups.

    Notes
    -----
    A state dict holds no functions, only the attributes of callable objects.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> MultiplicativeLR(SGD([np.zeros(3)], lr=1.0), lambda epoch: 0.5).preview(3)
    [0.5, 0.25, 0.125]
    """

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those at the epoch before it."""
        warn_outside_step(self)
        if self._is_initial:
            return group_values(self.optimizer, "lr")
        pairs = zip(self.optimizer.param_groups, self.lr_lambdas, strict=True)
        return [group["lr"] * function(self.last_epoch) for group, function in pairs]

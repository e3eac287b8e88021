"""Schedules by functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

from cyoptim._engine import Commit
from cyoptim._groups.numbers import number, plain
from cyoptim._schedulers.arguments import check_optimizer
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.order import warn_outside_step
from cyoptim._schedulers.states import StateDict, plain_state
from cyoptim._schedulers.values import Scalar, group_values, listed, shared
from cyoptim.optimizer import Optimizer

EpochFunction: TypeAlias = Callable[[int], float]


def returned(value: Any, what: str, epoch: float) -> Any:
    """The result of a user's function, as a number."""
    return value if type(value) is float else number(f"the result of {what} at {epoch}", value)


def callable_state(function: Any) -> dict[str, Any] | None:
    """The entry of a callable in a state dict: the attributes of an object; None for a function."""
    functions = (FunctionType, MethodType, BuiltinFunctionType)
    if isinstance(function, functions) or not hasattr(function, "__dict__"):
        return None
    return plain_state(vars(function))


def saved_callable(saved: Any) -> Any:
    """The saved attributes of a callable, also if the state contains the callable itself."""
    return callable_state(saved) if callable(saved) else plain(saved)


def restore_callable(function: Any, state: Any, commit: Commit) -> None:
    """Let `commit` restore the saved attributes of a user's callable."""
    if state is None:
        return
    if not isinstance(state, dict) or not hasattr(function, "__dict__"):
        raise TypeError(
            f"the state holds {state!r} of a function, expected a dict of attributes for "
            f"{function!r}"
        )
    commit.update(vars(function), state)


class _LambdasLR(LRScheduler):
    """Schedules with a function of the user for each group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: EpochFunction | Sequence[EpochFunction],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, self)
        self.lr_lambdas: list[EpochFunction] = _one_per_group(optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def _factors(self) -> list[float]:
        """The results of the functions for the present epoch."""
        epoch = self.last_epoch
        return [
            returned(function(epoch), f"lr_lambda of parameter group {i}", epoch)
            for i, function in enumerate(self.lr_lambdas)
        ]

    def _adopt_groups(self) -> None:
        super()._adopt_groups()
        while len(self.lr_lambdas) < len(self.optimizer.param_groups):
            self.lr_lambdas.append(shared(self.lr_lambdas, "lr_lambdas"))

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and functions; see :meth:`LRScheduler.state_dict`."""
        states = [callable_state(function) for function in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": states}

    def _modern(self, state: StateDict) -> StateDict:
        functions = state.get("lr_lambdas")
        if isinstance(functions, (list, tuple)):
            state["lr_lambdas"] = [saved_callable(function) for function in functions]
        return state

    def _load(self, state: StateDict, commit: Commit) -> None:
        saved = state.pop("lr_lambdas")
        super()._load(state, commit)
        for function, attributes in zip(self.lr_lambdas, saved, strict=False):
            restore_callable(function, attributes, commit)


def _one_per_group(
    optimizer: Optimizer, lr_lambda: EpochFunction | Sequence[EpochFunction]
) -> list[EpochFunction]:
    count = len(optimizer.param_groups)
    lr_lambda = listed(lr_lambda)
    if isinstance(lr_lambda, (list, tuple)):
        if len(lr_lambda) != count:
            raise ValueError(
                f"Expected {count} lr_lambdas, but got {len(lr_lambda)}: give one function for all "
                "param groups, or one for each"
            )
        functions = list(lr_lambda)
    else:
        functions = [lr_lambda] * count
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"lr_lambda should be a function, but got {type(function).__name__}: write "
                "lambda epoch: 0.95**epoch"
            )
    return functions


class LambdaLR(_LambdasLR):
    r"""Multiply the starting learning rate by a function of the epoch.

    .. math:: \eta_t = \eta_0 f(t)

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last completed epoch; -1 to begin.

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

    _marks = frozenset({"lr_lambdas"})

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``."""
        warn_outside_step(self)
        pairs = zip(self.base_lrs, self._factors(), strict=True)
        return [base * factor for base, factor in pairs]


class MultiplicativeLR(_LambdasLR):
    r"""Multiply the learning rate by a function of the epoch, at every epoch.

    .. math:: \eta_t = \eta_{t-1} f(t)

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets.
    lr_lambda : callable or list of callable
        The function :math:`f`, for all groups or one for each.
    last_epoch : int
        The last completed epoch; -1 to begin.

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

    _marks = frozenset({"lr_lambdas"})

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those at the previous epoch."""
        warn_outside_step(self)
        if self._is_initial:
            return group_values(self.optimizer, "lr")
        pairs = zip(self.optimizer.param_groups, self._factors(), strict=True)
        return [group["lr"] * factor for group, factor in pairs]

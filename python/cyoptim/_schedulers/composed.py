"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cyoptim._arrays.doors import type_name
from cyoptim._engine import Commit
from cyoptim._groups.numbers import number
from cyoptim._schedulers.arguments import check_optimizer
from cyoptim._schedulers.base import LRScheduler
from cyoptim._schedulers.plateau import ReduceLROnPlateau
from cyoptim._schedulers.states import StateDict, plain_state
from cyoptim._schedulers.values import Scalar, copied, group_values
from cyoptim.optimizer import Optimizer


class _Composed(LRScheduler):
    """Schedules that step others."""

    _schedulers: list[LRScheduler]

    def _first_child(self) -> LRScheduler:
        raise NotImplementedError

    def _parts(self) -> Iterator[LRScheduler]:
        yield self
        for scheduler in getattr(self, "_schedulers", ()):  # missing during construction
            yield from scheduler._parts()

    def _start_lrs(self) -> list[Scalar]:
        return self._first_child()._start_lrs()

    def _reset_lrs(self) -> None:
        """Undo the changes of groups by the construction of the schedules."""
        lrs = [copied(lr) for lr in self._start_lrs()]
        self._set_lrs(lrs + group_values(self.optimizer, "lr")[len(lrs) :])

    def _rewind(self) -> None:
        for scheduler in self._schedulers:
            scheduler._rewind()

    def _take_over(self) -> None:
        self._initial_step()

    def state_dict(self) -> StateDict:
        """Everything but the optimizer; see :meth:`LRScheduler.state_dict`."""
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**super().state_dict(), "_schedulers": states}

    def _modern(self, state: StateDict) -> StateDict:
        saved = state.get("_schedulers")
        if isinstance(saved, (list, tuple)) and all(isinstance(own, Mapping) for own in saved):
            pairs = zip(self._schedulers, saved, strict=False)
            parts = [plain_state(scheduler._modern(dict(own))) for scheduler, own in pairs]
            state["_schedulers"] = [*parts, *saved[len(parts) :]]
        return state

    def _load(self, state: StateDict, commit: Commit) -> None:
        saved = state.pop("_schedulers")
        if len(saved) != len(self._schedulers):
            raise ValueError(
                f"the state is one of {len(saved)} schedulers, expected {len(self._schedulers)}"
            )
        for i, (scheduler, own) in enumerate(zip(self._schedulers, saved, strict=True)):
            try:
                scheduler._prepare_load(own, commit)
            except (TypeError, ValueError) as error:
                name = type(self).__name__
                raise type(error)(f"scheduler {i} of the {name}: {error}") from error
        super()._load(state, commit)


def _check_schedulers(name: str, schedulers: Sequence[Any], optimizer: Any) -> None:
    for i, scheduler in enumerate(schedulers):
        if not hasattr(scheduler, "optimizer"):
            raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{name} at index {i} is no scheduler, but a {type_name(scheduler)}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                f"{name} does not support `ReduceLROnPlateau` scheduler as it "
                "requires additional kwargs to be specified when calling `step`, "
                f"but got one at index {i} in the given schedulers sequence."
            )
        if scheduler.optimizer is not optimizer:
            raise ValueError(
                f"{name} expects all schedulers to belong to the same optimizer, but "
                f"got scheduler {type(scheduler).__name__} at index {i} has "
                f"{scheduler.optimizer}, which is different from {type(optimizer).__name__}."
            )


class SequentialLR(_Composed):
    """Follow one schedule after another, each from its own beginning.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer of all `schedulers`.
    schedulers : list of LRScheduler
        The schedules in their order. From now on step only this scheduler.
    milestones : list of int
        The epochs at which the second, third, ... schedule takes over.
    last_epoch : int
        The last completed epoch; -1 to begin. Otherwise the schedules are stepped up to it.

    Raises
    ------
    TypeError
        If one of `schedulers` is not a scheduler.
    ValueError
        If the number of milestones is not that of schedulers less one, if milestones decrease, or
        if the schedulers drive different optimizers or need a metric.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> from cyoptim.lr_scheduler import ExponentialLR, LinearLR
    >>> optimizer = SGD([np.zeros(3)], lr=1.0)
    >>> warmup = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> scheduler = SequentialLR(optimizer, [warmup, ExponentialLR(optimizer, 0.5)], [2])
    >>> scheduler.preview(4)
    [0.75, 1.0, 0.5, 0.25]
    """

    _marks = frozenset({"_schedulers", "_milestones"})

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        name = type(self).__name__
        check_optimizer(optimizer, self)
        if len(schedulers) < 1:
            raise ValueError(f"{name} expects at least one scheduler, but got no scheduler.")
        milestones = [number(f"milestones[{i}]", epoch) for i, epoch in enumerate(milestones)]
        last_epoch = number("last_epoch", last_epoch)
        _check_schedulers(name, schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more "
                f"than the number of milestone points, but got number of schedulers "
                f"{len(schedulers)} and the number of milestones to be equal to {len(milestones)}"
            )
        if any(later < earlier for earlier, later in pairwise(milestones)):
            raise ValueError(f"milestones must not decrease, got {milestones}")
        self._schedulers = list(schedulers)
        self._milestones = milestones
        self.optimizer = optimizer
        self._initial_step()
        self._fast_forward(last_epoch + 1)

    def _fast_forward(self, epochs: int) -> None:
        # No warning: the optimizer has already made its steps.
        called, self.optimizer._opt_called = self.optimizer._opt_called, True
        try:
            for _ in range(epochs):
                self.step()
        finally:
            self.optimizer._opt_called = called

    def _first_child(self) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, 0)]

    def _rewind(self) -> None:
        super()._rewind()
        self.last_epoch: int = -1

    def _initial_step(self) -> None:
        self._rewind()
        self._reset_lrs()
        self.last_epoch = 0
        self._first_child()._initial_step()
        self._last_lr = group_values(self.optimizer, "lr")

    def step(self) -> None:
        """Go on to the next epoch. Call it after the optimizer's step."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            self._schedulers[i]._take_over()
        else:
            self._schedulers[i].step()
        self._last_lr = group_values(self.optimizer, "lr")


class ChainedScheduler(_Composed):
    """Step several schedules at once, so that their factors multiply.

    Parameters
    ----------
    schedulers : sequence of LRScheduler
        The schedules to step, in this order.
    optimizer : Optimizer, optional
        Their optimizer; by default that of the first.

    Raises
    ------
    TypeError
        If one of `schedulers` is not a scheduler.
    ValueError
        If there are no schedulers, or they drive different optimizers or need a metric.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> from cyoptim.lr_scheduler import ConstantLR, ExponentialLR
    >>> optimizer = SGD([np.zeros(3)], lr=1.0)
    >>> slow = ConstantLR(optimizer, factor=0.5, total_iters=2)
    >>> ChainedScheduler([slow, ExponentialLR(optimizer, 0.5)]).preview(3)
    [0.25, 0.25, 0.125]
    """

    _marks = frozenset({"_schedulers"})

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(
                f"{name} expects at least one scheduler to be chained, but got no scheduler."
            )
        if optimizer is None:
            optimizer = getattr(schedulers[0], "optimizer", None)
        else:
            check_optimizer(optimizer, self)
        _check_schedulers(name, schedulers, optimizer)
        self._schedulers = list(schedulers)
        self.optimizer: Optimizer = self._schedulers[0].optimizer
        self._last_lr = group_values(self.optimizer, "lr")

    def _first_child(self) -> LRScheduler:
        return self._schedulers[0]

    def _initial_step(self) -> None:
        self._rewind()
        self._reset_lrs()
        for scheduler in self._schedulers:
            scheduler._initial_step()
        self._last_lr = group_values(self.optimizer, "lr")

    def step(self) -> None:
        """Go on to the next epoch. Call it after the optimizer's step."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = group_values(self.optimizer, "lr")

"""The base of schedulers: steps, later groups, state, and a preview."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from cyoptim._arrays.doors import type_name
from cyoptim._engine import Commit
from cyoptim._groups.numbers import number
from cyoptim._schedulers.arguments import check_count, check_optimizer, check_rates, initial_lrs
from cyoptim._schedulers.order import (
    _initial_mode,
    check_order,
    watch_step,
    whole,
)
from cyoptim._schedulers.states import MARKS, StateDict, check_entry, check_marks, plain_state
from cyoptim._schedulers.values import Scalar, copied, group_values, set_value
from cyoptim._shown import arguments_of, call, table
from cyoptim._warnings import warn
from cyoptim.optimizer import Optimizer

Self = TypeVar("Self", bound="LRScheduler")

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being "
    "deprecated where possible. Please use `scheduler.step()` to step the "
    "scheduler. During the deprecation, if epoch is different from None, the "
    "closed form is used instead of the new chainable form, where available."
)


class _Root:
    """A base other than object, as only then further bases can be added: see
    :mod:`cyoptim._libraries.torch_optim`."""


class LRScheduler(_Root):
    """Base class of schedules, which set the learning rate of every group once per epoch.

    A subclass defines :meth:`get_lr` from ``last_epoch``, ``base_lrs`` and the optimizer's groups.
    An epoch is the time between two calls of :meth:`step`: a batch, or a pass over the data.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer whose learning rates it sets. The constructor sets ``"lr"`` of all groups for
        the first epoch.
    last_epoch : int
        The last completed epoch; -1 to begin. Otherwise the groups must have ``"initial_lr"``,
        for instance from :meth:`cyoptim.Optimizer.load_state_dict`.

    Attributes
    ----------
    last_epoch : int
        The epoch of the present ``"lr"``; 0 after construction.
    base_lrs : list
        The starting learning rates, one per group. Groups that are added later are included from
        the next step on.

    Raises
    ------
    TypeError
        If `optimizer` is not an optimizer.
    KeyError
        If `last_epoch` >= 0 and a group has no ``"initial_lr"``.

    Notes
    -----
    A learning rate that is an array without axes or a torch tensor is filled in place.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> class Halving(LRScheduler):
    ...     def get_lr(self):
    ...         return [base / 2**self.last_epoch for base in self.base_lrs]
    >>> Halving(SGD([np.zeros(3)], lr=1.0)).preview(3)
    [0.5, 0.25, 0.125]
    """

    # Entries of a state of this class in every version, here and in torch. Only they distinguish
    # states of two classes.
    _marks: ClassVar[frozenset[str]] = frozenset()

    _get_lr_called_within_step: bool = False
    _is_initial: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_marks" in cls.__dict__:
            MARKS[cls.__name__] = cls._marks
        if "step" in cls.__dict__:
            cls.step = whole(cls.step)  # type: ignore[method-assign]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer, self)
        self.optimizer = optimizer
        self.last_epoch: int = number("last_epoch", last_epoch)
        self.base_lrs: list[Scalar] = initial_lrs(optimizer, self.last_epoch)
        watch_step(optimizer)
        self._initial_step()

    # --- stepping ---------------------------------------------------------------------------------

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from the previous ones. Subclasses define it.

        Returns
        -------
        list
            One per group. For the present rates, use :meth:`get_last_lr`.
        """
        raise NotImplementedError

    def get_last_lr(self) -> list[Scalar]:
        """The learning rates that this scheduler has set last.

        Returns
        -------
        list
            One per group; copies, of the types in the groups.
        """
        return [copied(lr) for lr in self._last_lr]

    @whole
    def step(self, epoch: int | None = None) -> None:
        """Advance to the next epoch. Call it after the optimizer's step.

        If it raises, for instance in a function of the user, schedule and learning
        rates do not change.

        Parameters
        ----------
        epoch : int, optional
            Deprecated: the epoch to jump to.

        Warns
        -----
        UserWarning
            If the optimizer has not stepped before the first call, or if `epoch` is given.
        """
        if self._step_count == 1:
            check_order(self.optimizer)
        self._step_count += 1
        if epoch is not None:
            epoch = number("epoch", epoch)
            warn(EPOCH_DEPRECATION_WARNING)
        self._update_lr(epoch)

    def _initial_step(self) -> None:
        """Set the learning rates of the first epoch."""
        self._step_count = 0
        with _initial_mode(self):
            self.step()

    def _update_lr(self, epoch: int | None = None) -> None:
        self._adopt_groups()
        compute = self.get_lr
        if epoch is None:
            epoch = self.last_epoch + 1
        else:
            compute = getattr(self, "_get_closed_form_lr", compute)
        self.last_epoch = epoch
        self._get_lr_called_within_step = True
        try:
            values = compute()
        finally:
            self._get_lr_called_within_step = False
        self._set_lrs(values)

    def _set_lrs(self, values: Iterable[Scalar]) -> None:
        groups = self.optimizer.param_groups
        name = type(self).__name__
        try:
            values = list(values)
        except TypeError:
            raise TypeError(
                f"get_lr() of {name} returned {values!r}, expected a list of {len(groups)} "
                "learning rates, one for each parameter group"
            ) from None
        if len(values) != len(groups):
            raise ValueError(
                f"{name} has {len(values)} learning rates for {len(groups)} parameter groups"
            )
        for i, (group, value) in enumerate(zip(groups, values, strict=True)):
            try:
                set_value(group, "lr", value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}, parameter group {i}: {error}") from error
        self._last_lr = group_values(self.optimizer, "lr")

    def _adopt_groups(self) -> None:
        """Include groups that were added since the last step."""
        known = len(self.base_lrs)
        if known < len(self.optimizer.param_groups):
            check_rates(self.optimizer)
        for group in self.optimizer.param_groups[known:]:
            first = copied(group.setdefault("initial_lr", copied(group["lr"])))
            self.base_lrs = [*self.base_lrs, first]  # a loaded state may have a tuple

    # --- how it shows itself ----------------------------------------------------------------------

    def _shown(self) -> dict[str, Any]:
        """Its arguments, and where it is."""
        shown = arguments_of(self, "optimizer", "last_epoch")
        if hasattr(self, "_schedulers"):
            shown["schedulers"] = self._schedulers
        if hasattr(self, "last_epoch"):
            shown["last_epoch"] = self.last_epoch
        rates = [float(lr) for lr in getattr(self, "_last_lr", ())]  # none during construction
        shown["lr"] = rates[0] if len(rates) == 1 else rates
        return shown

    def __repr__(self) -> str:
        return call(type(self).__name__, self._shown())

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._shown())

    # --- as a part of another schedule ------------------------------------------------------------

    def _parts(self) -> Iterator[LRScheduler]:
        """The schedule itself, and all schedules that it steps."""
        yield self

    def _start_lrs(self) -> list[Scalar]:
        """The learning rates of the optimizer before this schedule changes them."""
        return self.base_lrs

    def _rewind(self) -> None:
        """Reset to before the first epoch, without changing the learning rates."""
        self.last_epoch = -1

    def _take_over(self) -> None:
        """Begin at epoch 0, at the end of another schedule."""
        self._update_lr(0)

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """Everything but the optimizer, in torch's form.

        Returns
        -------
        dict
            JSON can store it; arrays and tensors of one element become Python numbers. Of
            users' functions, it contains only the attributes of callable objects.
        """
        return plain_state(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict`, here or in torch, has returned.

        The optimizer does not change: to restore its learning rates, load its state, too, after
        the construction of its schedulers.

        Parameters
        ----------
        state_dict : dict
            The state; copied. Functions in it, as saved by torch before 2.1, are ignored.

        Raises
        ------
        TypeError, ValueError
            If it is the state of another schedule, or an entry is invalid for this schedule.
            Then nothing changes.
        """
        commit = Commit()
        self._prepare_load(state_dict, commit)
        commit.run()

    def _prepare_load(self, state_dict: Mapping[str, Any], commit: Commit) -> None:
        """Check a state; `commit` will apply it."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"state_dict must be a dict, as state_dict() returns, got {type_name(state_dict)}; "
                "for a file write cyoptim.load(path, scheduler=scheduler)"
            )
        state = plain_state(self._modern(dict(state_dict)))
        check_marks(state, self)
        for name, value in state.items():
            check_entry(name, value, self)
        self._load(state, commit)

    def _modern(self, state: StateDict) -> StateDict:
        """Convert a state of an older version of torch; `state` may be changed."""
        return state

    def _load(self, state: StateDict, commit: Commit) -> None:
        commit.update(vars(self), state)

    # --- looking ahead ----------------------------------------------------------------------------

    def preview(self, n: int) -> list[float] | list[list[float]]:
        """The learning rates that the next `n` calls of :meth:`step` will set.

        Neither the scheduler nor the optimizer changes. Other schedulers of the same optimizer are
        ignored.

        Parameters
        ----------
        n : int
            The number of steps, >= 0.

        Returns
        -------
        list
            One learning rate per step, or a list of rates if the optimizer has several groups.

        Raises
        ------
        ValueError
            If `n` is negative, or the schedule ends earlier.
        """
        shadow = self._shadow()
        return _collect(shadow.optimizer, [shadow.step] * check_count("n", n))

    def _shadow(self: Self) -> Self:
        """A copy for an optimizer without parameters."""
        stand_in: Any = _StandIn(self.optimizer)
        return copy.deepcopy(self, {id(self.optimizer): stand_in})


class _LRScheduler(LRScheduler):
    """The base class under its name in torch 1."""


class _StandIn:
    """An optimizer's groups without their parameters, for previews."""

    _opt_called = True

    def __init__(self, optimizer: Optimizer) -> None:
        self.defaults = optimizer.defaults
        self.param_groups = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]

    def step(self) -> None:
        """Do nothing: there are no parameters."""


def _collect(
    optimizer: Optimizer, steps: list[Callable[[], None]]
) -> list[float] | list[list[float]]:
    rows = []
    for step in steps:
        step()
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
    return [row[0] for row in rows] if len(optimizer.param_groups) == 1 else rows
